"""Responses built from the engine's tokens: one JSON object, or server-sent events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from glassbox.inference.plan import QueueFull
from glassbox.inference.sampling.params import SamplingParams
from glassbox.serving.choices import Answering
from glassbox.serving.errors import (
    ApiError,
    Json,
    error_object,
    error_response,
    json_bytes,
    shutting_down,
)
from glassbox.serving.logs import note
from glassbox.serving.worker import (
    Caller,
    Closed,
    End,
    Failure,
    Item,
    Job,
    Result,
    Token,
    Worker,
)

_LAST_WORDS_SECONDS = 1.0


class Waiting(Response):
    """Queues a job and waits for its results.

    When the client disconnects, the job is cancelled. Must be created in the event loop.
    Raises ApiError 429 with Retry-After when the queue is full.
    """

    def __init__(
        self,
        worker: Worker,
        prompts: Sequence[tuple[Sequence[int], SamplingParams]] = (),
        *,
        work: Iterator[Any] | None = None,
        caller: Caller | None = None,
        adapter: str | None = None,
    ) -> None:
        super().__init__()
        self._worker = worker
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._job = Job(prompts, self._deliver, work=work, caller=caller, adapter=adapter)
        try:
            worker.submit(self._job)
        except QueueFull:
            raise ApiError(
                429,
                f"{worker.num_running} requests are running and {worker.num_waiting} are queued; "
                "try again later",
                code="queue_full",
                headers={"Retry-After": "1"},
            ) from None
        except Closed:
            raise shutting_down() from None

    def _deliver(self, item: Item) -> None:
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call: respond until done or until the client disconnects."""
        gone = asyncio.create_task(_hung_up(receive))
        answer = asyncio.create_task(self._answer(scope, receive, send))
        try:
            await asyncio.wait((gone, answer), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                note(scope, ended="hung up")
        except asyncio.CancelledError:  # the time to drain in is over: say so to who still listens
            self._items.put_nowait(Failure("the server is shutting down", 503, "shutting_down"))
            await asyncio.wait((answer,), timeout=_LAST_WORDS_SECONDS)
        finally:
            self._worker.abort(self._job)
            gone.cancel()
            answer.cancel()
            results = await asyncio.gather(gone, answer, return_exceptions=True)
        fault = results[1]
        if isinstance(fault, Exception):
            raise fault

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async def _refuse(self, failure: Failure, scope: Scope, receive: Receive, send: Send) -> None:
        """Send an error response."""
        note(scope, ended=failure.message)
        error = ApiError(failure.status, failure.message, code=failure.code)
        await error_response(error)(scope, receive, send)

    async def _all(self) -> AsyncIterator[Item]:
        while True:
            item = await self._items.get()
            yield item
            if isinstance(item, (End, Failure)):
                return


class Answer(Waiting):
    """The response to a completion or chat. Status and headers are sent with the first token, so that
    an error before it has its own status.

    choices: one for each sample of each prompt, in order. results: receives the values of `work`.
    best: with `best_of`, how many of each prompt's samples are returned, best first.
    """

    def __init__(
        self,
        worker: Worker,
        prompts: Sequence[tuple[Sequence[int], SamplingParams]],
        choices: Sequence[Answering],
        *,
        kind: str,
        model: str,
        prompt_tokens: int,
        stream: bool,
        include_usage: bool = False,
        work: Iterator[Any] | None = None,
        results: Callable[[Any], None] | None = None,
        best: int | None = None,
        caller: Caller | None = None,
        adapter: str | None = None,
    ) -> None:
        super().__init__(worker, prompts, work=work, caller=caller, adapter=adapter)
        self._choices = choices
        self._stream = stream
        self._include_usage = include_usage
        self._results = results
        self._best = best
        self._prompt_tokens = prompt_tokens
        self._num_tokens = 0
        self._opened: set[int] = set()
        chat = kind == "chat"
        self._whole_name = "chat.completion" if chat else "text_completion"
        self._chunk_name = "chat.completion.chunk" if chat else "text_completion"
        self._common = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        try:
            async for item in self._all():
                if isinstance(item, Failure):
                    if begun:
                        note(scope, ended=item.message)
                        await self._send(send, [error_object(item.status, item.message)])
                        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
                    else:
                        await self._refuse(item, scope, receive, send)
                    return
                said = self._take(item)
                if not self._stream:
                    continue
                if not begun and not isinstance(item, Result):
                    begun = True
                    await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
                if said:
                    await self._send(send, [self._chunk([choice]) for choice in said])
            if not self._stream:
                await Json(self._whole())(scope, receive, send)
                return
            if self._include_usage:
                await self._send(send, [{**self._chunk([]), "usage": self._usage()}])
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        finally:
            note(scope, prompt_tokens=self._prompt_tokens, completion_tokens=self._num_tokens)

    def _take(self, item: Item) -> list[dict[str, Any]]:
        """Record an item; the choices to stream for it."""
        if isinstance(item, Token):
            self._num_tokens += 1
            choice = self._choices[item.index]
            said = [] if item.index in self._opened else choice.begin()
            self._opened.add(item.index)
            return said + choice.push(item.event)
        if isinstance(item, Result):
            assert self._results is not None
            self._results(item.value)
            return []
        # a choice of which no token was asked for has only its beginning
        left = [i for i in range(len(self._choices)) if i not in self._opened]
        return [said for i in left for said in self._choices[i].begin()]

    async def _send(self, send: Send, events: Sequence[dict[str, Any]]) -> None:
        body = b"".join(b"data: " + json_bytes(event) + b"\n\n" for event in events)
        await send({"type": "http.response.body", "body": body, "more_body": True})

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._common, "object": self._chunk_name, "choices": choices}
        return {**chunk, "usage": None} if self._include_usage else chunk

    def _whole(self) -> dict[str, Any]:
        chosen = list(self._choices)
        if self._best is not None:
            size = self._job.num_choices // len(self._job.prompts)
            groups = [chosen[i : i + size] for i in range(0, len(chosen), size)]
            ranked = [sorted(group, key=lambda one: -one.mean_log_prob) for group in groups]
            chosen = [one for group in ranked for one in group[: self._best]]
        return {
            **self._common,
            "object": self._whole_name,
            "choices": [choice.whole(index) for index, choice in enumerate(chosen)],
            "usage": self._usage(),
        }

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._num_tokens,
            "total_tokens": self._prompt_tokens + self._num_tokens,
        }


class Computed(Waiting):
    """The results of a job's own computation, combined into one JSON object by `finish`."""

    def __init__(
        self,
        worker: Worker,
        work: Iterator[Any],
        finish: Callable[[list[Any]], dict[str, Any]],
        *,
        prompt_tokens: int,
        caller: Caller | None = None,
    ) -> None:
        super().__init__(worker, work=work, caller=caller)
        self._finish = finish
        self._prompt_tokens = prompt_tokens

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        values: list[Any] = []
        async for item in self._all():
            if isinstance(item, Failure):
                await self._refuse(item, scope, receive, send)
                return
            if isinstance(item, Result):
                values.append(item.value)
        note(scope, prompt_tokens=self._prompt_tokens)
        await Json(self._finish(values))(scope, receive, send)


_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
