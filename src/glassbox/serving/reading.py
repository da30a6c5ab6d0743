"""From the bytes of a request's body to a checked object, in bounded time and off the event loop.

Parsing and checking cost time in proportion to the number of values in a body, not to its bytes, so
that number is limited before anything is parsed; and of the faults that are found, few are explained.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

from glassbox.serving.bodies import Body, Limits
from glassbox.serving.errors import ApiError, refusal

_MAX_DEPTH = 100
_AT_ONCE_BYTES = 16_384


class BodyReader:
    """Parses and checks bodies: small ones at once, larger ones in a thread, one after the other."""

    def __init__(self, limits: Limits, bodies: Mapping[str, type[Body]]) -> None:
        self._limits = limits
        self._bodies = bodies
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")

    async def read(self, content: bytes, path: str) -> Any:
        """What a path's body says. Raises ApiError 400 for what is at fault."""
        kind = self._bodies[path]
        if len(content) <= _AT_ONCE_BYTES:
            return parse_body(content, kind, self._limits)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, parse_body, content, kind, self._limits)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def parse_body(content: bytes, kind: type[Body], limits: Limits) -> Body:
    """Parse and validate a request body. Raises ApiError for invalid JSON, too many values, and
    invalid fields.

    Tested against: FastAPI's own reading of the same bodies; the time that hostile ones take.
    """
    if count_values(content) > limits.max_values:
        raise ApiError(
            400,
            f"the body has more than this server's limit of {limits.max_values} values",
            code="limit_exceeded",
        )
    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise _no_json(f"{error.msg} at character {error.pos}") from None
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _no_json(f"it is nested deeper than {_MAX_DEPTH} levels") from None
    except ValueError as error:  # a number of thousands of digits, NaN
        raise _no_json(str(error).partition(";")[0]) from None
    if content.count(b"[") + content.count(b"{") > _MAX_DEPTH and _depth_exceeds(value):
        raise _no_json(f"it is nested deeper than {_MAX_DEPTH} levels")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False), kind.model_fields) from None


def count_values(content: bytes) -> int:
    r"""At least as many as the values of a JSON text, and no more than it has separators.

    Commas, brackets and braces inside strings are not counted where that makes a difference.

    >>> count_values(b'{"a": [1, 2, "x, y"]}'), count_values(b'["\\",1,2]')
    (6, 4)
    """
    if content.count(b",") + content.count(b"[") + content.count(b"{") <= 4096:
        return _separators(content)
    # what stands outside strings: every second part between quotes that are no escapes
    plain = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    if strings > len(content) // 8:
        return max(strings, _separators(content))
    return _separators(b"".join(plain.split(b'"')[::2]))


def _separators(content: bytes) -> int:
    return 1 + content.count(b",") + content.count(b"[") + content.count(b"{")


def _depth_exceeds(value: Any) -> bool:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            return True
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
    return False


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _no_json(reason: str) -> ApiError:
    return ApiError(400, f"the body is not valid JSON: {reason}")


class BodyRoute(APIRoute):
    """A path whose body is read by the application's `BodyReader`; FastAPI finds it checked."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI makes, given a request that reads its body so."""
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            return await handle(_CheckedRequest(request.scope, request.receive))

        return read_and_handle


class _CheckedRequest(Request):
    async def json(self) -> Any:
        reader: BodyReader = self.app.state.body_reader
        return await reader.read(await self.body(), self.scope["path"])
