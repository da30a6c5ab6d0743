"""A hub with one data set, on this machine: what the library `datasets` asks of the real one."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COMMIT = "a" * 40
NAME = "me/tiny"


class PretendHub(http.server.ThreadingHTTPServer):
    """Serves `files` of the data set me/tiny, and breaks off the first `cuts` answers with data.

    The first `spoilt` answers with data have a byte changed. sent: bytes of data sent, by file.
    """

    def __init__(self, files: dict[str, bytes], cuts: int, spoilt: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = {"README.md": b"# tiny\n", **files}
        self.cuts = cuts
        self.spoilt = spoilt
        self.sent: dict[str, int] = {}

    @property
    def address(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def pretend_hub(files: dict[str, bytes], cuts: int = 0, spoilt: int = 0) -> Iterator[PretendHub]:
    """A hub while the block runs."""
    with PretendHub(files, cuts, spoilt) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Answer(http.server.BaseHTTPRequestHandler):
    server: PretendHub

    def do_GET(self) -> None:
        files = self.server.files
        path = self.path.partition("?")[0]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path.startswith(f"/api/datasets/{NAME}/tree/"):
            entries = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": _blob(data),
                    **_lfs(name, data),
                }
                for name, data in files.items()
            ]
            self._json(entries)
        elif path.startswith(f"/api/datasets/{NAME}"):
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": NAME, "sha": COMMIT, "private": False, "siblings": siblings})
        elif (named := re.match(rf"/datasets/{NAME}/resolve/[^/]+/(.*)", path)) is None:
            self._missing("RepoNotFound")
        elif named[1] not in files:
            self._missing("EntryNotFound")
        else:
            self._file(named[1], files[named[1]])

    do_HEAD = do_GET

    def _json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, name: str, data: bytes) -> None:
        asked = self.headers.get("Range")
        start, end = 0, len(data)
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(end, int(last) + 1 if last else end)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{_tag(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name != "README.md" and self.server.spoilt:
            self.server.spoilt -= 1
            data = data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :]
        if name != "README.md" and self.server.cuts:
            self.server.cuts -= 1
            end = (start + end) // 2
            self.close_connection = True
        self.server.sent[name] = self.server.sent.get(name, 0) + end - start
        self.wfile.write(data[start:end])

    def log_message(self, *arguments: object) -> None: ...


def _blob(data: bytes) -> str:
    """What git calls a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _lfs(name: str, data: bytes) -> dict[str, Any]:
    """Large files are kept beside git, under their SHA-256."""
    if not name.endswith((".parquet", ".gz")):
        return {}
    digest = hashlib.sha256(data).hexdigest()
    return {"lfs": {"oid": digest, "size": len(data), "pointerSize": 130}}


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:40]
