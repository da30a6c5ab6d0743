"""Sentencepiece's byte-pair encoding, applied: Llama 2, Mistral, Gemma, TinyLlamas.

Symbols begin as characters. Of the neighbours that together are a piece, those whose piece scores
best are joined, the leftmost first, until none is left; what is no piece then becomes its bytes.
Spaces belong to pieces (written `▁`), and most such vocabularies put one before each text.

Source: Kudo and Richardson, arXiv:1808.06226; the byte fallback as Llama's vocabulary has it.
Tested against: `tokenizers`, the same ids from the file that we write; `encode_word_plain`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import regex

from glassbox.core.errors import UserError

SPACE = "▁"
"""How a space is written within a piece."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of piece, by sentencepiece's numbers; GGUF has the same."""


def byte_piece(byte: int) -> str:
    """The piece of a byte.

    >>> byte_piece(10)
    '<0x0A>'
    """
    return f"<0x{byte:02X}>"


class SentencePieceModel:
    """Pieces and their scores.

    pieces: (id, piece, score): the ordinary ones, spaces written `▁`. byte_ids: the 256 bytes' ids.
    vocab:  piece -> id, bytes included. Raises UserError where a byte has no piece.
    """

    ignore_merges = False

    def __init__(self, pieces: Sequence[tuple[int, str, float]], byte_ids: Sequence[int]) -> None:
        self.pieces = list(pieces)
        self.byte_ids = list(byte_ids)
        if len(self.byte_ids) != 256:
            raise UserError(
                f"the vocabulary has pieces for {len(self.byte_ids)} bytes, not for all 256; "
                "one without them is not supported"
            )
        self.vocab = {piece: number for number, piece, _ in self.pieces}
        self.vocab |= {byte_piece(byte): number for byte, number in enumerate(self.byte_ids)}
        self.tokens = {number: _text(piece).encode() for number, piece, _ in self.pieces}
        self.tokens |= {number: bytes([byte]) for byte, number in enumerate(self.byte_ids)}
        if len(self.tokens) != len(self.pieces) + 256 or len(self.vocab) != len(self.tokens):
            raise UserError("two pieces of the vocabulary are the same; each needs its own")
        self._known = {_text(piece): (-score, number) for number, piece, score in self.pieces}

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The same order of joining as a list of pairs, which tokenizer.json wants.

        A piece that can be made in several ways stands there with each of them. A merge takes place
        where its pair stands, so that pieces of equal score may be joined in another order.
        """
        joins = [
            (-score, number, cut, (piece[:cut], piece[cut:]))
            for number, piece, score in self.pieces
            for cut in range(1, len(piece))
            if _text(piece[:cut]) in self._known and _text(piece[cut:]) in self._known
        ]
        return [pair for *_, pair in sorted(joins)]

    def spaces_lead(self) -> bool:
        """Whether no piece has a space after something else: words then never join across one."""
        return not any(regex.search("[^ ] ", text) for text in self._known)

    def encode_word_plain(self, word: bytes) -> list[int]:
        """Ids of one word: join the best pair, and repeat."""
        symbols = list(word.decode("utf-8"))
        while True:
            found = [
                (self._known[left + right][0], i)
                for i, (left, right) in enumerate(pairwise(symbols))
                if left + right in self._known
            ]
            if not found:
                return [number for symbol in symbols for number in self._ids(symbol)]
            _, i = min(found)
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]

    def encode_word(self, word: bytes) -> list[int]:
        """`encode_word_plain` in O(n log n): a linked list of symbols, a heap of pairs."""
        symbols = list(word.decode("utf-8"))
        end = len(symbols)
        follow, precede = list(range(1, end + 1)), list(range(-1, end - 1))
        heap: list[tuple[float, int, str]] = []

        def offer(left: int, right: int) -> None:
            joined = symbols[left] + symbols[right]
            if joined in self._known:
                heapq.heappush(heap, (self._known[joined][0], left, joined))

        for left in range(end - 1):
            offer(left, left + 1)
        while heap:
            _, left, joined = heapq.heappop(heap)
            right = follow[left]
            if not symbols[left] or right == end or symbols[left] + symbols[right] != joined:
                continue  # one of the two was joined to something else meanwhile
            symbols[left], symbols[right] = joined, ""
            after = follow[left] = follow[right]
            if after < end:
                precede[after] = left
                offer(left, after)
            if precede[left] >= 0:
                offer(precede[left], left)
        return [number for symbol in symbols if symbol for number in self._ids(symbol)]

    def _ids(self, symbol: str) -> list[int]:
        if symbol in self._known:
            return [self._known[symbol][1]]
        return [self.byte_ids[byte] for byte in symbol.encode()]


@dataclass(frozen=True)
class SpacedText:
    """What stands for a pre-tokenizer here: a space before each text, and cuts where none can matter.

    With `prefix` a text's first word is the same piece as in the middle of a line, and decoding
    gives that space back. `cuts`: words end before spaces (see `SentencePieceModel.spaces_lead`).
    """

    prefix: bool
    cuts: bool
    stages: tuple[str, ...] = ()
    nfc: bool = False

    @property
    def changes_text(self) -> bool:
        """Whether `normalize` does anything."""
        return self.prefix

    def last_cut(self, text: str) -> int:
        """0: a stream is held until it ends."""
        return 0

    def last_composed(self, text: str) -> int:
        """0: a stream is held until it ends."""
        return 0

    def normalize(self, text: str) -> str:
        """The text with its leading space."""
        return " " + text if self.prefix and text else text

    def split(self, text: str) -> list[str]:
        """Words with the spaces before them.

        >>> SpacedText(True, True).split(" a  b ")
        [' a', '  b', ' ']
        """
        if not text:
            return []
        return regex.findall(r" *[^ ]+| +", text) if self.cuts else [text]

    def blocks(self, text: str) -> Iterator[str]:
        """The whole text."""
        yield text


def _text(piece: str) -> str:
    return piece.replace(SPACE, " ")
