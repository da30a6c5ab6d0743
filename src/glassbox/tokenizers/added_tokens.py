"""Added tokens: strings that are one token each, matched before a text is normalized or after.

Which of the special ones may be matched is chosen per call: none, all, or a set of names. Those that
may not are ordinary text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import regex

from glassbox.core.errors import UserError
from glassbox.tokenizers.patterns import WorkLimit
from glassbox.tokenizers.processing import Processing

Piece = str | int
"""A stretch of ordinary text, or the id of an added token."""
AllowSpecial = bool | Collection[str]
"""Which special tokens are matched in a text: none, all, or those named."""

MAX_SPARE_IDS = 1 << 16
"""Ids beyond the vocabulary that added tokens may skip: an embedding needs a row for each."""
_MAX_TOKENS = 1 << 18
_MAX_TOKEN_CHARS = 1 << 12
_REGEX_CHARS = (
    1 << 14
)  # tokens longer than this together are found by bisection: regex compiles slowly
_CACHED_SETS = 64
_CLOCK = 4096  # candidates between two looks at the clock

_SPACES = regex.compile(r"\p{White_Space}*")
_SPACES_BEFORE = regex.compile(r"(?r)\p{White_Space}*")


@dataclass(frozen=True)
class Edges:
    """What an added token asks of its neighbours: spaces that it swallows, or to stand alone."""

    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class AddedToken:
    """A string that is one token wherever it occurs, matched before pre-tokenization.

    special:    a control token: text is not encoded to it unless that is allowed, and decoding may
        skip it. Added tokens that are not special are matched in all text.
    normalized: matched after those that are not, in normalized text.
    edges:      the spaces beside it that it swallows, or that it has to be a word of its own.
    """

    content: str
    id: int
    special: bool = True
    normalized: bool = False
    edges: Edges = field(default_factory=Edges)

    def to_json(self) -> dict[str, Any]:
        """Its entry in `added_tokens`."""
        return {
            "id": self.id,
            "content": self.content,
            "single_word": self.edges.single_word,
            "lstrip": self.edges.lstrip,
            "rstrip": self.edges.rstrip,
            "normalized": self.normalized,
            "special": self.special,
        }


class AddedTokens:
    """The added tokens of a tokenizer, and what cuts a text at them.

    Raises UserError for more tokens, longer ones or higher ids than a vocabulary of `vocab_size` can have.
    """

    def __init__(self, tokens: Sequence[AddedToken], pretokenizer: object, vocab_size: int) -> None:
        self.tokens = tuple(tokens)
        _check(self.tokens, vocab_size)
        self._processing = pretokenizer if isinstance(pretokenizer, Processing) else None
        self.special = {token.content: token.id for token in self.tokens if token.special}
        self.shown: dict[int, str] = {}  # a token matched in normalized text is shown so
        if self._processing is not None:
            limit = WorkLimit(sum(len(token.content) for token in self.tokens))
            self.shown = {
                token.id: self._processing.normalize(token.content, limit)
                for token in self.tokens
                if token.normalized
            }
        self._early: dict[bool | frozenset[str], list[AddedTokenSplitter]] = {}
        self._late: dict[bool | frozenset[str], AddedTokenSplitter | None] = {}

    def early(self, allow_special: AllowSpecial) -> list[AddedTokenSplitter]:
        """What cuts a text as it comes, one after the other."""
        key = self._key(allow_special)
        if key not in self._early:
            phases = (False,) if self._processing is not None else (False, True)
            groups = [
                {t.content: t for t in self._matched(key) if t.normalized == late}
                for late in phases
            ]
            _make_room(self._early)
            self._early[key] = [_splitter(group) for group in groups if group]
        return self._early[key]

    def late(self, allow_special: AllowSpecial) -> AddedTokenSplitter | None:
        """What cuts normalized text, at tokens normalized alike; None where there are none."""
        if not self.shown:
            return None
        key = self._key(allow_special)
        if key not in self._late:
            group = {self.shown[t.id]: t for t in self._matched(key) if t.normalized}
            group.pop("", None)
            _make_room(self._late)
            self._late[key] = _splitter(group) if group else None
        return self._late[key]

    def check_disallowed(
        self, text: str, disallowed: Collection[str] | Literal["all"], allowed: AllowSpecial
    ) -> None:
        """Raise UserError where a text contains a special token that is disallowed.

        "all" stands for all that are not allowed. Tested against: tiktoken's `encode`.
        """
        if disallowed == "all":
            names = frozenset() if allowed is True else frozenset(self.special)
            names -= frozenset() if isinstance(allowed, bool) else self._names(allowed)
        else:
            names = self._names(disallowed)
        if not names:
            return
        for start, end in AddedTokenSplitter(dict.fromkeys(names, 0)).find(text):
            raise UserError(
                f"the text contains the special token {text[start:end]!r} at character {start}; "
                "name it in allow_special, or leave it out of disallowed_special to encode it as text"
            )

    def _key(self, allow_special: AllowSpecial) -> bool | frozenset[str]:
        return allow_special if isinstance(allow_special, bool) else self._names(allow_special)

    def _names(self, names: Collection[str]) -> frozenset[str]:
        chosen = frozenset([names] if isinstance(names, str) else names)
        for name in chosen:
            if name not in self.special:
                raise UserError(
                    f"{name!r} is no special token of this tokenizer; it has "
                    f"{', '.join(list(self.special)[:8]) or 'none'}"
                )
        return chosen

    def _matched(self, key: bool | frozenset[str]) -> Iterator[AddedToken]:
        for token in self.tokens:
            if not token.special or key is True or (key is not False and token.content in key):
                yield token


def _check(tokens: Sequence[AddedToken], vocab_size: int) -> None:
    if len(tokens) > _MAX_TOKENS:
        raise UserError(f"{len(tokens)} added tokens; at most {_MAX_TOKENS} are supported")
    largest = vocab_size + len(tokens) + MAX_SPARE_IDS
    for token in tokens:
        if not token.content:
            raise UserError(f"added token {token.id} is empty; give it some text")
        if len(token.content) > _MAX_TOKEN_CHARS:
            raise UserError(
                f"added token {token.id} has {len(token.content)} characters; at most "
                f"{_MAX_TOKEN_CHARS} are supported"
            )
        if not 0 <= token.id <= largest:
            raise UserError(
                f"added token {token.content!r} has id {token.id}, beyond a vocabulary of "
                f"{vocab_size}; ids count up from 0, with at most {MAX_SPARE_IDS} unused"
            )


def _make_room(cache: dict[Any, Any]) -> None:
    if len(cache) >= _CACHED_SETS:
        cache.clear()


def _splitter(group: dict[str, AddedToken]) -> AddedTokenSplitter:
    edges = {content: t.edges for content, t in group.items() if t.edges != Edges()}
    return AddedTokenSplitter({content: t.id for content, t in group.items()}, edges)


class AddedTokenSplitter:
    """Cut text at added tokens: the leftmost first, of those that begin together the longest.

    >>> AddedTokenSplitter({"<a>": 1, "<a>b": 2}).split("x<a>by<a>")
    ['x', 2, 'y', 1]
    """

    def __init__(self, tokens: Mapping[str, int], edges: Mapping[str, Edges] | None = None) -> None:
        self.ids = dict(tokens)
        self.edges = {token: edge for token, edge in (edges or {}).items() if token in self.ids}
        self.longest = max(map(len, self.ids), default=0)
        self._sorted = sorted(self.ids)
        few = sum(map(len, self._sorted)) <= _REGEX_CHARS
        self.find: Callable[[str], Iterator[tuple[int, int]]] = (
            _by_regex(self._sorted) if few else _by_bisection(self._sorted)
        )

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
        for start, end in self.find(text):
            if before is not None and start >= before:
                break
            token = text[start:end]
            if (edge := self.edges.get(token)) is not None:
                if edge.single_word and _in_word(text, start, end):
                    continue
                start = _SPACES_BEFORE.search(text, done, start).start() if edge.lstrip else start
                end = _SPACES.match(text, end).end() if edge.rstrip else end
            if start > done:
                pieces.append(text[done:start])
            pieces.append(self.ids[token])
            done = end
        return pieces, done

    def _undecided(self, text: str) -> int:
        """Where the earliest suffix begins that is a proper prefix of some added token."""
        for start in range(max(0, len(text) - self.longest + 1), len(text)):
            suffix = text[start:]
            after = bisect_right(self._sorted, suffix)
            if after < len(self._sorted) and self._sorted[after].startswith(suffix):
                return start
        return len(text)


def _by_regex(tokens: Sequence[str]) -> Callable[[str], Iterator[tuple[int, int]]]:
    longest_first = sorted(tokens, key=len, reverse=True)
    find = regex.compile("|".join(map(regex.escape, longest_first)) or r"(?!)").finditer
    return lambda text: (match.span() for match in find(text))


def _by_bisection(tokens: Sequence[str]) -> Callable[[str], Iterator[tuple[int, int]]]:
    """The same search for any number of tokens, given in order.

    The longest token that begins a text is the last token not after the text in sorted order, or one of
    those that begin it: each token is stored with the longest other one that it begins with.
    """
    longest = max(map(len, tokens))
    shorter: list[
        int
    ] = []  # of each token the place of the longest other one that begins it, or -1
    open_: list[int] = []
    for place, token in enumerate(tokens):
        while open_ and not token.startswith(tokens[open_[-1]]):
            open_.pop()
        shorter.append(open_[-1] if open_ else -1)
        open_.append(place)
    firsts = "".join(map(regex.escape, sorted({token[0] for token in tokens})))
    candidate = regex.compile(f"[{firsts}]").search

    def find(text: str) -> Iterator[tuple[int, int]]:
        limit, start, looks = WorkLimit(len(text)), 0, 0
        while (match := candidate(text, start)) is not None:
            start = match.start()
            place = bisect_right(tokens, text[start : start + longest]) - 1
            while place >= 0 and not text.startswith(tokens[place], start):
                place, looks = shorter[place], looks + 1
            looks += 1
            if looks >= _CLOCK:
                limit.check("the added tokens")
                looks = 0
            if place >= 0:
                end = start + len(tokens[place])
                yield start, end
                start = end
            else:
                start += 1

    return find


def _in_word(text: str, start: int, end: int) -> bool:
    return bool(
        regex.search(r"\w\Z", text[max(0, start - 1) : start])
        or regex.match(r"\w", text[end : end + 1])
    )
