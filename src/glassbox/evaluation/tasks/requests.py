"""What is asked of a model, and what it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

RequestKind = Literal["loglikelihood", "loglikelihood_rolling", "generate_until", "spans"]
Answer = Any
"""[log-probability, is greedy, tokens] of a continuation, a log-probability, a text, or a list of the
first, one a span."""


@dataclass(frozen=True)
class Request:
    """One question to a model.

    arguments: (context, continuation), (text,), (prompt, generation options), or (which, texts): of
        each text the tokens behind those that all begin with ("options"), those that all end with
        ("contexts"), or of the last one those behind the first ("continuation").
    repeat: the how many-th answer to the same prompt, where several are drawn.
    """

    kind: RequestKind
    arguments: tuple[Any, ...]
    repeat: int = 0

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the answer of a given model."""
        content = json.dumps([self.kind, self.arguments, self.repeat], sort_keys=True)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


class Group(Protocol):
    """Requests that are answered together."""

    @property
    def indices(self) -> Sequence[int]:
        """Which of the requests."""

    @property
    def work(self) -> float:
        """How much work they are, for the progress bar."""


class AskedModel(Protocol):
    """Anything that answers requests: a model of ours, or one behind a URL."""

    def describe(self) -> dict[str, Any]:
        """Name, hashes and settings that decide its answers."""

    def plan(self, requests: Sequence[Request]) -> Sequence[Group]:
        """All requests in groups, in the order of answering; the same requests give the same groups."""

    def answer(
        self, requests: Sequence[Request], group: Any, wanted: set[int]
    ) -> Iterator[tuple[int, Answer]]:
        """Answers to those of a group's requests that are wanted."""

    def render_chat(self, messages: Sequence[Mapping[str, str]], *, go_on: bool) -> str:
        """Messages as one prompt; with go_on the last one is the assistant's, to be continued."""
