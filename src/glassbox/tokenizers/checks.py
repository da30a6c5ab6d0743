"""Checking what a file says, key by key, so that an error names the key and the value."""

from __future__ import annotations

from typing import Any, TypeVar

from glassbox.core.errors import UserError

T = TypeVar("T")


def kind_of(raw: Any, known: tuple[str, ...], where: str) -> str:
    """The entry's `type`, which is one of `known`."""
    kind = typed(raw, dict, where).get("type")
    if kind not in known:
        raise UserError(f"{where}.type = {show(kind)} is not supported; known: {', '.join(known)}")
    return str(kind)


def get(raw: dict[str, Any], key: str, kind: type[T], where: str) -> T:
    """The value of a key that has to be there."""
    if key not in raw:
        raise UserError(f"{where} lacks '{key}'; the file is damaged or of another kind")
    return typed(raw[key], kind, f"{where}.{key}")


def optional(raw: dict[str, Any], key: str, kind: type[T], default: T, where: str) -> T:
    """The value of a key, or `default` where it is missing or null."""
    value = raw.get(key)
    return default if value is None else typed(value, kind, f"{where}.{key}")


def typed(value: Any, kind: type[T], where: str) -> T:
    """The value, which has to be of this kind."""
    # A bool is an int to Python, but no id is `true`.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where} = {show(value)} is no {kind.__name__}")
    return value


def show(value: Any) -> str:
    """The value, short enough for a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
