"""From tokens to text as they come: no half character, and nothing of a stop string, ever gets out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer


class StopStrings:
    """Finds the stop string that is complete first, however the text is cut into pieces.

    >>> scanner = StopStrings(("END",))
    >>> scanner.push("the E"), scanner.push("N"), scanner.push("D!"), scanner.matched
    ('the ', '', '', 'END')
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """What is now known not to belong to a stop string; nothing more once one has matched."""
        if self.matched is not None:
            return ""
        self.held += piece
        found = [
            (start + len(s), start, s) for s in self.stops if (start := self.held.find(s)) >= 0
        ]
        if found:
            _, start, self.matched = min(found)
            safe, self.held = self.held[:start], ""
            return safe
        keep = max((_overlap(self.held, stop) for stop in self.stops), default=0)
        cut = len(self.held) - keep
        safe, self.held = self.held[:cut], self.held[cut:]
        return safe

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        rest, self.held = self.held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class TextStream:
    """Tokens in, text that is safe to show out."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder(skip_special=True)
        self._scanner = StopStrings(stops)

    @property
    def matched(self) -> str | None:
        """The stop string that was found."""
        return self._scanner.matched

    def push(self, token: int) -> str:
        """The text that this token makes known."""
        if self._tokenizer.id_to_token(token) is None:
            return ""
        return self._scanner.push(self._decoder.push(token))

    def flush(self) -> str:
        """The rest, when no more tokens come: a broken character, the beginning of a stop string."""
        return self._scanner.push(self._decoder.flush()) + self._scanner.flush()


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of an answer, as a `TextStream` would give it in the end.

    Control tokens are not shown, nor ids that stand for nothing: a model whose vocabulary was
    rounded up can produce these.
    """
    known = (token for token in ids if tokenizer.id_to_token(token) is not None)
    return tokenizer.decode(known, skip_special=True)
