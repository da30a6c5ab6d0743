"""Byte-pair encoding on characters, as in the original paper; and, without merges, plain
characters.

Words begin as characters; a prefix may mark those that go on within a word, a suffix the one that
ends it (`</w>`). Pairs are joined in the order learned. What the vocabulary lacks becomes the
unknown
token (`fuse_unknown`: a run of them one), bytes, or an error.

Source: Sennrich et al., 2016 (arXiv:1508.07909). Tested against: `tokenizers`, the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from glassbox.core.errors import UserError
from glassbox.tokenizers.bpe import merge_ids
from glassbox.tokenizers.fallback import Fallback


class CharacterModel:
    """A vocabulary of characters and their merges; `unknown` is a token of it, or None.

    hidden: tokens that no text becomes. Raises UserError for merges that leave the vocabulary.
    """

    kind = "BPE"

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]] = (),
        *,
        unknown: str | None = None,
        fuse_unknown: bool = False,
        byte_fallback: bool = False,
        prefix: str = "",
        suffix: str = "",
        ignore_merges: bool = False,
        hidden: frozenset[str] = frozenset(),
    ) -> None:
        self.vocab, self.merges = dict(vocab), list(merges)
        self.options = {
            "unknown": unknown,
            "fuse_unknown": fuse_unknown,
            "byte_fallback": byte_fallback,
            "prefix": prefix,
            "suffix": suffix,
            "ignore_merges": ignore_merges,
            "hidden": hidden,
        }
        self.unknown, self.fuse_unknown, self.byte_fallback = unknown, fuse_unknown, byte_fallback
        self.prefix, self.suffix, self.ignore_merges = prefix, suffix, ignore_merges
        self.hidden = hidden
        if unknown is not None and unknown not in self.vocab:
            raise UserError(f"the unknown token {unknown!r} is not in the vocabulary; add it")
        self.tokens = {number: token.encode() for token, number in self.vocab.items()}
        if len(self.tokens) != len(self.vocab):
            raise UserError("two tokens of the vocabulary have the same id; each needs its own")
        number = None if unknown is None else self.vocab[unknown]
        self._fallback = Fallback.of(self.vocab, number, byte_fallback)
        self._usable = {token: n for token, n in self.vocab.items() if token not in hidden}
        self._ranks: dict[tuple[int, int], int] = {}
        self._joined: list[int] = []  # by rank
        for rank, (left, right) in enumerate(self.merges):
            joined = left + right.removeprefix(prefix)
            for token in (left, right, joined):
                if token not in self.vocab:
                    raise UserError(
                        f"merges[{rank}] = {left!r} {right!r}: {token!r} is not in the vocabulary"
                    )
            self._ranks[self.vocab[left], self.vocab[right]] = rank
            self._joined.append(self.vocab[joined])

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.vocab, self.merges, self.options)

    def encode_word(self, word: bytes) -> list[int]:
        """Ids of one word."""
        text = word.decode("utf-8")
        if self.ignore_merges and text in self._usable:
            return [self._usable[text]]
        return merge_ids(self._characters(text), self._ranks, self._joined)

    def encode_word_plain(self, word: bytes) -> list[int]:
        """`encode_word`, one pair at a time."""
        text = word.decode("utf-8")
        if self.ignore_merges and text in self._usable:
            return [self._usable[text]]
        ids = self._characters(text)
        while True:
            found = [(self._ranks[p], i) for i, p in enumerate(pairwise(ids)) if p in self._ranks]
            if not found:
                return ids
            rank, i = min(found)
            ids[i : i + 2] = [self._joined[rank]]

    def _characters(self, text: str) -> list[int]:
        ids: list[int] = []
        after_unknown = False
        for i, char in enumerate(text):
            symbol = char if i == 0 else self.prefix + char
            if i == len(text) - 1:
                symbol += self.suffix
            number = self._usable.get(symbol)
            if number is not None:
                ids.append(number)
            elif not (after_unknown and self.fuse_unknown and not self._fallback.byte_ids):
                ids += self._fallback.ids(char)
            after_unknown = number is None
        return ids

    def to_json(self) -> dict[str, Any]:
        """The `model` entry of a tokenizer.json."""
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": self.unknown,
            "continuing_subword_prefix": self.prefix or None,
            "end_of_word_suffix": self.suffix or None,
            "fuse_unk": self.fuse_unknown,
            "byte_fallback": self.byte_fallback,
            "ignore_merges": self.ignore_merges,
            "vocab": dict(sorted(self.vocab.items(), key=lambda item: item[1])),
            "merges": [list(pair) for pair in self.merges],
        }


def _rebuild(
    vocab: dict[str, int], merges: list[tuple[str, str]], options: dict[str, Any]
) -> CharacterModel:
    return CharacterModel(vocab, merges, **options)
