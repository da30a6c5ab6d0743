"""Limits on connections: their number, in total and per address, and timeouts.

A client that sends nothing or part of a request, or does not read the response, occupies a file
descriptor and memory. uvicorn has no timeout for headers and bodies and no limit on connections;
both are added here, on its h11 protocol.

When the limit is reached, a new connection replaces an idle one (the longest idle, of the address
with the most connections), so that complete requests are answered whatever the number of slow
connections.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h11
from pydantic import Field
from uvicorn.protocols.http.h11_impl import H11Protocol

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.serving.errors import error_object, json_bytes

if TYPE_CHECKING:
    from glassbox.serving.metrics import Metrics

ACCEPTED_AT_ONCE = 8
"""Connections that the event loop accepts before it does anything else."""
_TURNS = 4
RESERVED_DESCRIPTORS = 48 + (_TURNS + 4) * ACCEPTED_AT_ONCE
"""Left for files, and for connections that are accepted but not yet decided about or closed."""
_FEWEST = 8
_MOST_HEADERS = 100
_FREE_CHUNKS = 1024
_LEAST_CHUNK_BYTES = 256
_log = logging.getLogger("glassbox.serving.connections")


class ConnectionLimits(Spec):
    """Limits on clients' connections.

    max_connections is lowered to what the process's limit on open files allows.
    """

    max_connections: int = Field(512, gt=0, description="maximum number of open connections")
    max_per_address: int = Field(
        256, gt=0, description="maximum number of open connections per address"
    )
    header_seconds: float = Field(
        10, gt=0, description="timeout from a request's first byte to its last header"
    )
    body_seconds: float = Field(
        60, gt=0, description="timeout from the headers to the end of the body"
    )
    idle_seconds: float = Field(15, gt=0, description="idle timeout, before or between requests")
    unread_seconds: float = Field(
        120, gt=0, description="timeout while the client does not read the response"
    )
    max_header_bytes: int = Field(
        16_384, gt=0, description="maximum size of request line and headers"
    )

    def fit(self, descriptors: int | None, used: int) -> ConnectionLimits:
        """The same within a limit on open files, of which `used` are open.

        Raises UserError where fewer than 8 connections would be left.

        >>> ConnectionLimits().fit(256, used=20).max_connections
        124
        """
        if descriptors is None:
            return self
        room = descriptors - used - RESERVED_DESCRIPTORS
        if room < _FEWEST:
            raise UserError(
                f"the limit on open files is {descriptors} and {used} are open: too few to serve; "
                "raise it with  ulimit -n 1024"
            )
        most = min(self.max_connections, room)
        share = min(self.max_per_address, most)
        return self.model_copy(update={"max_connections": most, "max_per_address": share})


def open_descriptors() -> tuple[int | None, int]:
    """The process's limit on open files (None: none is known) and how many are open."""
    try:
        import resource
    except ImportError:  # Windows
        return None, 0
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev/fd")
    used = len(os.listdir(folder)) if folder.is_dir() else RESERVED_DESCRIPTORS
    return (None if limit == resource.RLIM_INFINITY else limit), used


