"""Text in pieces: encoding chunks as they come, and decoding ids without half a character."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer

Piece = str | int
"""A stretch of ordinary text, or the id of an added token."""


_SPACES = regex.compile(r"\p{White_Space}*")
_SPACES_BEFORE = regex.compile(r"(?r)\p{White_Space}*")


@dataclass(frozen=True)
class Edges:
    """What an added token asks of its neighbours: spaces that it swallows, or to stand alone."""

    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class AddedTokenSplitter:
    """Cut text at added tokens: the leftmost first, of those that begin together the longest.

    >>> AddedTokenSplitter({"<a>": 1, "<a>b": 2}).split("x<a>by<a>")
    ['x', 2, 'y', 1]
    """

    def __init__(self, tokens: Mapping[str, int], edges: Mapping[str, Edges] | None = None) -> None:
        self.ids = dict(tokens)
        self.edges = {token: edge for token, edge in (edges or {}).items() if token in self.ids}
        longest_first = sorted(self.ids, key=len, reverse=True)
        self.find: Callable[[str], Iterator[regex.Match[str]]] = regex.compile(
            "|".join(map(regex.escape, longest_first)) or r"(?!)"
        ).finditer
        self.longest = len(longest_first[0]) if longest_first else 0
        self.prefixes = {token[:n] for token in self.ids for n in range(1, len(token))}

    def split(self, text: str) -> list[Piece]:
        """The pieces of one whole text, none of them empty."""
        if not self.ids:
            return [text] if text else []
        pieces, done = self._matches(text)
        if done < len(text):
            pieces.append(text[done:])
        return pieces

    def split_stream(self, chunks: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces of a text in chunks; holds back no more than could begin an added token."""
        held = ""
        for chunk in chunks:
            if isinstance(chunk, int):
                yield from self.split(held)
                held = ""
                yield chunk
                continue
            held += chunk
            if self.edges:  # what a token swallows is known only at the end
                continue
            # A token that is complete but could still grow into a longer one has to wait as well.
            wait = self._undecided(held)
            pieces, done = self._matches(held, wait)
            yield from pieces
            if done < wait:
                yield held[done:wait]
                done = wait
            held = held[done:]
        yield from self.split(held)

    def _matches(self, text: str, before: int | None = None) -> tuple[list[Piece], int]:
        """Pieces up to the end of the last added token that begins before `before`."""
        pieces: list[Piece] = []
        done = 0
        for match in self.find(text):
            start, end = match.span()
            if before is not None and start >= before:
                break
            if (edge := self.edges.get(match.group())) is not None:
                if edge.single_word and _in_word(text, start, end):
                    continue
                start = _SPACES_BEFORE.search(text, done, start).start() if edge.lstrip else start
                end = _SPACES.match(text, end).end() if edge.rstrip else end
            if start > done:
                pieces.append(text[done:start])
            pieces.append(self.ids[match.group()])
            done = end
        return pieces, done

    def _undecided(self, text: str) -> int:
        """Where the earliest suffix begins that is a proper prefix of some added token."""
        for start in range(max(0, len(text) - self.longest + 1), len(text)):
            if text[start:] in self.prefixes:
                return start
        return len(text)


def _in_word(text: str, start: int, end: int) -> bool:
    return bool(
        regex.search(r"\w\Z", text[max(0, start - 1) : start])
        or regex.match(r"\w", text[end : end + 1])
    )


def normalize_stream(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Iterator[Piece]:
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


def encode_stream(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> Iterator[int]:
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
    tokenizer: Tokenizer, pieces: Iterable[Piece], *, allow_special: bool
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

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
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
        """What is left at the end: U+FFFD where a character was never finished."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._previous = None
        return text
