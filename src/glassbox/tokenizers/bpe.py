"""Byte-pair encoding, applied: join the pair that was learned first, until none is left.

`encode_word_plain` is that sentence. `encode_word` gives the same ids: short words the same way with
less bookkeeping, long ones with a linked list and a heap in O(n log n), so that a megabyte without
a space takes seconds and not days.

Source: Sennrich et al., 2016 (arXiv:1508.07909). Tested against: each other, `tokenizers`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

from glassbox.core.errors import UserError
from glassbox.tokenizers.bytelevel import BYTE_TO_CHAR, to_bytes, to_chars, utf8

_NEVER = 1 << 62
_PRINTABLE = range(0x20, 0x7F)
_Find = Callable[[tuple[int, int], int], int]
_SHORT = 48  # symbols; up to here a plain scan beats the heap


class BytePairModel:
    """A vocabulary and its merges, both written in the printable byte alphabet.

    vocab:         token -> id; has the bytes of printable ASCII, and should have all 256. A byte that
                   it lacks (SmolLM2's lacks 21: control characters, and bytes that UTF-8 has no or
                   little use for) is left out of what is encoded, as in `tokenizers` and llama.cpp.
    merges:        pairs of tokens in the order learned; each joined pair is in `vocab`.
    ignore_merges: a word that is itself a token is that token, whatever the merges say (Llama 3).
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        ignore_merges: bool = False,
    ) -> None:
        self.vocab = dict(vocab)
        self.merges = list(merges)
        self.ignore_merges = ignore_merges
        missing = [byte for byte, char in enumerate(BYTE_TO_CHAR) if char not in self.vocab]
        if any(byte in _PRINTABLE for byte in missing):
            raise UserError(
                f"the vocabulary lacks {len(missing)} of the 256 bytes, first byte {missing[0]}"
                f" ({BYTE_TO_CHAR[missing[0]]!r}); it is not a byte-level vocabulary"
            )
        self.byte_ids = [self.vocab.get(char, -1) for char in BYTE_TO_CHAR]
        self.lacks_bytes = bool(missing)
        self.tokens = {number: to_bytes(token) for token, number in self.vocab.items()}
        if len(self.tokens) != len(self.vocab):
            raise UserError("two tokens of the vocabulary have the same id; each needs its own")
        self.ranks: dict[tuple[int, int], int] = {}
        self.joined: list[int] = []  # by rank
        for rank, (left, right) in enumerate(self.merges):
            for token in (left, right, left + right):
                if token not in self.vocab:
                    raise UserError(
                        f"merges[{rank}] = {left!r} {right!r}: {token!r} is not in the vocabulary"
                    )
            pair = self.vocab[left], self.vocab[right]
            self.ranks[pair] = rank
            self.joined.append(self.vocab[left + right])

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.vocab, self.merges, self.ignore_merges)

    def encode_word_plain(self, word: bytes) -> list[int]:
        """Ids of one word: among the pairs present, join the leftmost of lowest rank, and repeat."""
        if self.ignore_merges and (whole := self.vocab.get(to_chars(word))) is not None:
            return [whole]
        ids = self._from_bytes(word)
        while True:
            found = [(self.ranks[p], i) for i, p in enumerate(pairwise(ids)) if p in self.ranks]
            if not found:
                return ids
            rank, i = min(found)
            ids[i : i + 2] = [self.joined[rank]]

    def encode_word(self, word: bytes) -> list[int]:
        """`encode_word_plain`, fast."""
        if self.ignore_merges and (whole := self.vocab.get(to_chars(word))) is not None:
            return [whole]
        ids = self._from_bytes(word)
        return merge_ids(ids, self.ranks, self.joined)

    def _from_bytes(self, word: bytes) -> list[int]:
        ids = [self.byte_ids[byte] for byte in word]
        return [number for number in ids if number >= 0] if self.lacks_bytes else ids


def merge_ids(
    ids: list[int], ranks: Mapping[tuple[int, int], int], joined: Sequence[int]
) -> list[int]:
    """Ids after every merge: `ranks` by pair, what each rank makes in `joined`. Changes `ids`."""
    merge = _merge_short if len(ids) <= _SHORT else _merge_long
    return merge(ids, ranks.get, joined)


def _merge_short(ids: list[int], find: _Find, made: Sequence[int]) -> list[int]:
    # found[i] is the rank of ids[i] and ids[i + 1]; a join changes only its two neighbours
    found = [find(pair, _NEVER) for pair in pairwise(ids)]
    while found and (rank := min(found)) != _NEVER:
        i = found.index(rank)
        ids[i] = joined = made[rank]
        del ids[i + 1], found[i]
        if i > 0:
            found[i - 1] = find((ids[i - 1], joined), _NEVER)
        if i < len(found):
            found[i] = find((joined, ids[i + 1]), _NEVER)
    return ids


def _merge_long(ids: list[int], find: _Find, made: Sequence[int]) -> list[int]:
    end = len(ids)
    follow = list(range(1, end + 1))
    precede = list(range(-1, end - 1))
    heap = [(r, i) for i, pair in enumerate(pairwise(ids)) if (r := find(pair, _NEVER)) < _NEVER]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        j = follow[i]
        if j == end or ids[i] < 0 or find((ids[i], ids[j]), _NEVER) != rank:
            continue  # one of the two was joined to something else meanwhile
        joined = made[rank]
        ids[i], ids[j] = joined, -1
        k = follow[i] = follow[j]
        if k < end:
            precede[k] = i
            if (r := find((joined, ids[k]), _NEVER)) < _NEVER:
                heapq.heappush(heap, (r, i))
        if (h := precede[i]) >= 0 and (r := find((ids[h], joined), _NEVER)) < _NEVER:
            heapq.heappush(heap, (r, h))
    return [number for number in ids if number >= 0]


def _rebuild(
    vocab: dict[str, int], merges: list[tuple[str, str]], ignore_merges: bool
) -> BytePairModel:
    return BytePairModel(vocab, merges, ignore_merges=ignore_merges)


class WordModel(Protocol):
    """What a cache of words needs of a model."""

    def encode_word(self, word: bytes) -> list[int]:
        """Ids of one word."""
        ...


class WordCache(dict[str, tuple[int, ...]]):
    """The ids of words met before; asking for a new one encodes it.

    It holds at most `limit` words, none longer than `MAX_WORD_CHARS`, of `limit` * 16 characters
    and ids together, and starts afresh when full: a language's frequent words are back within one
    page, and a plain dict needs no bookkeeping at each hit. (Counted in words alone, random text, whose
    words are long and each of many ids, would fill ten times the memory.)
    """

    MAX_WORD_CHARS = 128

    def __init__(self, model: WordModel, limit: int = 1 << 18) -> None:
        super().__init__()
        self.model = model
        self.limit = limit
        self._size = 0

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self.model.encode_word(utf8(word)))
        if len(word) <= self.MAX_WORD_CHARS:
            self._size += len(word) + len(ids)
            if len(self) >= self.limit or self._size > 16 * self.limit:
                self.clear()
                self._size = len(word) + len(ids)
            self[word] = ids
        return ids
