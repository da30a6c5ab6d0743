"""Chats, their branches and the settings of the page, in one SQLite file of bounded size."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from glassbox.core.errors import UserError

Json = dict[str, Any]

MAX_BYTES = 512 << 20
_PAGE_BYTES = 4096
_SCHEMA = """
CREATE TABLE IF NOT EXISTS chats(
    id TEXT PRIMARY KEY, title TEXT NOT NULL, created REAL NOT NULL, changed REAL NOT NULL,
    settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS messages(
    id TEXT PRIMARY KEY, chat TEXT NOT NULL REFERENCES chats(id) ON DELETE CASCADE,
    parent TEXT, place INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, model TEXT,
    status TEXT NOT NULL, note TEXT, created REAL NOT NULL, request TEXT NOT NULL, trace BLOB);
CREATE INDEX IF NOT EXISTS messages_of_chat ON messages(chat, place);
CREATE TABLE IF NOT EXISTS settings(key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_VERSION = 1


def new_id() -> str:
    """An id that cannot be guessed and fits an address."""
    return secrets.token_hex(8)


class Store:
    """Chats, branches and settings, in `folder`/studio.sqlite.

    A chat is a tree of messages: a message's siblings are its other versions. Answers that were under
    way when the process ended become "interrupted", with the tokens saved so far.
    max_bytes: largest size of the file; past it writing raises UserError until chats are deleted.
    Raises UserError for a folder that another studio uses or that cannot be written to.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = folder / "studio.sqlite"
        self.max_bytes = max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held = FileLock(str(folder / "studio.lock"), timeout=0, thread_local=False)
            self._held.acquire()
        except Timeout:
            raise UserError(
                f"another studio keeps its chats in '{folder}'; stop it, or give --data FOLDER"
            ) from None
        except OSError as error:
            raise UserError(
                f"--data '{folder}' cannot be used: {error.strerror or error}; give another folder"
            ) from None
        self._lock = threading.RLock()
        try:
            self._base = self._open()
        except sqlite3.Error as error:
            self._held.release()
            raise UserError(
                f"'{self.path}' cannot be read ({error}); move it away or give --data FOLDER"
            ) from None

    def _open(self) -> sqlite3.Connection:
        base = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        base.row_factory = sqlite3.Row
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        base.execute("PRAGMA foreign_keys = ON")
        found = base.execute("PRAGMA user_version").fetchone()[0]
        if found > _VERSION:
            raise UserError(
                f"'{self.path}' was written by a newer Glassbox; upgrade, or give --data FOLDER"
            )
        base.executescript(_SCHEMA)
        base.execute(f"PRAGMA user_version = {_VERSION}")
        size = base.execute("PRAGMA page_size").fetchone()[0]
        base.execute(f"PRAGMA max_page_count = {max(64, self.max_bytes // size)}")
        base.execute("UPDATE messages SET status = 'interrupted' WHERE status = 'running'")
        return base

    def close(self) -> None:
        """Close the file; another studio may use it."""
        with self._lock:
            self._base.close()
        self._held.release()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises UserError where the file is as large as it may be."""
        with self._lock:
            try:
                self._base.execute("BEGIN IMMEDIATE")
                yield self._base
                self._base.execute("COMMIT")
            except sqlite3.OperationalError as error:
                if self._base.in_transaction:  # SQLite itself rolls back where the file is full
                    self._base.execute("ROLLBACK")
                if "full" not in str(error):
                    raise
                raise UserError(
                    f"the chats fill the {self.max_bytes >> 20} MiB they may take; delete some"
                ) from None
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._base.execute(query, values).fetchall()

    # ---- chats ------------------------------------------------------------------------------

    def chats(self) -> list[Json]:
        """All chats, the one last changed first."""
        return [_chat(row) for row in self._rows("SELECT * FROM chats ORDER BY changed DESC")]

    def chat(self, chat: str) -> Json:
        """One chat. Raises UserError where there is none."""
        rows = self._rows("SELECT * FROM chats WHERE id = ?", chat)
        if not rows:
            raise UserError(f"there is no chat {chat[:40]!r}; it may have been deleted")
        return _chat(rows[0])

    def add_chat(self, title: str, settings: Mapping[str, Any]) -> Json:
        """A new, empty chat."""
        now, chat = time.time(), new_id()
        with self._writing() as base:
            base.execute(
                "INSERT INTO chats VALUES (?, ?, ?, ?, ?)",
                (chat, title[:200], now, now, json.dumps(settings)),
            )
        return self.chat(chat)

    def change_chat(
        self, chat: str, *, title: str | None = None, settings: Mapping[str, Any] | None = None
    ) -> Json:
        """Change its title, its settings or both."""
        old = self.chat(chat)
        values = (
            old["title"] if title is None else title[:200],
            json.dumps(old["settings"] if settings is None else settings),
            time.time(),
            chat,
        )
        with self._writing() as base:
            base.execute(
                "UPDATE chats SET title = ?, settings = ?, changed = ? WHERE id = ?", values
            )
        return self.chat(chat)

    def delete_chat(self, chat: str) -> None:
        """Delete a chat and all its messages."""
        with self._writing() as base:
            base.execute("DELETE FROM chats WHERE id = ?", (chat,))

    # ---- messages ---------------------------------------------------------------------------

    def messages(self, chat: str) -> list[Json]:
        """All messages of a chat in the order in which they were made, tokens included."""
        rows = self._rows("SELECT * FROM messages WHERE chat = ? ORDER BY place", chat)
        return [_message(row) for row in rows]

    def message(self, message: str) -> Json:
        """One message. Raises UserError where there is none."""
        rows = self._rows("SELECT * FROM messages WHERE id = ?", message)
        if not rows:
            raise UserError(f"there is no message {message[:40]!r}; it may have been deleted")
        return _message(rows[0])

    def branch(self, message: str | None) -> list[Json]:
        """The messages from a chat's first to this one."""
        found: list[Json] = []
        while message is not None:
            found.append(self.message(message))
            message = found[-1]["parent"]
        return found[::-1]

    def add_message(
        self,
        chat: str,
        parent: str | None,
        role: str,
        content: str,
        *,
        model: str | None = None,
        status: str = "done",
        request: Mapping[str, Any] | None = None,
        prompt: Sequence[int] = (),
        tokens: Sequence[Json] = (),
    ) -> Json:
        """A message after `parent`; None for a chat's first.

        Raises UserError for a parent of another chat.
        """
        if parent is not None and self.message(parent)["chat"] != chat:
            raise UserError(f"message {parent} belongs to another chat")
        self.chat(chat)
        now, number = time.time(), new_id()
        trace = _pack({"prompt": list(prompt), "tokens": list(tokens)})
        with self._writing() as base:
            (place,) = base.execute("SELECT coalesce(max(place), 0) + 1 FROM messages").fetchone()
            base.execute(
                "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?)",
                (
                    number, chat, parent, place, role, content, model, status, now,
                    json.dumps(request or {}), trace,
                ),
            )  # fmt: skip
            base.execute("UPDATE chats SET changed = ? WHERE id = ?", (now, chat))
        return self.message(number)

    def save_answer(
        self,
        message: str,
        *,
        content: str,
        status: str,
        prompt: Sequence[int],
        tokens: Sequence[Json],
        note: str | None = None,
    ) -> None:
        """Save the current tokens of an answer; does nothing if its chat was deleted meanwhile."""
        trace = _pack({"prompt": list(prompt), "tokens": list(tokens)})
        with self._writing() as base:
            base.execute(
                "UPDATE messages SET content = ?, status = ?, note = ?, trace = ? WHERE id = ?",
                (content, status, note, trace, message),
            )

    # ---- settings of the page ---------------------------------------------------------------

    def settings(self) -> Json:
        """What the page wants to find again: language, theme, the last sampling settings."""
        rows = self._rows("SELECT key, value FROM settings")
        return {row["key"]: json.loads(row["value"]) for row in rows}

    def change_settings(self, values: Mapping[str, Any]) -> Json:
        """Set these keys."""
        with self._writing() as base:
            base.executemany(
                "INSERT INTO settings VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
                [(key, json.dumps(value)) for key, value in values.items()],
            )
        return self.settings()

    @property
    def num_bytes(self) -> int:
        """Bytes of the chats, free pages of the file left out."""
        with self._lock:
            pages, free, size = (
                self._base.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * size)


def _pack(trace: Json) -> bytes:
    return zlib.compress(json.dumps(trace, separators=(",", ":"), ensure_ascii=False).encode(), 3)


def _chat(row: sqlite3.Row) -> Json:
    return {**dict(row), "settings": json.loads(row["settings"])}


def _message(row: sqlite3.Row) -> Json:
    found = {key: row[key] for key in row.keys() if key not in ("trace", "place")}  # noqa: SIM118
    found["request"] = json.loads(row["request"])
    trace = json.loads(zlib.decompress(row["trace"])) if row["trace"] else {}
    return {**found, "prompt": trace.get("prompt", []), "tokens": trace.get("tokens", [])}
