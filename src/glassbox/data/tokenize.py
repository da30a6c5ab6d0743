"""Parallel tokenization that preserves document order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glassbox.core.workers import run_tasks
from glassbox.tokenizers import Tokenizer

BATCH_CHARACTERS = 1 << 20
Ids = NDArray[np.uint32]


@dataclass(frozen=True)
class Batch:
    """Neighbouring documents; number counts batches from 0."""

    number: int
    texts: list[str]

    def __str__(self) -> str:
        return f"batch {self.number} of documents"


@dataclass(frozen=True)
class Encode:
    """The function that a worker applies to a batch."""

    tokenizer: Tokenizer

    def __call__(self, batch: Batch) -> list[Ids]:
        """The ids of each document."""
        return [np.asarray(ids, np.uint32) for ids in self.tokenizer.encode_batch(batch.texts)]


def batches(documents: Iterable[str], size: int = BATCH_CHARACTERS) -> Iterator[Batch]:
    """Neighbouring documents of about `size` characters together."""
    held: list[str] = []
    length, number = 0, 0
    for text in documents:
        held.append(text)
        length += len(text)
        if length >= size:
            yield Batch(number, held)
            held, length, number = [], 0, number + 1
    if held:
        yield Batch(number, held)


def encode_in_order(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    *,
    workers: int = 1,
    progress: Callable[[int], None] = lambda characters: None,
) -> Iterator[Ids]:
    """The ids of each document, in the documents' order, whatever the number of workers.

    Memory holds a batch a worker, and those that were done before an earlier one. progress: characters
    done so far.
    Raises UserError as `encode` does, and for a worker that died.
    """
    waiting: dict[int, list[Ids]] = {}
    expected = characters = 0
    for batch, encoded in run_tasks(Encode(tokenizer), batches(documents), workers):
        waiting[batch.number] = encoded
        characters += sum(map(len, batch.texts))
        progress(characters)
        while expected in waiting:
            yield from waiting.pop(expected)
            expected += 1
