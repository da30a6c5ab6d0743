"""From the engine's tokens to what a client reads: one JSON object, or server-sent events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from glassbox.inference.engine import FinishReason, TokenEvent
from glassbox.serving.errors import ApiError, Json, error_object, error_response, json_bytes
from glassbox.serving.worker import Closed, Delta, End, Failure, Item, Job, QueueFull, Worker

Choice = dict[str, Any]

_LAST_WORDS_SECONDS = 1.0


class Shape(Protocol):
    """What tells a completion's JSON from a chat's."""

    prefix: str
    whole_name: str
    chunk_name: str

    def opening(self, index: int) -> list[Choice]:
        """What a stream says before a choice's first token."""

    def piece(self, index: int, text: str, reason: FinishReason | None) -> list[Choice]:
        """What it says of a token; nothing where there is nothing to say."""

    def whole(self, index: int, text: str, reason: FinishReason) -> Choice:
        """A finished choice."""


class CompletionShape:
    """`text_completion`. `echoes` is what stands before each choice's text."""

    prefix = "cmpl"
    whole_name = chunk_name = "text_completion"

    def __init__(self, echoes: Sequence[str]) -> None:
        self._echoes = echoes

    @staticmethod
    def _choice(index: int, text: str, reason: FinishReason | None) -> Choice:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def opening(self, index: int) -> list[Choice]:
        """The echo, if any."""
        echo = self._echoes[index]
        return [self._choice(index, echo, None)] if echo else []

    def piece(self, index: int, text: str, reason: FinishReason | None) -> list[Choice]:
        """The text and the reason together."""
        return [self._choice(index, text, reason)] if text or reason else []

    def whole(self, index: int, text: str, reason: FinishReason) -> Choice:
        """Echo and text."""
        return self._choice(index, self._echoes[index] + text, reason)


class ChatShape:
    """`chat.completion` and `chat.completion.chunk`."""

    prefix = "chatcmpl"
    whole_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    @staticmethod
    def _choice(index: int, delta: dict[str, str], reason: FinishReason | None) -> Choice:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def opening(self, index: int) -> list[Choice]:
        """Who speaks."""
        return [self._choice(index, {"role": "assistant", "content": ""}, None)]

    def piece(self, index: int, text: str, reason: FinishReason | None) -> list[Choice]:
        """The text, then the reason with an empty delta."""
        said = [self._choice(index, {"content": text}, None)] if text else []
        return [*said, self._choice(index, {}, reason)] if reason else said

    def whole(self, index: int, text: str, reason: FinishReason) -> Choice:
        """The message."""
        message = {"role": "assistant", "content": text}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}


class Answer(Response):
    """Puts a job in line and answers with what becomes of it.

    A client that hangs up, at any time, gives up the job. Status and headers wait for the first
    token, so that what goes wrong before it has a status of its own.
    Raises ApiError 429 with Retry-After where the line is full. To be made in the event loop.
    """

    def __init__(
        self,
        worker: Worker,
        streams: Iterable[Iterator[TokenEvent]],
        shape: Shape,
        *,
        model: str,
        prompt_tokens: int,
        stream: bool,
        include_usage: bool = False,
    ) -> None:
        super().__init__()
        self._worker = worker
        self._shape = shape
        self._prompt_tokens = prompt_tokens
        self._stream = stream
        self._include_usage = include_usage
        self._common = {
            "id": f"{shape.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._job = Job(streams, self._deliver)
        try:
            worker.submit(self._job)
        except QueueFull:
            raise ApiError(
                429,
                f"{worker.max_running} requests are being answered and {worker.max_queue} wait; "
                "try again later",
                code="queue_full",
                headers={"Retry-After": "1"},
            ) from None
        except Closed:
            raise ApiError(503, "the server is shutting down", code="shutting_down") from None

    def _deliver(self, item: Item) -> None:
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call: answer until done or until the client is gone."""
        gone = asyncio.create_task(_hung_up(receive))
        answer = asyncio.create_task(self._answer(scope, receive, send))
        try:
            await asyncio.wait((gone, answer), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the time to drain in is over: say so to who still listens
            self._items.put_nowait(Failure("the server is shutting down", status=503))
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
        first = await self._items.get()
        if isinstance(first, Failure):
            await error_response(ApiError(first.status, first.message))(scope, receive, send)
        elif self._stream:
            await self._send_events(first, send)
        else:
            await (await self._collect(first))(scope, receive, send)

    async def _rest(self, first: Item) -> AsyncIterator[Item]:
        item = first
        while True:
            yield item
            if isinstance(item, (End, Failure)):
                return
            item = await self._items.get()

    async def _collect(self, first: Item) -> Response:
        texts: dict[int, list[str]] = {}
        choices: list[Choice] = []
        num_tokens = 0
        async for item in self._rest(first):
            if isinstance(item, Failure):
                return error_response(ApiError(item.status, item.message))
            if isinstance(item, Delta):
                num_tokens += 1
                said = texts.setdefault(item.index, [])
                said.append(item.text)
                if item.finish_reason is not None:
                    text = "".join(said)
                    choices.append(self._shape.whole(item.index, text, item.finish_reason))
        return Json(
            {
                **self._common,
                "object": self._shape.whole_name,
                "choices": choices,
                "usage": self._usage(num_tokens),
            }
        )

    async def _send_events(self, first: Item, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        opened: set[int] = set()
        num_tokens = 0
        async for item in self._rest(first):
            events: list[dict[str, Any]] = []
            if isinstance(item, Failure):
                events.append(error_object(item.status, item.message))
            elif isinstance(item, Delta):
                num_tokens += 1
                choices = self._shape.piece(item.index, item.text, item.finish_reason)
                if item.index not in opened:
                    opened.add(item.index)
                    choices = self._shape.opening(item.index) + choices
                events += [self._chunk([choice]) for choice in choices]
            elif self._include_usage:
                events.append({**self._chunk([]), "usage": self._usage(num_tokens)})
            if events:
                body = b"".join(b"data: " + json_bytes(event) + b"\n\n" for event in events)
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    def _chunk(self, choices: list[Choice]) -> dict[str, Any]:
        chunk = {**self._common, "object": self._shape.chunk_name, "choices": choices}
        return {**chunk, "usage": None} if self._include_usage else chunk

    def _usage(self, num_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": self._prompt_tokens + num_tokens,
        }


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
