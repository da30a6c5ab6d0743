"""Sentencepiece's `.model`: a protocol buffer with pieces, how they were trained, and normalization.

Read field by field, so that no generated code is needed. Unigram models become `UnigramModel`,
byte-pair ones `SentencePieceModel` where they have bytes and no table of normalizations.
Source: `sentencepiece_model.proto`. Tested against: sentencepiece, the same ids.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.core.files import read_limited
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.parts import TextProcessing, TokenizerParts, TokenModel
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.sentencepiece import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    SpacedText,
)
from glassbox.tokenizers.unigram import UnigramModel

MAX_FILE_BYTES = 64 << 20
"""Largest tokenizer.model; that of Gemma, of 256,000 pieces, has 4 MB."""
_UNIGRAM, _BPE = 1, 2
Value = int | bytes


def read_sentencepiece(path: Path | str) -> TokenizerParts:
    """The parts of a `.model` file. Raises UserError for what is damaged or not known."""
    try:
        content = read_limited(path, MAX_FILE_BYTES)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    try:
        return _build(content)
    except (struct.error, IndexError, UnicodeDecodeError, TypeError, AttributeError):
        raise UserError(f"'{path}' is damaged or no sentencepiece model") from None


def _build(content: bytes) -> TokenizerParts:
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Value] = {}
    spec: dict[int, Value] = {}
    for field, value in _fields(content):
        if field == 1:
            entry = dict(_fields(value))
            text, score = entry[1], entry.get(2, b"\0\0\0\0")
            pieces.append((text.decode(), struct.unpack("<f", score)[0], entry.get(3, NORMAL)))
        elif field == 2:
            trainer = dict(_fields(value))
        elif field == 3:
            spec = dict(_fields(value))
    if not pieces:
        raise IndexError
    kinds = [kind for *_, kind in pieces]
    if UNUSED in kinds:
        raise UserError("the model has unused pieces; that is not supported")
    added = [
        AddedToken(text, number, special=kind != USER_DEFINED)
        for number, (text, _, kind) in enumerate(pieces)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    roles = {
        role: pieces[number][0]
        for role, number in (
            ("unk_token", _signed(trainer.get(40, 0))),
            ("bos_token", _signed(trainer.get(41, 1))),
            ("eos_token", _signed(trainer.get(42, 2))),
            ("pad_token", _signed(trainer.get(43, -1))),
        )
        if 0 <= number < len(pieces)
    }
    model, words = _model_and_words(pieces, trainer, spec)
    return TokenizerParts(model, words, added, roles=roles)


def _model_and_words(
    pieces: list[tuple[str, float, int]], trainer: dict[int, Value], spec: dict[int, Value]
) -> tuple[TokenModel, TextProcessing]:
    kind = trainer.get(3, _UNIGRAM)
    table = spec.get(2, b"")
    prefixes, squeezes = bool(spec.get(3, 1)), bool(spec.get(4, 1))
    assert isinstance(table, bytes)
    byte_ids = [number for number, (*_, k) in enumerate(pieces) if k == BYTE]
    ordinary = [
        (number, text, score) for number, (text, score, k) in enumerate(pieces) if k == NORMAL
    ]
    if kind == _BPE:
        if table or squeezes:
            raise UserError(
                "a byte-pair model with a normalization table or remove_extra_whitespaces is not "
                "supported; train with normalization_rule_name=identity, remove_extra_whitespaces=false"
            )
        bpe = SentencePieceModel(ordinary, byte_ids)
        return bpe, SpacedText(prefixes, bpe.spaces_lead())
    if kind != _UNIGRAM:
        raise UserError(f"model_type = {kind!r} is not supported; known: 1 (unigram), 2 (bpe)")
    hidden = frozenset(number for number, (*_, k) in enumerate(pieces) if k != NORMAL)
    unknown = next((number for number, (*_, k) in enumerate(pieces) if k == UNKNOWN), None)
    least = min((score for _, _, score in ordinary), default=0.0)
    model = UnigramModel(
        [(text, score) for text, score, _ in pieces],
        unknown,
        byte_fallback=bool(byte_ids),
        hidden=hidden,
        floor=least - 10.0,
    )
    steps: list[dict[str, Any]] = []
    if table:
        steps.append(
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
        )
    if squeezes:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    # Pieces may hold spaces after other characters; then words must not be cut at them.
    whole = any(SPACE in text[1:].lstrip(SPACE) for _, text, _ in ordinary)
    runs = any(text.startswith(SPACE * 2) for _, text, _ in ordinary)
    words = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if prefixes else "never",
        "split": not (whole or runs),
    }
    decoder: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefixes:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    normalizer = {"type": "Sequence", "normalizers": steps} if steps else None
    return model, Processing(normalizer, words, {"type": "Sequence", "decoders": decoder})


def _fields(content: Any) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: integers, or the bytes of everything else."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(content, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _varint(content, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise IndexError
        if place + size > len(content):
            raise IndexError
        yield key >> 3, content[place : place + size]
        place += size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise IndexError


def _signed(value: Any) -> int:
    return int(value) - (1 << 64) if value >= 1 << 63 else int(value)
