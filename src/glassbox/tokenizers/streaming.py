"""Text in pieces: encoding chunks as they come, and decoding ids without half a character."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Protocol

from glassbox.tokenizers.added_tokens import AllowSpecial, Piece
from glassbox.tokenizers.parts import TextProcessing


class StreamEncoder(Protocol):
    """What a tokenizer does for a stream of pieces."""

    @property
    def pretokenizer(self) -> TextProcessing:
        """How text is normalized and cut."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of normalized text without added tokens."""

    def encode_processed(self, text: str, *, allow_special: AllowSpecial, first: bool) -> list[int]:
        """Ids of text not yet normalized."""


class StepDecoder(Protocol):
    """What a tokenizer does for a stream of ids."""

    def decode_step(
        self, token_id: int, previous: str | None, *, skip_special: bool = False
    ) -> tuple[bytes, str | None]:
        """The bytes of an id after the token `previous`, and what `previous` is for the next id."""


def join_surrogates(chunks: Iterable[str]) -> Iterator[str]:
    """The same text, no surrogate pair cut by a border between two chunks."""
    held = ""
    for chunk in chunks:
        chunk = held + chunk
        held = chunk[-1:] if "\ud800" <= chunk[-1:] <= "\udbff" else ""
        yield chunk[: len(chunk) - len(held)]
    yield held


def normalize_stream(pieces: Iterable[Piece], tokenizer: StreamEncoder) -> Iterator[Piece]:
    """Compose the text of a stream, holding back what the next chunk may still combine with."""
    words = tokenizer.pretokenizer
    held = ""
    for piece in pieces:
        if isinstance(piece, int):
            yield words.normalize(held)
            held = ""
            yield piece
            continue
        held += piece
        cut = words.last_composed(held)
        yield words.normalize(held[:cut])
        held = held[cut:]
    yield words.normalize(held)


def encode_stream(tokenizer: StreamEncoder, pieces: Iterable[Piece]) -> Iterator[int]:
    """Ids of composed pieces, word by word, holding back the words that may still grow.

    Memory is bounded by the longest stretch without a certain cut (see `PreTokenizer.last_cut`).
    """
    words = tokenizer.pretokenizer
    held: list[str] = []
    last = ""  # the character before the next chunk: a cut may lie between the two
    for piece in pieces:
        if isinstance(piece, int):
            yield from tokenizer.encode_ordinary("".join(held))
            held, last = [], ""
            yield piece
            continue
        if not piece:
            continue
        cut = words.last_cut(last + piece) - len(last)
        if cut >= 0 and (cut > 0 or last):
            held.append(piece[:cut])
            yield from tokenizer.encode_ordinary("".join(held))
            held = [piece[cut:]]
        else:
            held.append(piece)
        last = piece[-1]
    yield from tokenizer.encode_ordinary("".join(held))


def encode_processed(
    tokenizer: StreamEncoder, pieces: Iterable[Piece], *, allow_special: AllowSpecial
) -> Iterator[int]:
    """Ids of pieces not yet normalized, each block as soon as a cut is certain."""
    cut_last = tokenizer.pretokenizer.last_cut
    held, first = "", True
    for piece in pieces:
        if isinstance(piece, int):
            yield from tokenizer.encode_processed(held, allow_special=allow_special, first=first)
            held, first = "", False
            yield piece
            continue
        held += piece
        if cut := cut_last(held):
            block, held = held[:cut], held[cut:]
            yield from tokenizer.encode_processed(block, allow_special=allow_special, first=first)
            first = False
    yield from tokenizer.encode_processed(held, allow_special=allow_special, first=first)


class StreamDecoder:
    """Ids in, text out, as soon as it is certain: never half a character.

    `push` and `flush` joined equal `decode` of all ids. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, tokenizer: StepDecoder, *, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._previous: str | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this id completes, often several characters, sometimes none."""
        content, self._previous = self._tokenizer.decode_step(
            token_id, self._previous, skip_special=self._skip_special
        )
        return self._utf8.decode(content)

    def flush(self) -> str:
        """Return the rest at the end: U+FFFD for an incomplete character."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._previous = None
        return text
