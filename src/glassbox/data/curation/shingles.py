"""A document as a set of hashed shingles: n neighbouring words, or characters.

A word is a run of letters, marks, numbers and `_`, caseless; an ideograph or a kana letter is a word of
its own, since Chinese and Japanese put no spaces. The plain functions say what is meant; the fast ones
give the same hashes from a few NumPy operations on all characters of a text at once.

All arithmetic is that of whole numbers modulo 2^64, which is what uint64 does: nothing is lost by it.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]

SEPARATOR, LETTER, IDEOGRAPH = 0, 1, 2

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_BASE = 0xD6E8FEB86659FD93
_FIRST_TABLE = 1 << 12
_BLOCK = 1 << 15


def kind_of(character: str) -> int:
    """SEPARATOR, LETTER or IDEOGRAPH.

    >>> [kind_of(c) for c in "a, 好"]
    [1, 0, 0, 2]
    """
    code = ord(character)
    if 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF:
        return IDEOGRAPH if unicodedata.category(character)[0] == "L" else SEPARATOR
    if 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x323AF:
        return IDEOGRAPH
    return LETTER if character == "_" or unicodedata.category(character)[0] in "LMN" else SEPARATOR


def plain_words(text: str) -> list[str]:
    """The words of a text.

    >>> plain_words("The cat's 3 hats: 好猫")
    ['the', 'cat', 's', '3', 'hats', '好', '猫']
    """
    words: list[str] = []
    before = SEPARATOR
    for character in text.casefold():
        kind = kind_of(character)
        if kind == LETTER and before == LETTER:
            words[-1] += character
        elif kind != SEPARATOR:
            words.append(character)
        before = kind
    return words


def plain_mix(value: int) -> int:
    """A permutation of the numbers below 2^64 in which each bit depends on all. Source: SplitMix64."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def plain_word_hash(word: str) -> int:
    """The sum over j of (c_j + 1) B^j modulo 2^64, with the characters' codes c and an odd B."""
    return sum((ord(c) + 1) * pow(_BASE, j, 1 << 64) for j, c in enumerate(word)) & _MASK


def plain_shingles(units: list[str], size: int) -> list[int]:
    """The hash of every `size` neighbouring units; of all of them where there are fewer; in order.

    mix(sum over k of s_k h_k), with the units' hashes h and odd numbers s.
    """
    hashes = [plain_word_hash(unit) for unit in units]
    size = min(size, len(hashes))
    if not size:
        return []
    steps = [plain_mix(_STEP * (k + 1) & _MASK) | 1 for k in range(size)]
    return [
        plain_mix(sum(h * s for h, s in zip(hashes[i : i + size], steps, strict=True)) & _MASK)
        for i in range(len(hashes) - size + 1)
    ]


