"""What a curation step is: documents in, documents out, every drop with a reason.

Two kinds nearly suffice. A `RecordStep` looks at one record at a time and runs in any number of processes.
A `CorpusStep` needs to know the other records (deduplication): it makes a small signature of each
record, in those processes, and then decides over all signatures, in one process and in the order of
the corpus, so that the outcome does not depend on how many workers there were. A `RevisingStep` is one that changes
records by what it decided (lines that many documents share) instead of only dropping them.
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
    """One document on its way.

    id: where it came from, unique and stable: "FOLDER/FILE:NUMBER", counted from 1.
    metadata: JSON values beside the text: what the source had, and what steps found out.

    >>> Record(" one\\n\\n two ", "a:1").lines
    ['one', 'two']
    """

    text: str
    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def words(self) -> list[str]:
        """What stands between white space; made once for all steps that leave the text as it is."""
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
    """A step that knows one record at a time. Pickled once for each worker; holds no open files."""

    def __call__(self, record: Record) -> Record | Dropped | Sequence[Record]:
        """The record as it goes on (changed or not), a refusal, or several records (chunking)."""


@runtime_checkable
class Prepares(Protocol):
    """A RecordStep that opens something large, such as a model, before its first record."""

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

    What `decide` gives an id, bytes of its own making, comes back to `revise` in a worker.
    """

    def signature(self, record: Record) -> bytes:
        """As a CorpusStep's."""

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped | bytes]:
        """The ids to drop, and those to revise, with what `revise` needs to know."""

    def revise(self, record: Record, note: bytes) -> Record | Dropped:
        """The record changed, or refused since nothing of it is left."""


@runtime_checkable
class SignsMany(Protocol):
    """A CorpusStep or RevisingStep that signs many records in less time than each by itself."""

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
        """What a setting names outside of the recipe, with a digest of what it holds.

        A run that is gone on with has to find the same. Raises UserError for what is not there.
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
