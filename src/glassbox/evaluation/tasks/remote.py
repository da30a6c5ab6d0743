"""A model behind an OpenAI-compatible URL that answers requests.

Log-likelihoods come from `completions` with echo and logprobs: tokens that begin at or behind the
context's end are the continuation. Generated answers come from `completions`, or from
`chat/completions` where prompts are chats. Source: OpenAI's API reference.
Tested against: our own server, the same answers as from the model itself.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.requests import Answer, Request

ASKED_TOGETHER = 16
MAX_TOKENS = 256
MOST_BYTES = 64 << 20
TRIES = 4


@dataclass
class _Group:
    indices: list[int]
    work: float


class RemoteModel:
    """Answers requests by HTTP.

    url: up to and with /v1, the model's name behind a `#`: http://localhost:8000/v1#smollm2; without
        one it is the first that the server lists. key: OPENAI_API_KEY of the environment.
    context: how long a text it reads, in characters; longer ones are cut from the left where they are
        prompts for generation. concurrent: requests at the same time.
    Raises UserError for what the server refuses, in its own words.
    """

    def __init__(
        self,
        url: str,
        *,
        max_tokens: int | None = None,
        seed: int = 0,
        concurrent: int = ASKED_TOGETHER,
        timeout: float = 600.0,
    ) -> None:
        self.name = url
        base, _, model = url.partition("#")
        self.base = base.rstrip("/")
        self.max_tokens = max_tokens
        self.seed = seed
        self.timeout = timeout
        self._pool = ThreadPoolExecutor(concurrent)
        self.concurrent = concurrent
        self.model = model or self._first_model()

    def _first_model(self) -> str:
        listed = self._send("models", None).get("data")
        if not isinstance(listed, list) or not listed or "id" not in listed[0]:
            raise UserError(f"'{self.base}/models' lists no model; name one: {self.base}#NAME")
        return str(listed[0]["id"])

    def describe(self) -> dict[str, Any]:
        """URL and name; what the weights are, only the server knows."""
        return {
            "name": self.name,
            "kind": "url",
            "url": self.base,
            "model": self.model,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    def plan(self, requests: Sequence[Request]) -> list[_Group]:
        """A few at a time, in order."""
        groups = []
        for start in range(0, len(requests), self.concurrent):
            indices = list(range(start, min(start + self.concurrent, len(requests))))
            groups.append(_Group(indices, float(len(indices))))
        return groups

    def answer(
        self, requests: Sequence[Request], group: Any, wanted: set[int]
    ) -> Iterator[tuple[int, Answer]]:
        """Answers of one group, asked at the same time."""
        indices = [index for index in group.indices if index in wanted]
        answers = self._pool.map(lambda index: self._one(requests[index]), indices)
        yield from zip(indices, answers, strict=True)

    def _one(self, request: Request) -> Answer:
        if request.kind == "loglikelihood":
            return self._score(*request.arguments)
        if request.kind == "generate_until":
            return self._generate(request)
        raise UserError(
            f"{self.name}: a task asks for '{request.kind}', which needs the model's tokens; evaluate it "
            "on a model of your own machine"
        )

    def _score(self, context: str, continuation: str) -> Answer:
        bare = context.rstrip()
        text = context + continuation
        if bare == "":
            raise UserError(
                f"{self.name}: a task scores a text without a context, which the API cannot; evaluate it "
                "on a model of your own machine"
            )
        body = {
            "model": self.model,
            "prompt": text,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "echo": True,
        }
        found = self._send("completions", body)["choices"][0].get("logprobs") or {}
        try:
            offsets, values = found["text_offset"], found["token_logprobs"]
            tops = found.get("top_logprobs") or [None] * len(values)
        except (KeyError, TypeError):
            raise UserError(
                f"{self.name} gives no logprobs with echo; this server cannot score"
            ) from None
        total, greedy, count = 0.0, True, 0
        for offset, value, top in zip(offsets, values, tops, strict=False):
            if len(bare) <= offset < len(text) and value is not None:
                total += float(value)
                count += 1
                greedy = greedy and (not top or float(value) >= max(top.values()))
        if not count:
            raise UserError(f"{self.name}: no token of {continuation[:40]!r} was scored")
        return [total, greedy, count]

    def _generate(self, request: Request) -> str:
        prompt, options = request.arguments
        options = dict(options)
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        sampled = options.get("do_sample", float(options.get("temperature") or 0) > 0)
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.max_tokens or int(options.get("max_gen_toks") or MAX_TOKENS),
            "temperature": float(options.get("temperature") or 1.0) if sampled else 0,
            "stop": [one for one in until if one][:4],
            "seed": (int(request.key[:8], 16) ^ self.seed) & 0x7FFFFFFF,
        }
        if sampled and options.get("top_p") is not None:
            body["top_p"] = options["top_p"]
        if prompt.startswith(_CHAT):
            body["messages"] = json.loads(prompt.removeprefix(_CHAT))
            message = self._send("chat/completions", body)["choices"][0]["message"]
            text = message.get("content") or ""
        else:
            body["prompt"] = prompt
            text = self._send("completions", body)["choices"][0].get("text") or ""
        for stop in until:
            text = text.split(stop)[0] if stop else text
        return str(text)

    def render_chat(self, messages: Sequence[Mapping[str, str]], *, go_on: bool) -> str:
        """Messages as they are sent; the server has the template."""
        if go_on:
            raise UserError(
                f"{self.name}: a task begins the answer itself, which a chat by URL cannot"
            )
        return _CHAT + json.dumps(list(messages), ensure_ascii=False)

    def _send(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """A POST with JSON, or a GET; tried again where the server is busy or away for a moment."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/{path}", data=data, headers=headers)
        for attempt in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    found = json.loads(reply.read(MOST_BYTES))
                if not isinstance(found, dict):
                    raise UserError(f"'{self.base}/{path}' answered with no object")
                return found
            except urllib.error.HTTPError as error:
                said = error.read(2000).decode("utf-8", "replace")
                if error.code not in (408, 429, 500, 502, 503, 504) or attempt == TRIES - 1:
                    raise UserError(f"'{self.base}/{path}' refused: {error.code} {said}") from None
            except (OSError, ValueError) as error:
                if attempt == TRIES - 1:
                    raise UserError(f"'{self.base}/{path}' does not answer: {error}") from None
            time.sleep(0.5 * 2**attempt)
        raise AssertionError("unreachable")


_CHAT = "glassbox-chat:"


def is_url(reference: str) -> bool:
    """Whether a model's name is an address.

    >>> is_url("http://localhost:8000/v1#smollm2"), is_url("runs/a")
    (True, False)
    """
    return urllib.parse.urlsplit(reference).scheme in ("http", "https")