def codes_of(text: str) -> tuple[Codes | npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The code points of a text without case, and the kind of each."""
    if text.isascii():
        letters = np.frombuffer(text.lower().encode("ascii"), np.uint8)
        return letters, _kinds(_FIRST_TABLE)[letters]
    codes = np.frombuffer(text.casefold().encode("utf-32-le", "surrogatepass"), "<u4")
    whole = _FIRST_TABLE if codes.max() < _FIRST_TABLE else sys.maxunicode + 1
    return codes, _kinds(whole)[codes]


@lru_cache(maxsize=2)
def _kinds(size: int) -> npt.NDArray[np.uint8]:
    """The kinds of the first `size` characters. All of them take a fifth of a second, once."""
    return np.fromiter((kind_of(chr(code)) for code in range(size)), np.uint8, size)


def word_starts(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Where words begin."""
    begins = kinds != SEPARATOR
    begins[1:] &= (kinds[:-1] != LETTER) | (kinds[1:] == IDEOGRAPH)
    return np.flatnonzero(begins)


def word_hashes(text: str) -> Hashes:
    """`plain_word_hash` of every word of a text, in order. Tested against: the plain version."""
    if not text:
        return np.zeros(0, np.uint64)
    codes, kinds = codes_of(text)
    starts = word_starts(kinds)
    if not len(starts):
        return np.zeros(0, np.uint64)
    if len(codes) <= _BLOCK:
        return _word_sums(codes, kinds, starts, len(codes))
    # blocks bound the tables of powers; a block holds whole words
    cuts = np.searchsorted(starts, np.arange(starts[0], len(codes), _BLOCK)[1:])
    edges = [0, *np.unique(cuts[(cuts > 0) & (cuts < len(starts))]).tolist(), len(starts)]
    ends = [*starts[edges[1:-1]].tolist(), len(codes)]
    sums = [
        _word_sums(codes, kinds, starts[low:high], end)
        for low, high, end in zip(edges[:-1], edges[1:], ends, strict=True)
    ]
    return np.concatenate(sums)


def _word_sums(
    codes: npt.NDArray[Any], kinds: npt.NDArray[np.uint8], starts: npt.NDArray[np.intp], end: int
) -> Hashes:
    """The sums of words that lie from the first of `starts` to `end`.

    With powers of the place in the block; that of a word's start is then divided out, which is
    possible since an odd base has an inverse modulo 2^64.
    """
    first = int(starts[0])
    powers, inverses = _powers(1 << (end - first - 1).bit_length())
    values = codes[first:end].astype(np.uint64)
    values += np.uint64(1)
    values *= kinds[first:end] != SEPARATOR
    values *= powers[: end - first]
    starts = starts - first
    sums: Hashes = np.add.reduceat(values, starts)
    sums *= inverses[starts]
    return sums


def character_hashes(text: str) -> Hashes:
    """The hash of every letter and mark of a text as if it were a word, separators left out."""
    if not text:
        return np.zeros(0, np.uint64)
    codes, kinds = codes_of(text)
    hashes: Hashes = codes[kinds != SEPARATOR].astype(np.uint64) + np.uint64(1)
    return hashes


@lru_cache(maxsize=32)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """B^i and B^-i for i below `count`."""
    both = np.empty((2, count), np.uint64)
    both[0], both[1] = _BASE, pow(_BASE, -1, 1 << 64)
    both[:, 0] = 1
    np.multiply.accumulate(both, axis=1, out=both)
    return both[0], both[1]


@lru_cache(maxsize=64)
def _steps(size: int) -> list[np.uint64]:
    return [np.uint64(plain_mix(_STEP * (k + 1) & _MASK) | 1) for k in range(size)]


def mix(values: Hashes) -> Hashes:
    """`plain_mix` of every value, in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def shingle_hashes(units: Hashes, size: int) -> Hashes:
    """The hash of every `size` neighbouring units, in order; fewer units are one shingle.

    Two shingles that differ get the same hash with a chance of about 2^-64.
    Tested against: `plain_shingles`.
    """
    size = min(size, len(units))
    if not size:
        return np.zeros(0, np.uint64)
    count = len(units) - size + 1
    total = np.zeros(count, np.uint64)
    for k, step in enumerate(_steps(size)):
        total += units[k : k + count] * step
    return mix(total)


def shingle_set(text: str, size: int, unit: str) -> Hashes:
    """The sorted hashes of all shingles of a text, each once. unit: "words" or "characters"."""
    units = word_hashes(text) if unit == "words" else character_hashes(text)
    hashes = shingle_hashes(units, size)
    hashes.sort()
    if len(hashes) < 2:
        return hashes
    fresh = np.empty(len(hashes), bool)
    fresh[0] = True
    np.not_equal(hashes[1:], hashes[:-1], out=fresh[1:])
    return hashes[fresh]


def words(text: str) -> list[str]:
    """`plain_words`, by slices. Tested against: the plain version."""
    if not text:
        return []
    folded = text.casefold()
    _, kinds = codes_of(text)
    starts = word_starts(kinds)
    inside = kinds != SEPARATOR
    # a word ends before a separator and where another one begins
    closes = np.empty(len(kinds), bool)
    closes[:-1] = ~inside[1:]
    closes[-1] = True
    closes[starts[starts > 0] - 1] = True
    ends = np.flatnonzero(closes & inside) + 1
    return [folded[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
