"""A server in a thread, and clients that speak to it byte by byte."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

from glassbox.serving.app import build_app
from glassbox.serving.connections import ConnectionLimits
from glassbox.serving.server import listen, run
from glassbox.serving.service import Service

PATIENCE = 60.0


@contextmanager
def serving(
    service: Service, limits: ConnectionLimits | None = None, **options: Any
) -> Iterator[int]:
    """A server on a port of 127.0.0.1."""
    with listen("127.0.0.1", 0, keys=[]) as listening:
        port = int(listening.getsockname()[1])
        app = build_app(service, **options)
        thread = threading.Thread(
            target=run,
            args=(app, listening, service),
            kwargs={"drain_seconds": 1, "limits": limits},
            daemon=True,
        )
        thread.start()
        try:
            health(port)
            yield port
        finally:
            service.draining = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def connect(port: int, said: bytes = b"") -> socket.socket:
    """A connection that has said something."""
    opened = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    if said:
        opened.sendall(said)
    return opened


def read_all(opened: socket.socket) -> bytes:
    """What comes until the other side closes; nothing more where it breaks off."""
    found = b""
    try:
        while part := opened.recv(65_536):
            found += part
    except ConnectionError:
        pass
    return found


def answer(port: int, said: bytes) -> tuple[int, bytes]:
    """The status and the whole answer to some bytes; the server must close the connection."""
    with connect(port) as opened:
        with contextlib.suppress(ConnectionError):  # it may have read enough
            opened.sendall(said)
        found = read_all(opened)
    return (int(found.split()[1]) if found else 0), found


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def health(port: int) -> float:
    """Seconds from connecting to a sound answer of /health."""
    begun = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["status"] == "ok"
        return time.perf_counter() - begun
    finally:
        connection.close()
