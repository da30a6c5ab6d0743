"""Lines that many documents share: menus, notices, "read more". They are taken out of each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from pydantic import Field

from glassbox.data.curation.cleaning import has_single_spaces
from glassbox.data.curation.step import Dropped, Record, RevisingStep, StepSpec

Hashes = npt.NDArray[np.uint64]

_BUCKETS = 1 << 22
_DIGITS = re.compile(r"\d+")


class BoilerplateSpec(StepSpec):
    """Take out lines that many documents have, each document counted once."""

    kind: Literal["boilerplate_lines"] = "boilerplate_lines"
    min_documents: int = Field(
        10, ge=2, description="minimum number of documents that share a line"
    )
    min_characters: int = Field(8, ge=1, description="minimum length of a line, in characters")
    group: Literal["all", "site"] = Field(
        "all", description="site: counted separately for each host, from the key `url`"
    )

    def build(self) -> RevisingStep:
        """Build the step."""
        return BoilerplateLines(self.min_documents, self.min_characters, self.group)


@dataclass(frozen=True)
class BoilerplateLines:
    """The step of a BoilerplateSpec.

    A signature holds eight bytes a line; `decide` holds 16 MiB of counters and the lines that a
    counter finds often enough, so its memory does not grow with lines that are unique.
    """

    min_documents: int = 10
    min_characters: int = 8
    group: Literal["all", "site"] = "all"

    def signature(self, record: Record) -> bytes:
        """A 64-bit hash of each line; 0 for lines that are not counted."""
        host = site(record) if self.group == "site" else ""
        # case and numbers of all lines at once: neither looks across a line's end
        text = _DIGITS.sub("0", record.text.casefold())
        if has_single_spaces(text):
            keys = [line.strip(" ") for line in text.split("\n")]
        else:
            keys = [" ".join(line.split()) for line in text.split("\n")]
        return np.array([self._hash(key, host) for key in keys], "<u8").tobytes()

    def _hash(self, key: str, host: str) -> int:
        if len(key) < self.min_characters:
            return 0
        content = f"{host}\n{key}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped | bytes]:
        """For each id the numbers of the lines to take out."""
        counters = np.zeros(_BUCKETS, np.uint32)
        for _, signature in signatures:
            counters[np.unique(_counted(signature) % _BUCKETS)] += 1
        documents: dict[int, int] = {}
        for _, signature in signatures:
            lines = np.unique(_counted(signature))
            for line in lines[counters[lines % _BUCKETS] >= self.min_documents].tolist():
                documents[line] = documents.get(line, 0) + 1
        repeated = np.array(
            sorted(line for line, count in documents.items() if count >= self.min_documents),
            np.uint64,
        )
        notes: dict[str, Dropped | bytes] = {}
        for record_id, signature in signatures:
            numbers = np.flatnonzero(np.isin(np.frombuffer(signature, "<u8"), repeated))
            if len(numbers):
                notes[record_id] = numbers.astype("<u4").tobytes()
        return notes

    def revise(self, record: Record, note: bytes) -> Record | Dropped:
        """The record without the lines that the note numbers."""
        out = set(np.frombuffer(note, "<u4").tolist())
        lines = record.text.split("\n")
        text = "\n".join(line for i, line in enumerate(lines) if i not in out).strip("\n")
        if not text or text.isspace():
            return Dropped(
                "nothing but boilerplate",
                f"{len(out)} of {len(lines)} lines shared by {self.min_documents} documents or more",
            )
        return replace(record, text=text)


def _counted(signature: bytes) -> Hashes:
    hashes: Hashes = np.frombuffer(signature, "<u8").astype(np.uint64)
    return hashes[hashes != 0]


def canonical_line(line: str) -> str:
    """A line as it is compared: without case, numbers and white space around.

    >>> canonical_line("  Page 3 of 12 ")
    'page 0 of 0'
    """
    return _DIGITS.sub("0", " ".join(line.split()).casefold())


def site(record: Record) -> str:
    """The host of a record's `url`, without `www.`; empty where there is none."""
    url = record.metadata.get("url")
    if not isinstance(url, str):
        return ""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    return host.removeprefix("www.")
