"""Protocols of curation steps: documents in, documents out, every dropped document with a reason.

A `RecordStep` processes one record at a time, in any number of processes. A `CorpusStep` compares
records (deduplication): it computes a small signature of each record, in those processes, and then
decides over all signatures, in one process and in the order of the corpus, so that the result does
not depend on the number of workers. A `RevisingStep` also changes records by its decision (such as
removing lines that many documents share).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from glassbox.core.config import Spec
from glassbox.core.files import checksum


@dataclass(frozen=True)
class Record:
    """A document in curation.

    id: where it came from, unique and stable: "FOLDER/FILE:NUMBER", counted from 1.
    metadata: JSON values from the source and from steps.

    >>> Record(" one\\n\\n two ", "a:1").lines
    ['one', 'two']
    """

    text: str
    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def words(self) -> list[str]:
        """The words between white space, cached for all steps that do not change the text."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, without the white space around them."""
        return [stripped for line in self.text.split("\n") if (stripped := line.strip())]

    def __getstate__(self) -> dict[str, Any]:
        return {"text": self.text, "id": self.id, "metadata": self.metadata}


@dataclass(frozen=True)
class Dropped:
    """A record refused. `reason` is counted under the step's name; `detail` is for reading.

    reason: few words, the same for all records refused alike: "too few words".
    detail: what was measured: "31 words, at least 50 wanted".
    """

    reason: str
    detail: str = ""


@runtime_checkable
class RecordStep(Protocol):
    """A step on single records. It is pickled once for each worker and must not hold open files."""

    def __call__(self, record: Record) -> Record | Dropped | Sequence[Record]:
        """The record as it goes on (changed or not), a refusal, or several records (chunking)."""


@runtime_checkable
class Prepares(Protocol):
    """A RecordStep that loads something large, such as a model, before its first record."""

    def prepare(self) -> None:
        """Open it, unless it is open. Called in each process, outside of the time limit a record."""


@runtime_checkable
class CorpusStep(Protocol):
    """A step that compares records with one another."""

    def signature(self, record: Record) -> bytes:
        """What `decide` needs to know of a record, small; made in a worker."""

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped]:
        """The ids to drop, from (id, signature) of all records in the order of the corpus.

        Of records that are alike the first stays. `detail` names the id that stays. The signatures
        lie on disk and may be walked through more than once.
        """


@runtime_checkable
class RevisingStep(Protocol):
    """A step that compares records with one another and then changes some of them.

    The bytes that `decide` returns for an id are passed to `revise` in a worker.
    """

    def signature(self, record: Record) -> bytes:
        """As a CorpusStep's."""

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped | bytes]:
        """The ids to drop, and those to revise, with the bytes for `revise`."""

    def revise(self, record: Record, note: bytes) -> Record | Dropped:
        """The record changed, or refused since nothing of it is left."""


@runtime_checkable
class SignsMany(Protocol):
    """A CorpusStep or RevisingStep that computes signatures of many records faster than one by one."""

    def signatures(self, records: Sequence[Record]) -> list[bytes]:
        """The `signature` of each."""


class StepSpec(Spec):
    """A step as data: subclasses add `kind: Literal[...]` and settings, and build the step."""

    @property
    def counted_as(self) -> str:
        """The step's name in counts and reports: its kind."""
        return str(getattr(self, "kind", type(self).__name__))

    def build(self) -> RecordStep | CorpusStep | RevisingStep:
        """The step itself. Raises UserError for an extra that is not installed, naming it."""
        raise NotImplementedError

    def contents(self) -> dict[str, str]:
        """Files that a setting names, with their digests.

        A resumed run must find the same ones. Raises UserError for missing files.
        """
        return {}


def digest_of(path: Path) -> str:
    """The checksum of a file, or of the names and bytes of all files in a folder but hidden ones."""
    if path.is_file():
        return checksum(path)
    names = sorted(
        file.relative_to(path).as_posix() for file in path.rglob("[!.]*") if file.is_file()
    )
    whole = hashlib.blake2b(digest_size=16)
    for name in names:
        whole.update(f"{name}\0{checksum(path / name)}\n".encode("utf-8", "surrogatepass"))
    return f"{len(names)} files-{whole.hexdigest()}"
