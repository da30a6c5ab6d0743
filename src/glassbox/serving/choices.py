"""One choice of a response: tokens in, elements of `choices` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from glassbox.inference.requests import TokenEvent
from glassbox.inference.scoring import PromptScores
from glassbox.serving.token_log_probs import CompletionLogProbs, chat_entry
from glassbox.serving.tool_calls import CallReader, Forced, ToolCall

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer

Said = dict[str, Any]
"""An element of `choices`."""


class Answering(Protocol):
    """A choice that is built token by token."""

    @property
    def mean_log_prob(self) -> float:
        """The score that `best_of` ranks by."""

    def begin(self) -> list[Said]:
        """Chunks to stream before the first token."""

    def push(self, event: TokenEvent) -> list[Said]:
        """Chunks to stream for a token; may be empty."""

    def whole(self, index: int) -> Said:
        """The finished choice."""


class _Mean:
    def __init__(self) -> None:
        self._total = 0.0
        self._count = 0

    def add(self, event: TokenEvent) -> None:
        if event.log_prob is not None:
            self._total += event.log_prob
            self._count += 1

    @property
    def value(self) -> float:
        return self._total / max(1, self._count)


class CompletionChoice:
    """A choice of a text_completion. `echo` is the prompt that precedes the text."""

    def __init__(
        self, index: int, tokenizer: Tokenizer, *, num_top: int | None, echo: Echo | None
    ) -> None:
        self._index = index
        self._scores = None if num_top is None else CompletionLogProbs(tokenizer, num_top)
        self._echo = echo
        self._text: list[str] = []
        self._reason: str | None = None
        self._mean = _Mean()
        self._taken: list[Said] = []

    @property
    def mean_log_prob(self) -> float:
        """The score that `best_of` ranks by."""
        return self._mean.value

    def begin(self) -> list[Said]:
        """The echo, if any."""
        echo = self._echo
        if echo is None:
            return []
        self._text.append(echo.text)
        if self._scores is not None and echo.scores is not None:
            ids, found = echo.ids, echo.scores
            for place in range(echo.hidden, len(ids)):
                self._scores.push(ids[place], found.log_probs[place], found.top[place] or ())
        if echo.alone:
            self._reason = "length"
        return [self._said(echo.text)]

    def push(self, event: TokenEvent) -> list[Said]:
        """The text and the reason together.

        Log-probabilities list every generated token, the one that ends the answer included, so that
        they are as many as `usage` counts: clients cut an echo off by that count.
        """
        self._mean.add(event)
        if self._scores is not None:
            self._scores.push(event.token_id, event.log_prob, event.top_log_probs or ())
        text = event.text or ""
        self._text.append(text)
        self._reason = event.finish_reason
        return [self._said(text)] if text or self._reason or self._scores is not None else []

    def _said(self, text: str) -> Said:
        scores = None if self._scores is None else self._scores.take()
        said = {
            "index": self._index,
            "text": text,
            "logprobs": scores,
            "finish_reason": self._reason,
        }
        if scores is not None:
            self._taken.append(scores)
        return said

    def whole(self, index: int) -> Said:
        """Echo and text."""
        scores = None
        if self._scores is not None:
            keys = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
            scores = {key: _joined([taken[key] for taken in self._taken]) for key in keys}
        text = "".join(self._text)
        return {"index": index, "text": text, "logprobs": scores, "finish_reason": self._reason}


def _joined(parts: Sequence[list[Any] | None]) -> list[Any] | None:
    lists = [part for part in parts if part is not None]
    return [item for part in lists for item in part] if lists or not parts else None


class Echo:
    """A prompt that is to stand before its answers.

    hidden: ids at its beginning that stand for nothing the caller wrote.
    scores: filled in once they are known. alone: whether nothing is generated.
    """

    def __init__(self, text: str, ids: Sequence[int], *, hidden: int, alone: bool) -> None:
        self.text = text
        self.ids = ids
        self.hidden = hidden
        self.alone = alone
        self.scores: PromptScores | None = None


class ChatChoice:
    """A choice of a chat.completion, with tool calls parsed from the text.

    reader: None if no tool may be called. forced: the call that the output must be.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        *,
        num_top: int | None,
        reader: CallReader | None = None,
        forced: Forced | None = None,
        reason_of_calls: str = "tool_calls",
        most_calls: int | None = None,
    ) -> None:
        self._index = index
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._reader = reader
        self._forced = forced
        self._reason_of_calls = reason_of_calls
        self._most_calls = most_calls
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._entries: list[dict[str, Any]] = []
        self._reason: str | None = None
        self._mean = _Mean()

    @property
    def mean_log_prob(self) -> float:
        """What `best_of` would rank by."""
        return self._mean.value

    def begin(self) -> list[Said]:
        """The role."""
        if self._reader is not None and self._forced is not None:
            self._reader.push(self._forced.prefix)
        return [self._said({"role": "assistant", "content": ""}, None)]

    def push(self, event: TokenEvent) -> list[Said]:
        """Text and calls, then the reason with an empty delta. Every generated token has an entry."""
        self._mean.add(event)
        entries = []
        if self._num_top is not None and event.log_prob is not None:
            top = event.top_log_probs or ()
            entries = [
                chat_entry(self._tokenizer, event.token_id, event.log_prob, top, self._num_top)
            ]
            self._entries += entries
        deltas = [self._delta(part) for part in self._read(event)]
        deltas = [delta for delta in deltas if delta]
        if entries and not deltas:
            deltas = [{"content": ""}]
        said = [self._said(delta, entries if i == 0 else []) for i, delta in enumerate(deltas)]
        if event.finish_reason is not None:
            reason: str = event.finish_reason
            if self._calls and reason == "stop":
                reason = self._reason_of_calls
            self._reason = reason
            said.append(self._said({}, None))
        return said

    def _read(self, event: TokenEvent) -> list[str | ToolCall]:
        text = event.text or ""
        if self._reader is None:
            return [text] if text else []
        found = self._reader.push(text)
        if event.finish_reason == "stop" and self._forced is not None:
            found += self._reader.push(self._forced.suffix)
        if event.finish_reason is not None:
            found += self._reader.flush()
        return found

    def _delta(self, part: str | ToolCall) -> dict[str, Any]:
        if isinstance(part, str):
            self._text.append(part)
            return {"content": part}
        if self._most_calls is not None and len(self._calls) >= self._most_calls:
            return {}
        self._calls.append(part)
        return {"tool_calls": [{"index": len(self._calls) - 1, **part.as_json()}]}

    def _said(self, delta: dict[str, Any], entries: list[dict[str, Any]] | None) -> Said:
        return {
            "index": self._index,
            "delta": delta,
            "logprobs": None if not entries else {"content": entries, "refusal": None},
            "finish_reason": self._reason,
        }

    def whole(self, index: int) -> Said:
        """The message."""
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._calls:
            message = {
                "role": "assistant",
                "content": text or None,
                "tool_calls": [call.as_json() for call in self._calls],
            }
        scores = None
        if self._num_top is not None:
            scores = {"content": self._entries, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": scores,
            "finish_reason": self._reason,
        }
