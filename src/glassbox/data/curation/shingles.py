"""A document as a set of hashed shingles: n neighbouring words, or characters.

A word is a run of letters, marks, numbers and `_`, caseless; an ideograph or a kana letter is a word of
its own, since Chinese and Japanese put no spaces. The plain functions say what is meant; the fast ones
give the same hashes from a few NumPy operations on all characters of a text at once.

All arithmetic is that of whole numbers modulo 2^64, which is what uint64 does: nothing is lost by it.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Packed = npt.NDArray[np.uint32]
Kinds = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

SEPARATOR, LETTER, IDEOGRAPH, SEVERAL = 0, 1, 2, 3

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_BASE = 0xD6E8FEB86659FD93
_FIRST_TABLE = 0x3000  # all below kana and ideographs: a table that the nearest cache holds
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


def _packed(text: str) -> Packed:
    """4 (c + 1) + kind of each character of a text without case, c its code; 0 of a separator.

    SEVERAL where a character without case is several: they have to be told apart beforehand.
    """
    raw: npt.NDArray[np.uint8] | Packed
    if text.isascii():
        raw = np.frombuffer(text.encode("ascii"), np.uint8)
    else:
        raw = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return _table(_FIRST_TABLE if raw.max() < _FIRST_TABLE else sys.maxunicode + 1).take(raw)


@lru_cache(maxsize=2)
def _table(size: int) -> Packed:
    """What `_packed` says of the first `size` characters, once; in the planes left out is no character."""
    table = np.zeros(size, np.uint32)
    for low, high in ((0, 0x40000), (0xE0000, 0xF0000)):
        codes = range(low, min(high, size))
        table[low : low + len(codes)] = np.fromiter(
            map(_packed_character, map(chr, codes)), np.uint32
        )
    return table


def _packed_character(character: str) -> int:
    folded = character.casefold()
    if len(folded) > 1:
        return SEVERAL
    kind = kind_of(folded)
    return 0 if kind == SEPARATOR else 4 * (ord(folded) + 1) + kind


def word_starts(kinds: Kinds) -> npt.NDArray[np.intp]:
    """Where words begin."""
    begins = kinds != SEPARATOR
    begins[1:] &= (kinds[:-1] != LETTER) | (kinds[1:] == IDEOGRAPH)
    return np.flatnonzero(begins)


def units_of(texts: Sequence[str], unit: str) -> tuple[Hashes, Places]:
    """The hashes of the units of texts, end to end, and where those of each begin; behind, the end.

    unit: "words", or "characters", each letter and mark as if it were a word. All characters of all
    texts go through one array, so that a short text costs no more than its length.
    Tested against: `plain_words` and `plain_word_hash`.
    """
    packed, begins = _joined(texts)
    if len(several := np.flatnonzero(packed == SEVERAL)):
        texts = list(texts)
        for place in np.unique(np.searchsorted(begins, several, "right") - 1).tolist():
            texts[place] = texts[place].casefold()
        packed, begins = _joined(texts)
    kinds = (packed & 3).astype(np.uint8)
    if unit == "words":
        starts = word_starts(kinds)
        return _word_hashes(packed, starts), np.searchsorted(starts, begins)
    inside = np.flatnonzero(kinds)
    return (packed[inside] >> 2).astype(np.uint64), np.searchsorted(inside, begins)


def _joined(texts: Sequence[str]) -> tuple[Packed, Places]:
    """The characters of texts, a separator behind each, and where each text begins."""
    packed = _packed("".join([text + "\n" for text in texts]) or "\n")
    return packed, _edges([len(text) + 1 for text in texts])


def word_hashes(text: str) -> Hashes:
    """`plain_word_hash` of every word of a text, in order. Tested against: the plain version."""
    return units_of([text], "words")[0]


def character_hashes(text: str) -> Hashes:
    """The hash of every letter and mark of a text as if it were a word, separators left out."""
    return units_of([text], "characters")[0]


def _word_hashes(packed: Packed, starts: npt.NDArray[np.intp]) -> Hashes:
    """The hashes of the words that begin at `starts`. Blocks of whole words bound the tables."""
    if not len(starts):
        return np.zeros(0, np.uint64)
    cuts = np.searchsorted(starts, np.arange(starts[0], len(packed), _BLOCK)[1:])
    edges = [0, *np.unique(cuts[(cuts > 0) & (cuts < len(starts))]).tolist(), len(starts)]
    ends = [*starts[edges[1:-1]].tolist(), len(packed)]
    sums = [
        _word_sums(packed, starts[low:high], end)
        for (low, high), end in zip(pairwise(edges), ends, strict=True)
    ]
    return np.concatenate(sums)


def _word_sums(packed: Packed, starts: npt.NDArray[np.intp], end: int) -> Hashes:
    """The sums of words that lie from the first of `starts` to `end`.

    With powers of the place in the block, as differences of one running sum; the power of a word's
    start is then divided out, which is possible since an odd base has an inverse modulo 2^64.
    """
    first = int(starts[0])
    powers, inverses = _powers(1 << (end - first - 1).bit_length())
    running = (packed[first:end] >> 2).astype(np.uint64)
    running *= powers[: end - first]
    np.cumsum(running, out=running)
    starts = starts - first
    sums = np.empty(len(starts), np.uint64)
    sums[:-1] = running[starts[1:] - 1]
    sums[-1] = running[-1]
    sums[1:] -= sums[:-1].copy()
    sums *= inverses[starts]
    return sums


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


def shingle_sets(texts: Sequence[str], size: int, unit: str) -> tuple[Hashes, Places]:
    """The sorted hashes of all shingles of each text, each once, end to end; where each set begins.

    unit: "words" or "characters". Behind the places comes the end of the last set.
    Tested against: `plain_shingles`.
    """
    units, begins = units_of(texts, unit)
    counts = np.diff(begins)
    padded = np.concatenate([units, np.zeros(size - 1, np.uint64)])
    total = np.zeros(len(units), np.uint64)
    for k, step in enumerate(_steps(size)):
        total += padded[k : k + len(units)] * step
    # the last size - 1 units of a text begin no shingle, but of fewer units all make one
    whole = np.ones(len(units), bool)
    filled, ends = begins[:-1][counts > 0], begins[1:][counts > 0]
    for k in range(1, size):
        whole[np.maximum(ends - k, filled)] = False
    whole[filled] = True
    for i in np.flatnonzero(ends - filled < size).tolist():
        low, high = int(filled[i]), int(ends[i])
        total[low] = (units[low:high] * np.array(_steps(size)[: high - low])).sum()
    hashes = mix(total[whole])
    edges = _edges(whole)[begins]
    for low, high in pairwise(edges.tolist()):
        hashes[low:high].sort()
    fresh = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=fresh[1:])
    fresh[edges[:-1][counts > 0]] = True
    return hashes[fresh], _edges(fresh)[edges]


def _edges(counts: Sequence[int] | npt.NDArray[np.bool_]) -> Places:
    """Sums of what comes before, behind them the sum of all."""
    edges = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=edges[1:])
    return edges


def shingle_set(text: str, size: int, unit: str) -> Hashes:
    """The sorted hashes of all shingles of a text, each once. unit: "words" or "characters"."""
    return shingle_sets([text], size, unit)[0]


def words(text: str) -> list[str]:
    """`plain_words`, by slices. Tested against: the plain version."""
    if not text:
        return []
    folded = text.casefold()
    kinds = (_packed(folded) & 3).astype(np.uint8)
    starts = word_starts(kinds)
    inside = kinds != SEPARATOR
    # a word ends before a separator and where another one begins
    closes = np.empty(len(kinds), bool)
    closes[:-1] = ~inside[1:]
    closes[-1] = True
    closes[starts[starts > 0] - 1] = True
    ends = np.flatnonzero(closes & inside) + 1
    return [folded[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
