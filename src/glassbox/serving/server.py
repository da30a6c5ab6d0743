"""From the command line to a listening socket: keys, address, signals."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from glassbox.core.errors import UserError
from glassbox.serving.gate import is_loopback

KEY_VARIABLE = "GLASSBOX_API_KEY"


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


def listen(host: str, port: int, *, keys: list[str]) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises UserError for a host that others can reach without a key, and for one, or a port, that
    cannot be had.
    """
    if not is_loopback(host) and not keys:
        raise UserError(
            f"--host {host} lets others use the model; give --api-key-file FILE or set "
            f"{KEY_VARIABLE}, or leave out --host"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "--port 0 takes a free port"
        ) from None


def address(listening: socket.socket) -> str:
    """Where a socket is found, as a URL.

    >>> with socket.create_server(("127.0.0.1", 0)) as free: address(free).rpartition(":")[0]
    'http://127.0.0.1'
    """
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: FastAPI, listening: socket.socket, *, name: str, drain_seconds: int) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is under way, for `drain_seconds` at most.

    Prints the address to standard output when requests can come. SIGTERM is a clean end.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=drain_seconds,
    )
    server = uvicorn.Server(config)

    def stop(number: int, frame: object) -> None:
        server.should_exit = True

    # uvicorn drains at a signal and then raises it once more, for the handler it found
    before = signal.signal(signal.SIGTERM, stop)
    try:
        print(f"serving {name} on {address(listening)}", flush=True)
        print("stop it with Ctrl-C", file=sys.stderr)
        server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