class Connections:
    """All open connections of a server. `protocol` goes to uvicorn as its `http`; `sweep` is to be
    called several times a second in the event loop."""

    def __init__(self, limits: ConnectionLimits, metrics: Metrics | None = None) -> None:
        self.limits = limits
        self._metrics = metrics
        self._open: dict[Connection, None] = {}  # in the order in which they came
        self._held: Counter[str] = Counter()  # by address
        if metrics is not None:
            metrics.connections(lambda: len(self._open))

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, **arguments: Any) -> Connection:
        """A new connection's protocol, made as uvicorn makes it."""
        return Connection(self, **arguments)

    def enter(self, connection: Connection) -> None:
        """A connection was made. Whether it may stay is decided a few turns of the event loop later,
        when what those before it have already sent has been read."""
        self._open[connection] = None
        self._held[connection.address] += 1
        self._decide(connection, _TURNS)

    def _decide(self, connection: Connection, turns: int) -> None:
        if turns:
            connection.loop.call_soon(self._decide, connection, turns - 1)
            return
        if connection not in self._open:
            return
        if self._held[connection.address] > self.limits.max_per_address:
            addresses = [connection.address]
        elif len(self._open) > self.limits.max_connections:
            addresses = [one for one, _ in self._held.most_common()]
        else:
            return
        spare = self._spare(addresses, connection)
        if spare is None:
            connection.drop("refused")
        else:
            spare.drop("displaced")

    def _spare(self, addresses: list[str], newest: Connection) -> Connection | None:
        """The connection that has waited longest, of the first address that has one to spare."""
        best: dict[str, tuple[tuple[int, float], Connection]] = {}
        wanted = set(addresses)
        for one in self._open:
            rank = one.dispensable() if one.address in wanted and one is not newest else None
            if rank is not None and rank[0] == 0 and one.address == addresses[0]:
                return one  # they come in order: none has waited longer
            if rank is not None and (one.address not in best or rank < best[one.address][0]):
                best[one.address] = (rank, one)
        return next((best[address][1] for address in addresses if address in best), None)

    def leave(self, connection: Connection) -> None:
        """A connection has ended, or is about to."""
        if connection in self._open:
            del self._open[connection]
            self._held[connection.address] -= 1
            if not self._held[connection.address]:
                del self._held[connection.address]

    def sweep(self) -> None:
        """Close what has taken too long."""
        now = time.monotonic()
        for connection in list(self._open):
            reason = connection.overdue(now)
            if reason is not None:
                connection.drop(reason)

    def drop_unfinished(self) -> None:
        """Close what has no whole request under way: the server ends."""
        for connection in list(self._open):
            if connection.is_unfinished:
                connection.drop("shutdown")

    def count(self, reason: str) -> None:
        """A connection was closed from this side."""
        if self._metrics is not None:
            self._metrics.closed(reason)


