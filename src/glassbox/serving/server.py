"""From the command line to a listening socket: keys, address, signals."""

from __future__ import annotations

import math
import os
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from glassbox.core.errors import UserError
from glassbox.serving.connections import (
    ACCEPTED_AT_ONCE,
    ConnectionLimits,
    Connections,
    open_descriptors,
)
from glassbox.serving.gate import is_loopback
from glassbox.serving.logs import log_to
from glassbox.serving.metrics import Metrics

KEY_VARIABLE = "GLASSBOX_API_KEY"
_FAREWELL_SECONDS = 0.5
_BACKLOG = 1024


class Served(Protocol):
    """What is known of a service while it is served and when it is to end."""

    name: str
    draining: bool
    metrics: Metrics

    @property
    def idle(self) -> bool:
        """Whether no request is running or queued."""


def read_keys(file: Path | None, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The API keys: one on each line of `file`, and the environment variable's.

    Raises UserError for a file that cannot be read or has none, and for an empty variable.
    """
    keys = []
    if file is not None:
        try:
            keys = file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8"
            raise UserError(f"--api-key-file '{file}' cannot be read: {reason}") from None
        if not keys:
            raise UserError(f"--api-key-file '{file}' is empty; write a key into it")
    if KEY_VARIABLE in environ:
        key = environ[KEY_VARIABLE].strip()
        if not key:
            raise UserError(f"{KEY_VARIABLE} is empty; give it a key or unset it")
        keys.append(key)
    return keys


def check_origins(origins: Sequence[str]) -> list[str]:
    """CORS origins, as browsers send them. Raises UserError for an invalid one.

    >>> check_origins(["https://example.org", "http://localhost:3000"])
    ['https://example.org', 'http://localhost:3000']
    """
    for origin in origins:
        if not re.fullmatch(r"https?://[^/*\s]+", origin):
            raise UserError(
                f"--cors-origin {origin[:100]!r} is not an origin; write one as https://example.org"
            )
    return list(origins)


def listen(host: str, port: int, *, keys: list[str]) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises UserError for a host that others can reach without a key, and for one, or a port, that
    cannot be had.
    """
    if not is_loopback(host) and not keys:
        raise UserError(
            f"--host {host} is reachable from other machines; give --api-key-file FILE or set "
            f"{KEY_VARIABLE}, or leave out --host"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "--port 0 takes a free port"
        ) from None


def address(listening: socket.socket) -> str:
    """The URL of a listening socket.

    >>> with socket.create_server(("127.0.0.1", 0)) as free: address(free).rpartition(":")[0]
    'http://127.0.0.1'
    """
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: ASGIApp,
    listening: socket.socket,
    service: Served,
    *,
    drain_seconds: float,
    limits: ConnectionLimits | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish running requests, for at most `drain_seconds`.

    Prints the address to standard output when ready. Either signal exits with status 0.
    Raises UserError if the limit on open files is too low.
    """
    connections = Connections(
        (limits or ConnectionLimits()).fit(*open_descriptors()), service.metrics
    )
    log_to()
    config = uvicorn.Config(
        app,
        http=connections.protocol,  # type: ignore[arg-type]  # called like a class
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=math.ceil(connections.limits.idle_seconds),
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    print(f"serving {service.name} on {address(listening)}", flush=True)
    print("stop it with Ctrl-C", file=sys.stderr)
    _Draining(config, service, drain_seconds, connections).run(sockets=[listening])


class _Draining(uvicorn.Server):
    """At the first signal new requests get 503 while running ones finish; at the second, or at the
    deadline, the rest is cancelled."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Served,
        drain_seconds: float,
        connections: Connections,
    ) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._connections = connections
        self._deadline = math.inf
        self._closed: float | None = None  # when listening ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening. uvicorn's `backlog` also bounds accepts per event; the kernel's queue is longer."""
        await super().startup(sockets)
        for listening in sockets or []:
            listening.listen(_BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal. uvicorn's own handler would stop listening at once and raise the signal again."""
        again = self._service.draining
        self._service.draining = True
        seconds = 0 if again else self._drain_seconds
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: close slow connections; whether to exit."""
        self._connections.sweep()
        if self._service.draining:
            now = time.monotonic()
            left = self._deadline - now
            if self._service.idle and self._closed is None:
                # connections that have sent nothing yet still get a 503
                for server in self.servers:
                    server.close()
                self._closed = now
            waited = self._closed is not None and now - self._closed > _FAREWELL_SECONDS
            if waited or left <= 0:
                self._connections.drop_unfinished()
                # readers who have not taken all of their answers have what is left of the time
                self.config.timeout_graceful_shutdown = max(
                    1, round(min(left, self._drain_seconds))
                )
                return True
        return await super().on_tick(counter)
