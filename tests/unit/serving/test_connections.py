"""Limits on connections: time, number, malformed HTTP, and lines of log."""

from __future__ import annotations

import io
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

import pytest

from glassbox.core.errors import UserError
from glassbox.inference import Engine
from glassbox.serving.bodies import Limits
from glassbox.serving.connections import ConnectionLimits
from glassbox.serving.logs import JsonLines, RateLimit
from glassbox.serving.service import Service
from support.raw_http import answer, connect, health, post, read_all, serving
from support.scripted import Scripted
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = tiny_chat_model(TOKENIZER)
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
QUICK = ConnectionLimits(
    max_connections=12,
    max_per_address=12,
    header_seconds=0.4,
    body_seconds=0.4,
    idle_seconds=0.4,
    unread_seconds=0.5,
)


def service() -> Service:
    return Service(Engine(MODEL, TOKENIZER), TOKENIZER, name="tiny", model=MODEL)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(service(), QUICK) as found:
        yield found


@pytest.fixture
def patient() -> Iterator[int]:
    with serving(service(), ConnectionLimits(max_connections=12, max_per_address=12)) as found:
        yield found


def metrics(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def silent(opened: socket.socket) -> None:
    pass


def trickling(opened: socket.socket) -> None:
    """A header line now and then, as slow clients send them to stay."""
    try:
        for _ in range(100):
            opened.sendall(b"X-A: b\r\n")
            time.sleep(0.05)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("said", "then", "status"),
    [
        (b"", silent, b""),
        (b"GET /hea", silent, b"408"),
        (GET, trickling, b"408"),
        (post("/v1/completions", b"{" + b" " * 100)[:-60], silent, b"408"),
        (
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/json\r\n\r\n5\r\n[1,2,\r\n",
            silent,
            b"408",
        ),
        # a second request half sent after a first was answered
        (GET + b"\r\n" + GET, silent, b"408"),
    ],
    ids=["silent", "half a line", "trickled headers", "half a body", "endless chunks", "second"],
)
def test_who_takes_too_long_is_closed(
    port: int, said: bytes, then: Callable[[socket.socket], None], status: bytes
) -> None:
    with connect(port, said) as opened:
        begun = time.monotonic()
        then(opened)
        found = read_all(opened)
        assert time.monotonic() - begun < 10  # 0.4 s, on a busy machine
    *_, last = found.split(b"HTTP/1.1 ")
    assert last[:3] == status or (then is trickling and not found)
    if last:
        assert json.loads(last.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_who_does_not_read_the_answer_is_closed() -> None:
    model = tiny_chat_model(TOKENIZER, context_length=4_000)
    served = Service(Engine(model, TOKENIZER), TOKENIZER, name="tiny", model=model)
    asked = {"prompt": "The fox", "n": 4, "max_tokens": 3_000, "logprobs": 20, "ignore_eos": True}
    with serving(served, QUICK) as port, socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        opened.connect(("127.0.0.1", port))
        opened.sendall(post("/v1/completions", json.dumps({**asked, "stream": True}).encode()))
        until = time.monotonic() + 60
        while 'connections_closed_total{reason="unread"} 1.0' not in metrics(port):
            assert time.monotonic() < until
            time.sleep(0.05)
        while not served.idle:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_new_connections_displace_those_that_wait_but_no_request_under_way(patient: int) -> None:
    half = post("/tokenize", b'{"prompt": "The fox"}', "Connection: close")
    with connect(patient, half[:-5]) as sending:
        silent = [connect(patient, b"GET /he") for _ in range(40)]
        assert health(patient) < 10
        # the body is still awaited: the silent ones had to go, not this one
        sending.sendall(half[-5:])
        assert b"HTTP/1.1 200" in read_all(sending)
    assert 'closed_total{reason="displaced"} 3' in metrics(patient)
    for one in silent:
        one.close()


def test_a_server_that_answers_everywhere_refuses_more() -> None:
    said = Scripted(TOKENIZER, [5, 6])
    said.gate.clear()
    served = Service(said, TOKENIZER, name="tiny")
    limits = ConnectionLimits(max_connections=3, max_per_address=2)
    with serving(served, limits) as port:
        asked = post("/v1/completions", b'{"prompt": "a", "max_tokens": 2}', "Connection: close")
        answering = [connect(port, asked) for _ in range(2)]
        until = time.monotonic() + 60
        while served.worker.num_running + served.worker.num_waiting < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        status, found = answer(port, b"")
        assert status == 503
        assert (
            json.loads(found.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
        )
        said.gate.set()
        assert all(read_all(one).startswith(b"HTTP/1.1 200") for one in answering)
        assert health(port) < 10


def test_bodies_under_way_are_limited_together() -> None:
    limits = Limits(max_body_bytes=2000, max_bodies_bytes=3200)
    served = Service(Scripted(TOKENIZER, [5, 6]), TOKENIZER, name="tiny", limits=limits)
    whole = post("/tokenize", b'{"prompt": "' + b"a" * 1500 + b'"}', "Connection: close")
    with serving(served) as port:
        uploading = [connect(port, whole[:-20]) for _ in range(2)]
        time.sleep(0.2)  # both are read
        status, found = answer(port, whole)
        assert status == 429
        assert b"retry-after: 1" in found.lower()
        for one in uploading:
            one.sendall(whole[-20:])
            assert read_all(one).startswith(b"HTTP/1.1 200")
        assert answer(port, whole)[0] == 200  # there is room again


def test_who_still_sends_when_the_server_ends_is_closed_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("uvicorn").addHandler(caplog.handler)
    try:
        with serving(service()) as port:
            sending = connect(port, post("/tokenize", b'{"prompt": "The fox"}')[:-5])
            time.sleep(0.2)
        assert not read_all(sending).startswith(b"HTTP/1.1 200")
    finally:
        logging.getLogger("uvicorn").removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.exc_info]


MALFORMED = {
    "length of letters": b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n",
    "negative length": b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "length of 5,000 digits": b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: "
    + b"9" * 5000
    + b"\r\n\r\n",
    "two lengths": b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Content-Length: 4\r\n\r\nabcd",
    "length and chunks": b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    "chunk size of letters": b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc",
    "huge chunk size": b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\nabc",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "huge header": GET + b"X: " + b"a" * 30_000 + b"\r\n\r\n",
    "many headers": GET + b"".join(b"X-%d: a\r\n" % i for i in range(5_000)) + b"\r\n",
    "endless line": b"GET /" + b"a" * 40_000,
    "NUL in a header": GET + b"A: \x00\r\n\r\n",
    "high bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tiny chunks": b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 3000,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_http_gets_an_error_and_no_traceback(
    port: int, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    loggers = [logging.getLogger(one) for one in ("uvicorn", "asyncio", "glassbox.serving")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    try:
        status, found = answer(port, MALFORMED[name])
        assert health(port) < 10
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    if found:  # closing with bytes unread may lose the answer on the way
        assert 400 <= status < 600, found
        assert set(json.loads(found.partition(b"\r\n\r\n")[2])["error"]) >= {"message", "type"}
    assert not [record for record in caplog.records if record.exc_info]


def test_a_websocket_upgrade_is_answered_as_plain_http(port: int) -> None:
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    status, _ = answer(port, GET + upgrade + b"Sec-WebSocket-Key: YWJj\r\n\r\n")
    assert status == 200


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    last = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    _, found = answer(port, (GET + b"\r\n") * 200 + last)
    assert found.count(b"HTTP/1.1 200") == 201
    assert b'"object":"list"' in found.rpartition(b"HTTP/1.1 200")[2]


def test_a_body_that_turns_malformed_while_it_is_awaited_harms_nobody(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connect(port, head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n") as opened:
        time.sleep(0.1)  # the application waits for more
        opened.sendall(b"zz\r\n")
        assert read_all(opened).startswith(b"HTTP/1.1 400")
    assert health(port) < 10
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(("descriptors", "most"), [(None, 512), (100_000, 512), (256, 124)])
def test_connections_leave_descriptors_for_files(descriptors: int | None, most: int) -> None:
    fitted = ConnectionLimits().fit(descriptors, used=20)
    assert fitted.max_connections == most
    assert fitted.max_per_address <= most


def test_too_few_descriptors_are_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match=r"limit on open files is 64 and 20 are open.*ulimit -n"):
        ConnectionLimits().fit(64, used=20)


def test_lines_of_log_are_limited_and_counted() -> None:
    now = [0.0]
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    handler.addFilter(RateLimit(clock=lambda: now[0]))
    logger = logging.Logger("uvicorn.error")
    logger.addHandler(handler)
    for _ in range(1000):
        logger.warning("Invalid HTTP request received.")
    assert len(stream.getvalue().splitlines()) == 50
    now[0] = 1.0
    logger.warning("Invalid HTTP request received.")
    assert json.loads(stream.getvalue().splitlines()[-1])["lines_omitted"] == 950
