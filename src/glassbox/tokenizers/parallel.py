"""Encoding many texts in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glassbox.tokenizers.added_tokens import AllowSpecial

_GROUP_CHARS = 1 << 20


class Encoder(Protocol):
    """A tokenizer that can be pickled."""

    def encode(self, text: str, *, allow_special: AllowSpecial = False) -> list[int]:
        """Ids of a text."""


Encoded = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def encode_in_processes(
    tokenizer: Encoder, texts: Sequence[str], allow_special: AllowSpecial, workers: int
) -> Iterator[list[int]]:
    """The ids of each text, in order. Workers start afresh: a fork of a process with threads may hang."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = [
            pool.submit(_encode_group, tokenizer, group, allow_special) for group in _groups(texts)
        ]
        for job in jobs:
            ids, lengths = job.result()
            for part in np.split(ids, np.cumsum(lengths)[:-1]):
                yield part.tolist()


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Runs of texts of about a megabyte, so that one message carries many."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= _GROUP_CHARS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _encode_group(tokenizer: Encoder, texts: list[str], allow_special: AllowSpecial) -> Encoded:
    encoded = [tokenizer.encode(text, allow_special=allow_special) for text in texts]
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    return np.concatenate([np.array(ids, np.int64) for ids in encoded]), lengths
