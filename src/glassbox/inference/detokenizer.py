"""Incremental detokenization, which emits only complete characters and no part of a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer


class StopStrings:
    """Finds the first complete stop string in text that arrives in pieces.

    >>> scanner = StopStrings(("END",))
    >>> scanner.push("the E"), scanner.push("N"), scanner.push("D!"), scanner.matched
    ('the ', '', '', 'END')
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """Add text; return the text that can no longer be part of a stop string, and nothing once
        one has matched.
        """
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
        """Return the withheld text at the end of the stream."""
        rest, self.held = self.held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class TextStream:
    """Converts tokens to text that is safe to emit."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder(skip_special=True)
        self._scanner = StopStrings(stops)

    @property
    def matched(self) -> str | None:
        """The stop string that was found."""
        return self._scanner.matched

    def push(self, token: int) -> str:
        """Add a token; return the text that it completes."""
        if self._tokenizer.id_to_token(token) is None:
            return ""
        return self._scanner.push(self._decoder.push(token))

    def flush(self) -> str:
        """Return the rest at the end of the stream: an incomplete character, or the beginning of a
        stop string.
        """
        return self._scanner.push(self._decoder.flush()) + self._scanner.flush()


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of a completion, equal to what a `TextStream` emits in total.

    Control tokens are skipped, as are ids without a token, which a model with a padded vocabulary
    can produce.
    """
    known = (token for token in ids if tokenizer.id_to_token(token) is not None)
    return tokenizer.decode(known, skip_special=True)
