"""Atomic file writes: to a temporary file beside the target, then renamed into place."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from glassbox.core.errors import UserError


def open_regular(path: Path | str) -> io.BufferedReader:
    """Open a regular file for reading.

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
    """Return the content of a regular file of at most `most` bytes.

    Raises UserError for larger files and anything other than a regular file, OSError for files that
    cannot be opened. Nothing beyond `most` bytes is read or allocated.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(most + 1) if size <= most else b""
    if max(size, len(content)) > most:
        raise UserError(f"'{path}' has {size:,} bytes; files of this kind may have {most:,}")
    return content


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure (no-op where unsupported)."""
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

    Readers see either the old content or the new. On an error, such as a full disk, the temporary
    file is removed and the old content is kept. A killed process may leave the temporary file;
    `remove_leftovers` deletes it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            held = _hold(temporary)
            try:
                yield stream
            finally:
                if held is not None:
                    os.close(held)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Open a temporary folder beside `path`; on success rename it to `path`, which is missing or empty.

    A reader sees no folder, an empty one, or the complete one. On any error what was written is
    removed. What a killed process leaves is deleted by the next writer of `path` (`clear_leftovers`).
    Where the folder around `path` cannot be written to, the files are written within `path` and each
    is moved into its place.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    within = path.is_dir() and not os.access(path.parent, os.W_OK)
    name = f".{path.name}.{secrets.token_hex(4)}.tmp"
    temporary = path / name if within else path.with_name(name)
    temporary.mkdir()
    held = _hold(temporary)
    try:
        yield temporary
        for file in temporary.iterdir():
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if not within:
            with contextlib.suppress(OSError):
                temporary.replace(path)
        if temporary.exists():  # within the folder, or it is a place that cannot be replaced
            path.mkdir(exist_ok=True)
            for file in sorted(temporary.iterdir(), key=lambda file: file.name == "config.json"):
                file.replace(path / file.name)
            temporary.rmdir()
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if held is not None:
            os.close(held)
    sync_folder(path.parent)


def _hold(path: Path) -> int | None:
    """Lock a file or folder that is being written, so that it is not deleted as a leftover."""
    try:
        import fcntl
    except ImportError:  # Windows: an open file cannot be deleted there
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def leftovers(path: Path | str) -> list[Path]:
    """Temporary files that killed writers of `path` left beside it, or inside it if it is a folder."""
    path = Path(os.path.abspath(path))
    found = list(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))
    of_path = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    chosen = [one for one in found if of_path.fullmatch(one.name)]
    if path.is_dir() and not path.is_symlink():
        # a whole name.tmp is what safetensors were written as, before they had a name of their own
        of_any = re.compile(r"\..+\.[0-9a-f]{8}\.tmp|\..+\.safetensors\.tmp")
        chosen += [one for one in path.iterdir() if of_any.fullmatch(one.name)]
    return chosen


def clear_leftovers(path: Path | str) -> None:
    """Delete the `leftovers` of a path that no running process is writing."""
    for leftover in leftovers(path):
        held = _hold(leftover)
        if held is None and os.name != "nt":
            continue  # another process writes it
        with contextlib.suppress(OSError):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        if held is not None:
            os.close(held)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of killed writers under `folder`; call it only while nobody else writes there."""
    for temporary in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", temporary.name) and temporary.is_file():
            temporary.unlink(missing_ok=True)


def checksum(path: Path | str) -> str:
    """Size and BLAKE2b-128 hash of a file's content, as 'BYTES-HEX'."""
    digest, size = hashlib.blake2b(digest_size=16), 0
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return f"{size}-{digest.hexdigest()}"


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write bytes atomically: `path` has either its old content or all of the new."""
    with atomic_writer(path) as stream:
        stream.write(content)


def write_text(path: Path | str, content: str) -> None:
    """Write UTF-8 text atomically: `path` has either its old content or all of the new."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path | str, content: Any, *, indent: int | None = 2) -> None:
    """Write JSON atomically: `path` has either its old content or all of the new."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=indent) + "\n")
