"""Downloads that resume where they stopped and are checked when they are whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from glassbox.core.errors import UserError
from glassbox.core.files import write_json

ATTEMPTS = 5
TIMEOUT_SECONDS = 30
_BLOCK = 1 << 18


def download(
    url: str,
    folder: Path,
    *,
    sha256: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    pause_seconds: float = 1.0,
) -> Path:
    """Fetch an http(s) file into `folder` and return its path; a file that is there and whole stays.

    What a broken connection or a kill left of it is gone on with by a range request, provided the
    server says it is still the same file (its ETag or date); else it is fetched anew. The SHA-256 is
    computed over the whole file, kept beside it in NAME.json, and compared with `sha256`.
    Raises UserError for another checksum (the file is removed), a refusal, or a server that fails
    five times. `progress` is called with the bytes so far and in all (0: unknown).
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
            if _fetch(url, part, progress):
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


def _fetch(url: str, part: Path, progress: Callable[[int, int], None]) -> bool:
    """Fetch what is missing of `part`; whether it is whole now."""
    validator = _read(_validator_file(part)).get(url)
    have = part.stat().st_size if part.exists() and validator else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", str(validator))
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
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
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else 0
        with part.open("ab" if have else "wb") as stream:
            while block := response.read(_BLOCK):
                stream.write(block)
                have += len(block)
                progress(have, total)
            stream.flush()
            os.fsync(stream.fileno())
    return not total or have == total


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
