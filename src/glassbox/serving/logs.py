"""A line of JSON for each request and each fault, and the id by which a request is known.

Prompts are logged only with --log-prompts; answers and keys never are.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glassbox.serving.metrics import Metrics
from glassbox.serving.worker import Caller

_log = logging.getLogger("glassbox.serving.requests")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_NOTES = "glassbox.notes"
_LOGGERS = ("glassbox.serving", "uvicorn", "asyncio")
_LINES_A_SECOND = {"glassbox.serving.requests": 200.0}
_OTHER_LINES_A_SECOND = 10.0
_BURST_SECONDS = 5


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(
                "T", "milliseconds"
            ),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class RateLimit(logging.Filter):
    """Limits the number of log lines per second of each logger, and reports how many were dropped.

    A client must not be able to fill a disk with small requests (malformed ones, or for paths that
    do not exist).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._left: dict[
            str, tuple[float, float]
        ] = {}  # lines to spare, and when they were counted
        self._omitted: Counter[str] = Counter()
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        name = record.name
        rate = _LINES_A_SECOND.get(name, _OTHER_LINES_A_SECOND)
        with self._lock:
            now = self._clock()
            left, then = self._left.get(name, (rate * _BURST_SECONDS, now))
            left = min(rate * _BURST_SECONDS, left + rate * (now - then))
            if left < 1:
                self._left[name] = (left, now)
                self._omitted[name] += 1
                return False
            self._left[name] = (left - 1, now)
            omitted = self._omitted.pop(name, 0)
        if omitted:
            record.fields = {**getattr(record, "fields", {}), "lines_omitted": omitted}
        return True


def log_to(stream: TextIO | None = None) -> None:
    """Send the server's logs, and uvicorn's and asyncio's warnings, to a stream (standard error)."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines())
    handler.addFilter(RateLimit())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name.startswith("glassbox") else logging.WARNING)


def note(scope: Scope, **fields: Any) -> None:
    """Add fields to the request's log line."""
    scope.setdefault(_NOTES, {}).update(fields)


def caller(scope: Scope) -> Caller:
    """The caller of a request."""
    return Caller(scope.get("glassbox.request_id", ""), scope.get("glassbox.tenant", ""))


class RequestLog:
    """Assigns each request an id (the caller's `X-Request-Id` if it is valid), returns it in the
    response, and logs and counts how the request ended.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        number = given if _ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope["glassbox.request_id"] = number
        scope[_NOTES] = {}
        status = 0
        begun = time.perf_counter()

        async def answering(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            await self.app(scope, receive, answering)
        finally:
            seconds = time.perf_counter() - begun
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.request(path, status)
            fields = {
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status or None,
                "seconds": round(seconds, 6),
                **scope[_NOTES],
            }
            _log.info("request", extra={"request_id": number, "fields": fields})
