"""Decoders: from tokens back to text, each step as tokenizer.json writes it.

What a token gives may depend on whether it is the first one, and on whether the one before it
ended a word; nothing looks further, so that ids decode one by one. Bytes stay bytes until the
characters are whole, where `tokenizers` decodes a run of byte tokens at once: the two differ in what
a run that is no UTF-8 becomes. Tested against: `tokenizers`, the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import regex

from glassbox.core.errors import UserError
from glassbox.tokenizers.bytelevel import to_bytes
from glassbox.tokenizers.checks import get, kind_of, optional, show, typed

Step = Callable[[str, "str | None"], str]
"""(what the token is so far, the token before it or None) -> what it becomes."""

_MAX_STEPS = 64
_MAX_PIECE_CHARS = 1 << 16
_BYTE = regex.compile(r"<0x([0-9A-Fa-f]{2})>")
_CLEANUP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class Decoder:
    """The steps of an entry; null joins tokens with spaces. Raises UserError naming what is not known."""

    def __init__(self, raw: Any, where: str) -> None:
        self.raw = raw
        self._steps: list[Step] = []
        self._bytes = self._byte_level = False
        steps = [raw]
        if isinstance(raw, dict) and raw.get("type") == "Sequence":
            steps = get(raw, "decoders", list, where)
            if len(steps) > _MAX_STEPS:
                raise UserError(
                    f"{where} has {len(steps)} steps; at most {_MAX_STEPS} are supported"
                )
        fused = False
        for i, step in enumerate(steps):
            here = where if steps == [raw] else f"{where}[{i}]"
            if step is None:
                self._steps.append(_spaced)
                continue
            kind = kind_of(step, (*_KINDS, "ByteLevel", "ByteFallback", "Fuse"), here)
            self._bytes |= kind == "ByteFallback"
            self._byte_level |= kind == "ByteLevel"
            fused |= kind == "Fuse"
            if kind in _KINDS:
                self._steps.append(_KINDS[kind](typed(step, dict, here), here, fused))

    def piece(self, token: str, previous: str | None) -> bytes:
        """What a token gives after `previous`, the token before it; None: it is the first."""
        if self._bytes and (match := _BYTE.fullmatch(token)):
            return bytes([int(match[1], 16)])
        text = token
        for step in self._steps:
            text = step(text, previous)
        return to_bytes(text) if self._byte_level else text.encode("utf-8")


def _spaced(text: str, previous: str | None) -> str:
    return text if previous is None else " " + text


def _word_piece(raw: Any, where: str, fused: bool) -> Step:
    prefix = optional(raw, "prefix", str, "##", where)
    cleans = optional(raw, "cleanup", bool, True, where)

    def step(text: str, previous: str | None) -> str:
        if previous is not None:
            text = text[len(prefix) :] if text.startswith(prefix) else " " + text
        for old, new in _CLEANUP if cleans else ():
            text = text.replace(old, new)
        return text

    return step


def _metaspace(raw: Any, where: str, fused: bool) -> Step:
    mark = optional(raw, "replacement", str, "▁", where)
    old = optional(raw, "add_prefix_space", bool, True, where)
    prefixes = optional(raw, "prepend_scheme", str, "always" if old else "never", where) != "never"

    def step(text: str, previous: str | None) -> str:
        # Every mark of a first token goes, as in `tokenizers`: two spaces before a text are none.
        return text.replace(mark, "" if previous is None and prefixes else " ")

    return step


def _strip(raw: Any, where: str, fused: bool) -> Step:
    content = get(raw, "content", str, where)
    start, stop = get(raw, "start", int, where), get(raw, "stop", int, where)
    if len(content) != 1 or start < 0 or stop < 0 or (fused and stop):
        raise UserError(
            f"{where}: content = {show(content)}, start = {start}, stop = {stop} is not supported"
        )

    def step(text: str, previous: str | None) -> str:
        if fused and previous is not None:
            return text
        for _ in range(start):
            text = text.removeprefix(content)
        for _ in range(stop):
            text = text.removesuffix(content)
        return text

    return step


def _replace(raw: Any, where: str, fused: bool) -> Step:
    pattern = get(raw, "pattern", dict, where).get("String")
    content = get(raw, "content", str, where)
    if not isinstance(pattern, str) or not pattern or (fused and len(pattern) > 1):
        raise UserError(f"{where}.pattern = {show(raw['pattern'])}; only a String is supported")
    grows = len(content) > len(pattern)

    def step(text: str, previous: str | None) -> str:
        if grows and text.count(pattern) * len(content) > _MAX_PIECE_CHARS:
            raise UserError(f"{where} makes more than {_MAX_PIECE_CHARS} characters of a token")
        return text.replace(pattern, content)

    return step


def _suffix(raw: Any, where: str, fused: bool) -> Step:
    suffix = optional(raw, "suffix", str, "</w>", where)

    def step(text: str, previous: str | None) -> str:
        ended = previous is not None and previous.endswith(suffix)
        return (" " if ended else "") + text.replace(suffix, "")

    return step


_KINDS: Mapping[str, Callable[[Any, str, bool], Step]] = MappingProxyType(
    {
        "WordPiece": _word_piece,
        "Metaspace": _metaspace,
        "Strip": _strip,
        "Replace": _replace,
        "BPEDecoder": _suffix,
    }
)
