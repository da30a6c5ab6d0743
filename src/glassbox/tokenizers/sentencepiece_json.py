"""Sentencepiece vocabularies in tokenizer.json: BPE with `byte_fallback`, spaces written `▁`.

Read here: the forms that transformers writes for Llama 2, Mistral and Gemma. A piece's score is the
place of its first merge. What is not known is refused by name.
"""

from __future__ import annotations

from typing import Any

from glassbox.core.errors import UserError
from glassbox.tokenizers.sentencepiece import SPACE, SentencePieceModel, SpacedText, byte_piece

_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_SPLIT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}


def is_sentencepiece(raw: Any) -> bool:
    """Whether a parsed tokenizer.json is of this kind, in a form that is known."""
    model = raw.get("model") if isinstance(raw, dict) else None
    if not isinstance(model, dict) or model.get("byte_fallback") is not True:
        return False
    vocab = model.get("vocab")
    if model.get("type", "BPE") != "BPE" or not isinstance(vocab, dict):
        return False
    return _prefix(raw) is not None and all(byte_piece(byte) in vocab for byte in range(256))


def parse_model(raw: dict[str, Any], where: str) -> tuple[SentencePieceModel, SpacedText]:
    """Model and pre-tokenizer. Raises UserError naming the key that cannot be followed."""
    spaced = _prefix(raw) is True
    model = raw["model"]
    vocab, merges = model.get("vocab"), model.get("merges")
    if model.get("type", "BPE") != "BPE" or not isinstance(vocab, dict):
        raise UserError(f"{where}: model.type = {model.get('type')!r} with bytes is not supported")
    if not isinstance(merges, list) or not all(type(number) is int for number in vocab.values()):
        raise UserError(f"{where}: model.vocab or model.merges is damaged")
    added = {token.get("content") for token in raw.get("added_tokens") or []}
    rank: dict[str, int] = {}
    for place, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2 and all(type(p) is str for p in parts)):
            raise UserError(f"{where}: model.merges[{place}] is not two pieces")
        rank.setdefault("".join(parts), place)
    byte_ids = [vocab[byte_piece(b)] for b in range(256) if byte_piece(b) in vocab]
    bytes_too = {byte_piece(byte) for byte in range(256)}
    pieces = [
        (number, piece, -float(rank.get(piece, len(merges))))
        for piece, number in sorted(vocab.items(), key=lambda item: item[1])
        if piece not in added and piece not in bytes_too
    ]
    built = SentencePieceModel(pieces, byte_ids)
    return built, SpacedText(spaced, built.spaces_lead())


def model_to_json(
    model: SentencePieceModel, words: SpacedText, added: dict[str, int]
) -> dict[str, Any]:
    """The entries `normalizer`, `pre_tokenizer`, `decoder` and `model`; `added`: control tokens' ids."""
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if words.prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    steps = [_PREPEND, _REPLACE] if words.prefix else [_REPLACE]
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model_entry(model, added),
    }


def model_entry(model: SentencePieceModel, added: dict[str, int]) -> dict[str, Any]:
    """The `model` entry; `added`: control tokens' ids."""
    vocab = sorted({**model.vocab, **added}.items(), key=lambda item: item[1])
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>" if "<unk>" in added else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": dict(vocab),
        "merges": [list(pair) for pair in model.merges],
    }


def _prefix(raw: dict[str, Any]) -> bool | None:
    """Whether a space is put before each text; None: the form is another."""
    normalizer, words = raw.get("normalizer"), raw.get("pre_tokenizer")
    steps = [] if normalizer is None else [normalizer]
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers") or []
    if words in (None, _SPLIT) and steps == [_PREPEND, _REPLACE]:
        return True
    if words in (None, _SPLIT) and steps == [_REPLACE]:
        return False
    if isinstance(words, dict) and words.get("type") == "Metaspace" and not steps:
        scheme = words.get("prepend_scheme", "always")
        if words.get("replacement") == SPACE and scheme in ("always", "never"):
            return bool(scheme == "always")
    return None
