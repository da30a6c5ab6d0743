"""Files that a crash may interrupt: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from glassbox.core.errors import UserError


def open_regular(path: Path | str) -> io.BufferedReader:
    """Open a file for reading that must be an ordinary one.

    Opening a pipe would wait for its writer, and a device such as /dev/zero has no end. Raises
    UserError for these, OSError for what cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise UserError(f"'{path}' is a pipe, socket or device; give an ordinary file")


def read_limited(path: Path | str, most: int) -> bytes:
    """The content of an ordinary file of at most `most` bytes.

    Raises UserError for larger files and for what is no ordinary file, OSError for what cannot be
    opened. Nothing beyond `most` bytes is read or allocated.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(most + 1) if size <= most else b""
    if max(size, len(content)) > most:
        raise UserError(f"'{path}' has {size:,} bytes; files of this kind may have {most:,}")
    return content


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (a no-op where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_writer(path: Path | str) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success flush it to disk and rename it to `path`.

    A reader sees the old content or the new, never half of either. On any error, a full disk
    included, the temporary file is removed and the old content stays. A kill may leave the temporary
    file behind; `remove_leftovers` clears it away.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left anywhere under `folder`; call it where nobody else writes."""
    for temporary in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", temporary.name) and temporary.is_file():
            temporary.unlink(missing_ok=True)


def checksum(path: Path | str) -> str:
    """Size and BLAKE2b-128 of a file's content, as one word: 'BYTES-HEX'."""
    digest, size = hashlib.blake2b(digest_size=16), 0
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return f"{size}-{digest.hexdigest()}"


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write bytes so that `path` holds either its old content or all of the new."""
    with atomic_writer(path) as stream:
        stream.write(content)


def write_text(path: Path | str, content: str) -> None:
    """Write UTF-8 text so that `path` holds either its old content or all of the new."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path | str, content: Any, *, indent: int | None = 2) -> None:
    """Write JSON so that `path` holds either its old content or all of the new."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=indent) + "\n")
