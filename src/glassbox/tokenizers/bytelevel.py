"""Bytes as printable characters: the alphabet in which byte-level vocabularies are written.

A byte-level vocabulary has to be stored in JSON, which has no room for raw bytes. GPT-2 gave each
byte a printable stand-in: bytes that print already stand for themselves, the other 68 are moved to
U+0100 and above, so that a space is written `Ġ` and a newline `Ċ`.

Source: `bytes_to_unicode` in the code released with GPT-2 (Radford et al., 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from glassbox.core.errors import UserError


def _alphabet() -> tuple[str, ...]:
    """The stand-in of each byte, in the order of the bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(moved)) for byte in range(256))


BYTE_TO_CHAR: tuple[str, ...] = _alphabet()
CHAR_TO_BYTE: Mapping[str, int] = MappingProxyType({c: b for b, c in enumerate(BYTE_TO_CHAR)})

# Every trainer of this family numbers the alphabet by the stand-ins' code points: '!' comes first.
BYTES_IN_ORDER: tuple[int, ...] = tuple(CHAR_TO_BYTE[char] for char in sorted(BYTE_TO_CHAR))

_TO_CHARS = dict(enumerate(BYTE_TO_CHAR))


def to_chars(content: bytes) -> str:
    """Write bytes in the printable alphabet.

    >>> to_chars(" the\\n".encode())
    'ĠtheĊ'
    """
    return content.decode("latin-1").translate(_TO_CHARS)


def to_bytes(token: str) -> bytes:
    """Read a vocabulary entry back; one that is not in the alphabet stands for its own UTF-8.

    >>> to_bytes("Ġthe")
    b' the'
    """
    try:
        return bytes(CHAR_TO_BYTE[char] for char in token)
    except KeyError:
        return utf8(token)


def utf8(text: str, *, what: str = "text") -> bytes:
    """UTF-8 of a text; a lone surrogate, which has none, raises UserError naming its place."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} holds a lone surrogate {text[error.start]!r} at character {error.start}, which"
            " has no UTF-8; remove it or read the file with errors='replace'"
        ) from None