class Connection(H11Protocol):
    """A connection of uvicorn with timeouts; malformed requests are answered with a JSON error."""

    def __init__(self, all_of_them: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._all = all_of_them
        limits = all_of_them.limits
        self.conn: _Parser = _Parser(limits.max_header_bytes, self._head_is_read)
        self.address = ""
        self._since = time.monotonic()  # when what it is doing now began
        self._spoken = False  # bytes of the next request have come
        self._unread = (0, self._since)  # bytes not yet taken, and since when no fewer

    # ---- what uvicorn calls -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It has begun."""
        super().connection_made(transport)
        self.address = _network(self.client)
        self._all.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self.transport.is_closing():
            return
        if not self._spoken and self._waits:
            self._spoken = True
            self._since = time.monotonic()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """An answer was given: wait for the next request, of which some may have come already."""
        self._spoken = bool(self.conn.trailing_data[0])
        self._since = time.monotonic()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        fault = self.conn.fault
        status = 400 if fault is None else fault.error_status_hint
        reason = msg if fault is None else str(fault)
        if status == 431:
            most = self._all.limits.max_header_bytes
            reason = f"its headers are more than {_MOST_HEADERS} or larger than {most} bytes"
        self._end(_response(status, f"this is no valid HTTP request: {reason}"))

    # ---- limits -----------------------------------------------------------------------------

    def _head_is_read(self) -> None:
        self._since = time.monotonic()

    @property
    def _waits(self) -> bool:
        """Whether there is no request under way."""
        return self.cycle is None or self.cycle.response_complete

    def dispensable(self) -> tuple[int, float] | None:
        """How willingly it is given up for another, the lowest first; None for one being answered."""
        if self.cycle is None:
            return 0, self._since
        if self._waits:
            return 1, self._since
        if self.cycle.more_body:
            return 2, self._since
        return (3, self._unread[1]) if self.flow.write_paused else None

    @property
    def is_unfinished(self) -> bool:
        """Whether a request has begun to arrive, or none has, and there is no answer to finish."""
        return self._waits or bool(self.cycle.more_body)

    def overdue(self, now: float) -> str | None:
        """Why it must end, if it must."""
        limits = self._all.limits
        left = self.transport.get_write_buffer_size()
        if left == 0 or left < self._unread[0]:
            self._unread = (left, now)
        else:
            self._unread = (left, self._unread[1])
        if left and now - self._unread[1] > limits.unread_seconds:
            return "unread"
        spent = now - self._since
        if self._waits and not self._spoken:
            return "idle" if spent > limits.idle_seconds else None
        if self._waits:
            return "header_timeout" if spent > limits.header_seconds else None
        if self.cycle.more_body and spent > limits.body_seconds:
            return "body_timeout"
        return None

    def drop(self, reason: str) -> None:
        """Close it now. Who has sent part of a request, or was refused, is told why."""
        self._all.leave(self)
        self._all.count(reason)
        told = _TOLD.get(reason)
        if told is None or self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._end(told)

    def _end(self, response: bytes) -> None:
        """Close it with a last word, where none was begun."""
        if self.cycle is not None and not self.cycle.response_complete:
            # the application hears that its client is gone, and answers no more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(response)
        self.transport.close()


class _Parser(h11.Connection):
    """h11's, which also refuses a body of two lengths and one of very many tiny chunks.

    fault: why the last request was refused.
    """

    def __init__(self, max_header_bytes: int, on_head: Callable[[], None]) -> None:
        super().__init__(h11.SERVER, max_header_bytes)
        self.fault: h11.RemoteProtocolError | None = None
        self._max_header_bytes = max_header_bytes
        self._on_head = on_head
        self._chunked = False
        self._chunks = 0
        self._chunk_bytes = 0

    def next_event(self) -> Any:
        """The next part of a request. Raises h11.RemoteProtocolError, and nothing else."""
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._head(event)
            elif isinstance(event, h11.Data) and self._chunked:
                self._chunk(len(event.data))
            return event
        except h11.RemoteProtocolError as error:
            self.fault = error
            raise
        except Exception as error:  # a fault of the parser itself
            _log.warning("a request could not be parsed: %r", error)
            self.fault = h11.RemoteProtocolError("it cannot be parsed")
            raise self.fault from None

    def _head(self, request: h11.Request) -> None:
        size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if size > self._max_header_bytes or len(request.headers) > _MOST_HEADERS:
            # h11 looks at the size of what is incomplete only
            raise h11.RemoteProtocolError("too large", error_status_hint=431)
        if request.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError("it is not HTTP/1.1", error_status_hint=505)
        names = [name for name, _ in request.headers]
        self._chunked = b"transfer-encoding" in names
        self._chunks = self._chunk_bytes = 0
        if self._chunked and b"content-length" in names:  # proxies may read it the other way
            raise h11.RemoteProtocolError("it has both Content-Length and Transfer-Encoding")
        self._on_head()

    def _chunk(self, size: int) -> None:
        self._chunks += 1
        self._chunk_bytes += size
        if self._chunks > _FREE_CHUNKS + self._chunk_bytes // _LEAST_CHUNK_BYTES:
            raise h11.RemoteProtocolError(
                f"it has {self._chunks} chunks for {self._chunk_bytes} bytes; send larger ones"
            )


def _network(client: tuple[str, int] | None) -> str:
    """Whom an address belongs to: an IPv4 address, or the /64 that one customer has of IPv6.

    >>> _network(("2001:db8::1:2", 5)), _network(("::ffff:192.0.2.1", 5)), _network(None)
    ('2001:db8::', '192.0.2.1', '')
    """
    if client is None:
        return ""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return client[0]
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)).network_address)


def _response(status: int, message: str, code: str | None = None, *, extra: str = "") -> bytes:
    """A whole response, after which the connection is closed."""
    body = json_bytes(error_object(status, message, code=code))
    reason = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}.get(
        status, ""
    )
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + body


_SLOW = _response(408, "the request took too long to arrive")
_TOLD = {
    "header_timeout": _SLOW,
    "body_timeout": _SLOW,
    "refused": _response(
        503,
        "too many connections; try again later",
        "too_many_connections",
        extra="Retry-After: 1\r\n",
    ),
}
