"""Downloads that resume where they stopped and are checked when they are whole."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from glassbox.core.errors import UserError
from glassbox.core.files import write_json

ATTEMPTS = 5
TIMEOUT_SECONDS = 30
MOST_BYTES = 64 << 30
_BLOCK = 1 << 18


def download(
    url: str,
    folder: Path,
    *,
    sha256: str | None = None,
    max_bytes: int = MOST_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
    pause_seconds: float = 1.0,
) -> Path:
    """Fetch an http(s) file into `folder` and return its path; a complete file is not downloaded
    again.

    A partial file is resumed by a range request, if the server's ETag or date show that it is the
    same file; otherwise it is downloaded again. The SHA-256 is
    computed over the whole file, stored in NAME.json next to it, and compared with `sha256`.
    Raises UserError for another checksum (the file is removed), a file of more than `max_bytes` or
    more
    than the disk has room for, a public server that redirects to a private address, a refusal, or a
    server that fails five times. `progress` is called with the bytes so far and in all (0:
    unknown).
    """
    path = folder / file_name(url)
    note = path.with_name(path.name + ".json")
    known = _read(note) if path.exists() else {}
    if known.get("url") == url and known.get("bytes") == path.stat().st_size:
        if sha256 in (None, known.get("sha256")):
            return path
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            if _fetch(url, part, max_bytes, progress):
                break
            problem = "the connection ended early"
        except urllib.error.HTTPError as error:
            problem = f"the server answers {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 416, 429):
                raise UserError(f"cannot fetch '{url}': {problem}; check the address") from None
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", None) or error) or type(error).__name__
        time.sleep(pause_seconds * 2**attempt)
    else:
        raise UserError(
            f"cannot fetch '{url}': {problem}, {ATTEMPTS} times; run again to go on where it stopped"
        )
    digest = _sha256(part)
    if sha256 is not None and digest != sha256.lower():
        part.unlink()
        raise UserError(
            f"'{url}' has sha256 {digest}, not {sha256}; the file was removed: check the address "
            "and the checksum"
        )
    size = part.stat().st_size
    os.replace(part, path)
    write_json(note, {"url": url, "bytes": size, "sha256": digest})
    _validator_file(part).unlink(missing_ok=True)
    return path


def file_name(url: str) -> str:
    """The last part of an address as a file's name.

    >>> file_name("https://example.org/data/en%20web.jsonl.gz?download=true")
    'en_web.jsonl.gz'
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(f"'{url}' is no http or https address")
    name = re.sub(r"[^\w.-]", "_", unquote(parts.path.rstrip("/").rpartition("/")[2])).lstrip(".")
    if not name:
        raise UserError(f"'{url}' names no file; give an address that ends in one")
    return name


def _fetch(url: str, part: Path, max_bytes: int, progress: Callable[[int, int], None]) -> bool:
    """Fetch what is missing of `part`; whether it is whole now."""
    validator = _read(_validator_file(part)).get(url)
    have = part.stat().st_size if part.exists() and validator else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", str(validator))
    try:
        response = _opener().open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing, or the file has become shorter: ask anew
            part.unlink(missing_ok=True)
        raise
    with response:
        if response.status != 206:
            have = 0
        tag = response.headers.get("ETag") or ""
        tag = "" if tag.startswith("W/") else tag  # a weak tag does not vouch for bytes
        write_json(_validator_file(part), {url: tag or response.headers.get("Last-Modified")})
        length = response.headers.get("Content-Length") or ""
        total = have + int(length) if length.isascii() and length.isdigit() else 0
        _check_room(url, part, have, total, max_bytes)
        with part.open("ab" if have else "wb") as stream:
            while block := response.read(_BLOCK):
                if have + len(block) > max_bytes:
                    _too_large(url, part, f"more than {max_bytes:,}", max_bytes)
                stream.write(block)
                have += len(block)
                progress(have, total)
            stream.flush()
            os.fsync(stream.fileno())
    return not total or have == total


def _check_room(url: str, part: Path, have: int, total: int, max_bytes: int) -> None:
    if total > max_bytes:
        _too_large(url, part, f"{total:,}", max_bytes)
    free = shutil.disk_usage(part.parent).free
    if total - have > free:
        raise UserError(
            f"'{url}' has {total:,} bytes, and the disk of '{part.parent}' has room for {free:,}; "
            "name a folder elsewhere as out, or make room"
        )


def _too_large(url: str, part: Path, size: str, max_bytes: int) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)
    raise UserError(f"'{url}' has {size} bytes, max_bytes is {max_bytes:,}; raise max_bytes")


class _Guard:
    """Knows whether the first server of a download was public; then no later one may be private."""

    def __init__(self) -> None:
        self.public: bool | None = None

    def check(self, address: str, host: str) -> None:
        """Look at the address of a connection that is made. Raises UserError before a byte is sent."""
        public = is_public(address)
        if self.public is None:
            self.public = public
        elif self.public and not public:
            raise UserError(
                f"the server redirects to '{host}' ({address}), an address of a private network; "
                "name the file's own address if you trust it"
            )


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet.

    >>> is_public("93.184.215.14"), is_public("10.0.0.1"), is_public("::1"), is_public("169.254.1.1")
    (True, False, False, False)
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return (mapped or ip).is_global and not ip.is_multicast


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https alone, and looks at whom it is connected to after each redirect.

    Through a proxy it is the proxy that connects: then a redirect to a literal private address, or
    to a name that resolves to one here, is refused.
    """
    guard = _Guard()

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            _check_peer(guard, self)

    class Tls(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            _check_peer(guard, self)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class TlsHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Tls, req)

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self,
            req: urllib.request.Request,
            fp: IO[bytes],
            code: int,
            msg: str,
            headers: http.client.HTTPMessage,
            newurl: str,
        ) -> Any:
            if not newurl.startswith(("http://", "https://")):
                raise UserError(f"the server redirects to '{newurl}', no http or https address")
            if urllib.request.getproxies():
                for address in _addresses(req.host):
                    guard.check(address, req.host)
                host = urlsplit(newurl).hostname or ""
                for address in _addresses(host):
                    guard.check(address, host)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return urllib.request.build_opener(PlainHandler(), TlsHandler(), Redirects())


def _check_peer(guard: _Guard, connection: http.client.HTTPConnection) -> None:
    if not urllib.request.getproxies():
        guard.check(connection.sock.getpeername()[0], connection.host)


def _addresses(host: str) -> list[str]:
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host.partition(":")[0], None)]
    except OSError:
        return []


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
