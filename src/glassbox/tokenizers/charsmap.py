"""Sentencepiece's normalization table, as stored in its files.

The blob is the length in bytes of a double-array trie, the trie (a little-endian u32 a unit), and
the replacements, each ended by a zero byte. A unit says in its bits: 0-7 the byte that leads here
(with bit 31: it is a value), 8 whether a value hangs on it, 9 the offset's scale, 10-30 the offset.
Source: Yata's darts-clone (`include/darts.h`), which sentencepiece uses. Tested against:
`tokenizers` and sentencepiece, the same text.
"""

from __future__ import annotations

import base64
import binascii
import struct

import regex

from glassbox.core.errors import UserError
from glassbox.tokenizers.patterns import WorkLimit

_MAX_VALUE_BYTES = 256  # the longest expansion of Unicode's own has 54
_MAX_CACHED_CHARS = 64
_CLOCK = 1 << 14  # graphemes between two looks at the limit
_GRAPHEME_BYTES = 6  # `tokenizers` looks up whole graphemes below this length, else characters


class CharsMap:
    """The trie and its replacements. Raises UserError for a damaged table."""

    def __init__(self, blob: bytes, where: str) -> None:
        size = struct.unpack_from("<I", blob)[0] if len(blob) >= 4 else -1
        if size < 4 or size % 4 or 4 + size > len(blob):
            raise UserError(f"{where}.precompiled_charsmap is damaged")
        self.units = struct.unpack_from(f"<{size // 4}I", blob, 4)
        self.values = blob[4 + size :]
        self._cache = _Graphemes(self)

    @classmethod
    def from_base64(cls, text: str, where: str) -> CharsMap:
        """The table as tokenizer.json writes it."""
        try:
            return cls(base64.b64decode(text, validate=True), where)
        except binascii.Error:
            raise UserError(f"{where}.precompiled_charsmap is no base64") from None

    def matches(self, key: bytes) -> list[tuple[int, str]]:
        """(bytes read, replacement) of each prefix of `key` that the table has, the shortest first."""
        units, found, place = self.units, [], 0
        unit = units[0]
        place ^= _offset(unit)
        for length, byte in enumerate(key, 1):
            place ^= byte
            if place >= len(units):
                break
            unit = units[place]
            if unit & 0x800000FF != byte:
                break
            place ^= _offset(unit)
            if unit >> 8 & 1 and place < len(units):
                start = units[place] & 0x7FFFFFFF
                end = self.values.find(b"\0", start)
                if end - start > _MAX_VALUE_BYTES:
                    raise UserError(
                        f"precompiled_charsmap replaces by {end - start} bytes; at most "
                        f"{_MAX_VALUE_BYTES} are supported"
                    )
                found.append((length, self.values[start:end].decode("utf-8", "replace")))
        return found

    def by_grapheme(self, text: str, limit: WorkLimit) -> str:
        """The text as `tokenizers` normalizes it: whole graphemes where short, else characters."""
        graphemes = regex.findall(r"\X", text)
        parts: list[str] = []
        length = 0
        for start in range(0, len(graphemes), _CLOCK):
            parts.append("".join(map(self._cache.__getitem__, graphemes[start : start + _CLOCK])))
            length += len(parts[-1])
            limit.check("precompiled_charsmap", length)
        return "".join(parts)


class _Graphemes(dict[str, str]):
    """What graphemes become; a new one is looked up, and the dict starts afresh when full."""

    LIMIT = 1 << 16

    def __init__(self, table: CharsMap) -> None:
        super().__init__()
        self.table = table

    def __missing__(self, grapheme: str) -> str:
        content = grapheme.encode()
        if len(content) < _GRAPHEME_BYTES and (found := self.table.matches(content)):
            result = found[0][1]
        else:
            by_char = ((char, self.table.matches(char.encode())) for char in grapheme)
            result = "".join(found[0][1] if found else char for char, found in by_char)
        if len(grapheme) <= _MAX_CACHED_CHARS:
            if len(self) >= self.LIMIT:
                self.clear()
            self[grapheme] = result
        return result


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & (1 << 9)) >> 6)
