"""Line deduplication: removes lines that occurred before from all documents but the first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from glassbox.data.curation.boilerplate import canonical_line
from glassbox.data.curation.step import Dropped, Record, RevisingStep, StepSpec

_BUCKETS = 1 << 24


class LineDuplicatesSpec(StepSpec):
    """Remove lines that occurred before, in an earlier document or the same one."""

    kind: Literal["line_duplicates"] = "line_duplicates"
    min_characters: int = Field(20, ge=1, description="minimum length of a line, in characters")
    form: Literal["exact", "canonical"] = Field(
        "exact", description=
            "exact: equal after stripping white space; canonical: ignoring case and numbers "
            "as well",
    )  # fmt: skip

    def build(self) -> RevisingStep:
        """Build the step."""
        return LineDuplicates(self.min_characters, self.form)


@dataclass(frozen=True)
class LineDuplicates:
    """The step of a LineDuplicatesSpec.

    A signature holds eight bytes a line; `decide` holds 16 MiB of counters and the lines that a counter
    finds twice, so its memory does not grow with lines that are unique. Two lines count as the same by
    64 bits of BLAKE2. Source: CCNet's paragraph deduplication (arXiv:1911.00359, section 3.1).
    Tested against: a set of the lines themselves.
    """

    min_characters: int = 20
    form: Literal["exact", "canonical"] = "exact"

    def signature(self, record: Record) -> bytes:
        """A 64-bit hash of each line; 0 for lines that are not looked at."""
        return np.array([self._hash(line) for line in record.text.split("\n")], "<u8").tobytes()

    def _hash(self, line: str) -> int:
        key = line.strip() if self.form == "exact" else canonical_line(line)
        if len(key) < self.min_characters:
            return 0
        content = key.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped | bytes]:
        """For each id the numbers of the lines to take out."""
        counters = np.zeros(_BUCKETS, np.uint8)
        for _, signature in signatures:
            hashes = np.frombuffer(signature, "<u8")
            places, counts = np.unique(hashes[hashes != 0] % _BUCKETS, return_counts=True)
            counters[places] = np.minimum(2, counters[places] + np.minimum(counts, 2))
        seen: set[int] = set()
        notes: dict[str, Dropped | bytes] = {}
        for record_id, signature in signatures:
            hashes = np.frombuffer(signature, "<u8")
            out = []
            for number in np.flatnonzero(
                (hashes != 0) & (counters[hashes % _BUCKETS] > 1)
            ).tolist():
                line = int(hashes[number])
                if line in seen:
                    out.append(number)
                seen.add(line)
            if out:
                notes[record_id] = np.array(out, "<u4").tobytes()
        return notes

    def revise(self, record: Record, note: bytes) -> Record | Dropped:
        """The record without the lines that the note numbers."""
        out = set(np.frombuffer(note, "<u4").tolist())
        lines = record.text.split("\n")
        text = "\n".join(line for i, line in enumerate(lines) if i not in out).strip("\n")
        if not text or text.isspace():
            return Dropped("every line came before", f"{len(out)} of {len(lines)} lines")
        return replace(record, text=text)
