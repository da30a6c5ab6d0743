"""Documents that are the same but for case, spaces or punctuation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from glassbox.data.curation.shingles import word_hashes
from glassbox.data.curation.step import CorpusStep, Dropped, Record, StepSpec

Ignore = Literal["nothing", "spaces", "punctuation"]


class ExactSpec(StepSpec):
    """Drop documents whose text came before."""

    kind: Literal["exact_duplicates"] = "exact_duplicates"
    ignore: Ignore = Field(
        "spaces",
        description="differences to ignore: nothing; spaces (also case); punctuation (only words "
        "count)",
    )

    def build(self) -> CorpusStep:
        """Build the step."""
        return ExactDuplicates(self.ignore)


@dataclass(frozen=True)
class ExactDuplicates:
    """The step of an ExactSpec. A signature is 16 bytes; `decide` holds about 200 bytes a document."""

    ignore: Ignore = "spaces"

    def signature(self, record: Record) -> bytes:
        """A 128-bit hash of what counts of the text."""
        return hashlib.blake2b(counted(record.text, self.ignore), digest_size=16).digest()

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped]:
        """Drop all records but the first of each group of equal ones."""
        first: dict[bytes, str] = {}
        dropped: dict[str, Dropped] = {}
        for record_id, signature in signatures:
            known = first.setdefault(signature, record_id)
            if known != record_id:
                dropped[record_id] = Dropped("exact duplicate", f"same as {known}")
        return dropped


def counted(text: str, ignore: Ignore) -> bytes:
    """What counts of a text when it is compared.

    >>> counted("One  TWO\\n", "spaces")
    b'one two'
    """
    if ignore == "punctuation":
        words = word_hashes(text)
        if len(words):  # "!!!" and "???" have no words and are not the same
            return b"words " + words.tobytes()
    if ignore != "nothing":
        text = " ".join(text.casefold().split())
    return text.encode("utf-8", "surrogatepass")
