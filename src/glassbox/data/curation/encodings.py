"""Which encoding bytes are in, and text from bytes that are not quite in it."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
from pathlib import Path
from typing import Any, BinaryIO, cast

from glassbox.core.errors import UserError

SAMPLE_BYTES = 1 << 20
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
XZ_MEMORY = 1 << 28
ZST_WINDOW = 1 << 31
"""What a file may ask for: xz -9 needs 65 MB, zstd --long=31 two gigabytes."""
_GUESS_BYTES = 1 << 15
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CANDIDATES = (
    "cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 iso8859_2 iso8859_5 iso8859_7 koi8_r mac_roman "
    "gb18030 big5 shift_jis euc_jp euc_kr"
)
# codecs that are no encodings of files: they take quadratic time, run escapes, or refuse all
_NO_ENCODINGS = frozenset(["idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"])
_META_CHARSET = re.compile(rb"""(?i)<meta[^>]{0,200}charset\s*=\s*["']?\s*([a-z0-9_:.-]+)""")


def detect_encoding(sample: bytes, *, where: str, whole: bool = False) -> str:
    """The encoding of a file by its first bytes.

    A byte order mark decides; then zeros, which only UTF-16 and UTF-32 have; then UTF-8, if the sample
    is valid or nearly so; and else charset-normalizer's guess, Windows-1252 where that is as likely (so
    short Czech or Hungarian in Windows-1250 wants to be named). `whole`: the sample is the file.
    Raises UserError, beginning with `where`, where a guess is needed and the extra `data` is missing.

    >>> detect_encoding("naïve".encode("utf-16"), where="a.txt")
    'utf-16'
    """
    for mark, name in _BOMS:
        if sample.startswith(mark):
            return name
    if b"\0" in sample and (wide := _wide(sample)):
        return wide
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(sample, final=whole)
    if not (unknown := text.count("\ufffd")):
        return "utf-8"
    known = len(text) - len(text.encode("ascii", "ignore")) - unknown
    if known >= 4 * unknown:  # UTF-8 with some bytes damaged
        return "utf-8"
    return _guess(sample, where)


def text_encoding(name: str) -> str:
    """The name of an encoding as Python knows it. Raises UserError for what decodes no text.

    >>> text_encoding("Latin-1")
    'iso8859-1'
    """
    try:
        found = codecs.lookup(name).name
        if found.replace("-", "_") in _NO_ENCODINGS:
            raise LookupError(name)
        # zlib_codec and rot13 are codecs too, but not of text; some have no incremental decoder
        b"a".decode(found, "replace")
        codecs.getincrementaldecoder(found)("replace").decode(b"a", True)
    except (LookupError, ValueError, AssertionError):
        raise UserError(
            f"source: encoding '{name}' is not known; use auto, utf-8, latin-1 ..."
        ) from None
    return found


