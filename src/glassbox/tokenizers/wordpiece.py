"""WordPiece, applied: from the left, always the longest piece that fits (BERT).

A piece that goes on within a word is written with a prefix, `##`. A word of which some part fits no
piece is unknown as a whole, and so is one that is longer than `max_chars`.

Source: Wu et al., 2016 (arXiv:1609.08144); Devlin et al., 2018 (arXiv:1810.04805).
Tested against: `tokenizers`, the same ids; `encode_word_plain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassbox.core.errors import UserError


class WordPieceModel:
    """Pieces and the unknown token.

    hidden: tokens of `vocab` that no text becomes (special tokens). Raises UserError where
    `unknown` is not in the vocabulary.
    """

    kind = "WordPiece"

    def __init__(
        self,
        vocab: Mapping[str, int],
        unknown: str = "[UNK]",
        *,
        prefix: str = "##",
        max_chars: int = 100,
        hidden: frozenset[str] = frozenset(),
    ) -> None:
        self.vocab = dict(vocab)
        self.unknown, self.prefix, self.max_chars, self.hidden = unknown, prefix, max_chars, hidden
        if unknown not in self.vocab:
            raise UserError(f"the unknown token {unknown!r} is not in the vocabulary; add it")
        self.tokens = {number: token.encode() for token, number in self.vocab.items()}
        if len(self.tokens) != len(self.vocab):
            raise UserError("two tokens of the vocabulary have the same id; each needs its own")
        usable = {token: number for token, number in self.vocab.items() if token not in hidden}
        self._first = usable
        self._later = {
            token[len(prefix) :]: number
            for token, number in usable.items()
            if token.startswith(prefix)
        }
        self._longest = max(map(len, self.vocab))

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = self.vocab, self.unknown, self.prefix, self.max_chars, self.hidden
        return _rebuild, arguments

    def encode_word_plain(self, word: bytes) -> list[int]:
        """Ids of one word: try every end from the right, at each place."""
        text = word.decode("utf-8")
        if len(text) > self.max_chars:
            return [self.vocab[self.unknown]]
        ids: list[int] = []
        start = 0
        while start < len(text):
            for end in range(len(text), start, -1):
                piece = text[start:end] if start == 0 else self.prefix + text[start:end]
                if piece in self.vocab and piece not in self.hidden:
                    ids.append(self.vocab[piece])
                    start = end
                    break
            else:
                return [self.vocab[self.unknown]]
        return ids

    def encode_word(self, word: bytes) -> list[int]:
        """`encode_word_plain`, trying no end further than the longest piece."""
        text = word.decode("utf-8")
        if len(text) > self.max_chars:
            return [self.vocab[self.unknown]]
        if (whole := self._first.get(text)) is not None:
            return [whole]
        ids: list[int] = []
        start, pieces = 0, self._first
        while start < len(text):
            end = min(len(text), start + self._longest)
            while end > start and (number := pieces.get(text[start:end])) is None:
                end -= 1
            if end == start or number is None:
                return [self.vocab[self.unknown]]
            ids.append(number)
            start, pieces = end, self._later
        return ids

    def to_json(self) -> dict[str, Any]:
        """The `model` entry of a tokenizer.json."""
        return {
            "type": "WordPiece",
            "unk_token": self.unknown,
            "continuing_subword_prefix": self.prefix,
            "max_input_chars_per_word": self.max_chars,
            "vocab": dict(sorted(self.vocab.items(), key=lambda item: item[1])),
        }


def _rebuild(
    vocab: dict[str, int], unknown: str, prefix: str, max_chars: int, hidden: frozenset[str]
) -> WordPieceModel:
    return WordPieceModel(vocab, unknown, prefix=prefix, max_chars=max_chars, hidden=hidden)
