"""Checks before a request is read: API key, host name, body size."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glassbox.serving.errors import ApiError, error_response, shutting_down
from glassbox.serving.memory import MemoryReturn

_OPEN_PATHS = ("/health", "/", "/docs")
_ALWAYS = ("/health", "/metrics")
"""Paths that are answered while the server shuts down."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address is a loopback one.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """Rejects requests without a valid key, and all requests while the server shuts down, before the
    body is read; and bodies that are too large, while they are read.

    Without keys the Host header must name this machine, so that a web page whose domain resolves to
    this address (DNS rebinding) is rejected. Keys are stored as hashes and compared in constant
    time. is_open: the paths that need no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[str],
        max_body_bytes: int,
        max_bodies_bytes: int,
        draining: Callable[[], bool] = lambda: False,
        is_open: Callable[[str], bool] = _OPEN_PATHS.__contains__,
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self._max_bodies_bytes = max_bodies_bytes
        self._bodies_bytes = 0
        self._memory = MemoryReturn()
        self._draining = draining
        self._is_open = is_open
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        error = self._refuse(scope, headers)
        if error is not None:
            await error_response(error)(scope, receive, send)
            return
        taken = [0]
        try:
            await self.app(scope, self._bounded(receive, taken), send)
        finally:
            self._bodies_bytes -= taken[0]
            self._memory.ended(taken[0])

    def _refuse(self, scope: Scope, headers: Headers) -> ApiError | None:
        path = scope["path"]
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self.max_body_bytes:
            return self._too_large()
        open_to_all = self._is_open(path)
        if self._digests:
            digest = self._known(headers)
            if digest is None and not open_to_all:
                return _no_key()
            scope["glassbox.tenant"] = "" if digest is None else digest.hex()
        elif not is_loopback(_without_port(headers.get("host", "localhost"))):
            return _stranger()
        return shutting_down() if self._draining() and path not in _ALWAYS else None

    def _known(self, headers: Headers) -> bytes | None:
        """The hash of the key that was sent, if it is valid."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip().encode("latin-1"))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest if scheme.lower() == "bearer" and any(matches) else None

    def _bounded(self, receive: Receive, taken: list[int]) -> Receive:
        """Counts what is read in `taken` and, until the request has ended, in the sum of all."""

        async def bounded() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            taken[0] += size
            self._bodies_bytes += size
            if taken[0] > self.max_body_bytes:
                raise self._too_large()
            if self._bodies_bytes > self._max_bodies_bytes:
                raise ApiError(
                    429,
                    f"requests under way hold {self._max_bodies_bytes} bytes; try again later",
                    code="queue_full",
                    headers={"Retry-After": "1"},
                )
            return message

        return bounded

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the body is larger than this server's limit of {self.max_body_bytes} bytes",
            code="body_too_large",
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _stranger() -> ApiError:
    return ApiError(
        403,
        "this server has no API key and answers only to localhost, 127.0.0.1 or [::1]; "
        "start it with --api-key-file to use another name",
        code="host_not_allowed",
    )


def _no_key() -> ApiError:
    return ApiError(
        401,
        "no valid API key; send 'Authorization: Bearer KEY'",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
