"""Encoding with an upper limit on the number of tokens.

A server knows the maximum before it encodes; a longer text raises an error without encoding it, or
after encoding a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from glassbox.core.errors import UserError
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.patterns import PreTokenizer

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer

_SHORT_CHARS = 16_384
_CHUNK_CHARS = 8_192
_MOST_BYTES_COMPOSED = 4
"""NFC makes a text shorter by this factor at most: see the test, which tries every character."""


class TooManyTokens(UserError):
    """A text has more tokens than were allowed; `least` is how many it has at least."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__(f"the text has at least {least} tokens; at most {most} are allowed")
        self.least = least
        self.most = most


def longest_token_bytes(tokenizer: Tokenizer) -> int:
    """Bytes of the longest token of a vocabulary."""
    ids = range(tokenizer.vocab_size)
    return max(len(tokenizer.token_bytes(i)) for i in ids if tokenizer.id_to_token(i) is not None)


class Bounded:
    """Encodes with one tokenizer and stops as soon as a text is known to be too long.

    Tested against: `Tokenizer.encode`, the same ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._longest = longest_token_bytes(tokenizer)
        model, words = tokenizer.model, tokenizer.pretokenizer
        # elsewhere one token may stand for any number of bytes: an unknown word, spaces dropped
        self._keeps_bytes = (
            isinstance(model, BytePairModel)
            and not model.lacks_bytes
            and isinstance(words, PreTokenizer)
        )
        self._shrinks = _MOST_BYTES_COMPOSED if words.changes_text else 1

    def least_tokens(self, text: str) -> int:
        """The fewest tokens that a text can have: its bytes over those of the longest token.

        0 where a token may stand for more bytes than its own (normalizers, unknown tokens).
        """
        if not self._keeps_bytes:
            return 0
        num_bytes = len(text.encode("utf-8", "surrogatepass"))
        return -(-num_bytes // (self._longest * self._shrinks))

    def encode(self, text: str, most: int) -> list[int]:
        """`Tokenizer.encode`. Raises TooManyTokens, early, where there are more than `most` ids."""
        self.check(text, most)
        if len(text) <= _SHORT_CHARS:
            ids = self._tokenizer.encode(text)
            if len(ids) > most:
                raise TooManyTokens(len(ids), most)
            return ids
        return take(self._tokenizer.encode_stream(chunks(text)), most)

    def check(self, text: str, most: int) -> None:
        """Raises TooManyTokens where a text's size alone says that it has more than `most` tokens."""
        least = self.least_tokens(text)
        if least > most:
            raise TooManyTokens(least, most)


def chunks(text: str) -> Iterator[str]:
    """A text in parts, to be encoded one after the other."""
    return (text[at : at + _CHUNK_CHARS] for at in range(0, len(text), _CHUNK_CHARS))


def take(ids: Iterable[int], most: int) -> list[int]:
    """All ids. Raises TooManyTokens at the one after `most`."""
    found: list[int] = []
    for number in ids:
        found.append(number)
        if len(found) > most:
            raise TooManyTokens(len(found), most)
    return found