def _wide(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: most letters have zeros in the same places."""
    length = len(sample) // 4 * 4
    if not length:
        return None
    zeros = [sample[place:length:4].count(0) / (length // 4) for place in range(4)]
    if zeros[1] > 0.3 and zeros[3] > 0.3 and zeros[0] < 0.05:
        return "utf-32-le" if zeros[2] > 0.9 else "utf-16-le"
    if zeros[0] > 0.3 and zeros[2] > 0.3 * (zeros[1] < 0.9) and zeros[3] < 0.05:
        return "utf-32-be" if zeros[1] > 0.9 else "utf-16-be"
    return None


def _guess(sample: bytes, where: str) -> str:
    try:
        import charset_normalizer
    except ImportError:
        raise UserError(
            f"{where} is not UTF-8, and guessing its encoding needs the package charset-normalizer; "
            'name it (encoding: latin-1) or pip install "glassbox-lm[data]"'
        ) from None
    # lines of ASCII tell nothing; a guess by the others is quicker and better
    telling = b"\n".join(line for line in sample.split(b"\n") if not line.isascii())
    found = charset_normalizer.from_bytes(
        telling[:_GUESS_BYTES], cp_isolation=_CANDIDATES.split(), threshold=0.5
    )
    best = found.best()
    if best is None:
        return "cp1252"
    # between Windows' Western and Central European letters it often cannot tell: then the commoner
    alike = [m for m in found if (m.chaos, m.coherence) == (best.chaos, best.coherence)]
    western = any("cp1252" in match.could_be_from_charset for match in alike)
    return "cp1252" if western else best.encoding


def is_wide(encoding: str) -> bool:
    """Whether line feeds cannot be found by their byte."""
    return encoding.replace("_", "-").lower().startswith(("utf-16", "utf-32"))


def decode(content: bytes, encoding: str) -> tuple[str, str]:
    """Text, and how it was repaired ('' where it was not).

    Bytes that are not in the encoding become U+FFFD; a line that is no UTF-8 at all where UTF-8 was
    meant is read as Windows-1252, which such lines mostly are.

    >>> decode(b"caf\\xe9", "utf-8")
    ('café', 'not utf-8, read as cp1252')
    """
    try:
        return content.decode(encoding), ""
    except UnicodeDecodeError:
        pass
    if encoding in ("utf-8", "utf-8-sig"):
        lenient = content.decode(encoding, "replace")
        unknown = lenient.count("\ufffd")
        if len(lenient) - len(lenient.encode("ascii", "ignore")) < 2 * unknown:
            return content.decode("cp1252", "replace"), "not utf-8, read as cp1252"
        return lenient, "damaged characters"
    return content.decode(encoding, "replace"), "damaged characters"


def decode_html(content: bytes, *, where: str) -> str:
    """A page's text by its mark, its own declaration, or a guess."""
    for mark, name in _BOMS:
        if content.startswith(mark):
            return content.decode(name, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    declared = _META_CHARSET.search(content[:4096])
    if declared:
        name = declared[1].decode("ascii").lower()
        # what pages call latin-1 is Windows-1252 (WHATWG, Encoding standard, section 4.2)
        name = "cp1252" if name in ("iso-8859-1", "latin1", "ascii", "us-ascii") else name
        try:
            if (known := text_encoding(name)) != "utf-8":
                return content.decode(known, "replace")
        except (UserError, UnicodeError, AssertionError):
            pass
    name = detect_encoding(content[:SAMPLE_BYTES], where=where, whole=True)
    return content.decode(name, "replace")


def decompressed(raw: BinaryIO, path: Path) -> BinaryIO:
    """What is read from an open file, decompressed by the ending of its name.

    Raises UserError where zstandard is missing.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.BZ2File(raw))
    if suffix == ".xz":
        return cast(BinaryIO, io.BufferedReader(_Xz(raw), 1 << 20))
    if suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_Zstandard(raw, str(path)), 1 << 20))
    return raw


class _Xz(io.RawIOBase):
    """Streams of xz or lzma, one behind the other, with a limit to the memory that one may ask for."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._stream: lzma.LZMADecompressor | None = None
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while True:
            if self._stream is None or self._stream.eof:
                rest = self._rest if self._stream is None else self._stream.unused_data
                rest = rest.lstrip(b"\0") or self._raw.read(1 << 16).lstrip(b"\0")  # padding
                if not rest:
                    return 0
                self._stream, self._rest = lzma.LZMADecompressor(memlimit=XZ_MEMORY), rest
            if self._stream.needs_input:
                content = self._rest or self._raw.read(1 << 16)
                self._rest = b""
                if not content:
                    raise EOFError("the last stream is cut off")
            else:
                content = b""
            if part := self._stream.decompress(content, len(target)):
                target[: len(part)] = part
                return len(part)


class _Zstandard(io.RawIOBase):
    """Frames of Zstandard, one behind the other. The library's own reader is silent where the last
    frame is cut off; this one raises EOFError. A block of four bytes may hold 128 KiB, so a kilobyte of
    input is taken at a time: at most 32 MiB come of it."""

    def __init__(self, raw: BinaryIO, where: str) -> None:
        self._raw = raw
        self._new = need_zstandard(where).ZstdDecompressor(max_window_size=ZST_WINDOW).decompressobj
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            rest = b"" if self._frame is None else self._frame.unused_data
            if self._frame is not None and self._frame.eof:
                self._frame = None
            content = rest or self._raw.read(1 << 10)
            if not content:
                if self._frame is not None:
                    raise EOFError("the last frame is cut off")
                return 0
            if self._frame is None:
                self._frame = self._new()
            self._ready = memoryview(self._frame.decompress(content))
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def need_zstandard(where: str) -> Any:
    """The module zstandard, or a UserError that says what needs it."""
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"'{where}' needs the package zstandard; pip install \"glassbox-lm[data]\""
        ) from None
    return zstandard
