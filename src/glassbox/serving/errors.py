"""API errors in OpenAI's format: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

from glassbox.core.errors import UserError

_MAX_CHARS = 600
_MAX_FAULTS = 20
_MAX_KEY_CHARS = 100
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(HTTPException):
    """An error response: status and fields of the error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers=dict(headers or {}))
        self.param = param
        self.code = code


def shutting_down() -> ApiError:
    """503 while the server shuts down."""
    return ApiError(
        503,
        "the server is shutting down",
        code="shutting_down",
        headers={"Retry-After": "30", "Connection": "close"},
    )


def json_bytes(content: Any) -> bytes:
    """Compact JSON in UTF-8. A lone surrogate, which UTF-8 cannot hold, stays an escape.

    >>> json_bytes({"a": "\\u00e9\\ud800"})
    b'{"a":"\\xc3\\xa9\\\\ud800"}'
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class Json(Response):
    """A JSON response."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Bytes of the body."""
        return json_bytes(content)


def error_object(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    if len(message) > _MAX_CHARS:
        message = message[:_MAX_CHARS] + "..."
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: StarletteHTTPException) -> Json:
    """An HTTP error, ours or the framework's, in the shape clients expect."""
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    body = error_object(error.status_code, str(error.detail), param, code)
    return Json(body, error.status_code, error.headers)


def refusal(faults: Iterable[Mapping[str, Any]], known: Iterable[str] = ()) -> ApiError:
    """One 400 that names the invalid parameters; `param` is the first.

    At most 20 faults are explained.
    """
    found: dict[str, str] = {}
    for fault in islice(faults, _MAX_FAULTS):
        location = [str(part)[:_MAX_KEY_CHARS] for part in fault["loc"]]
        # of a union's several complaints about one value, the first will do
        where = ".".join(location) or "body"
        if where not in found:
            found[where] = _explain(fault, location, known)
    return ApiError(
        400, "; ".join(found.values()), param=next(iter(found)), code="invalid_parameter"
    )


def _explain(fault: Mapping[str, Any], location: list[str], known: Iterable[str]) -> str:
    key = ".".join(location)
    if fault["type"] == "missing":
        return f"'{key}' is missing" if key else "the body is missing; send a JSON object"
    if fault["type"] == "extra_forbidden":
        word = location[-1]
        short = len(word) < _MAX_KEY_CHARS
        near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.75) if short else []
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"'{key}' is not supported by this server{hint}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not key and fault["type"] == "value_error":
        return message
    if not key and fault["type"] == "string_unicode":
        return f"the name {_short(fault.get('input'))} has a lone surrogate, which is no text"
    if not key:
        return "the body is not a JSON object; send one, with Content-Type: application/json"
    return f"'{key}' = {_short(fault.get('input'))}: {message}"


class _Short(reprlib.Repr):
    """Cuts what is long, without sorting all of a dict for its first three keys."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 40
        self.maxlist = self.maxdict = 3
        self.maxlevel = 2

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """The first keys and values."""
        if not x or level <= 0:
            return "{...}" if x else "{}"
        pairs = islice(x.items(), self.maxdict)
        shown = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in pairs]
        return "{" + ", ".join([*shown, "..."] if len(x) > self.maxdict else shown) + "}"


def _short(value: Any) -> str:
    return _Short().repr(value)


def add_handlers(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> None:
    """Return every error in the same format. `bodies`: the model of each path's body."""

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        if error.status_code == 400 and not isinstance(error, ApiError):  # the framework's own
            error = ApiError(400, "the body could not be read: send a JSON object in UTF-8")
        return error_response(error)

    async def on_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = [{**fault, "loc": fault["loc"][1:]} for fault in error.errors()]
        body = bodies.get(request.url.path)
        return error_response(refusal(faults, () if body is None else body.model_fields))

    async def on_user(request: Request, error: Exception) -> Response:
        return error_response(ApiError(400, str(error)))

    async def on_fault(request: Request, error: Exception) -> Response:
        return error_response(ApiError(500, "the server failed on this request; its log says how"))

    app.add_exception_handler(StarletteHTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_body)
    app.add_exception_handler(UserError, on_user)
    app.add_exception_handler(Exception, on_fault)
