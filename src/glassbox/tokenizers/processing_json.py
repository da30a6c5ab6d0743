"""tokenizer.json beyond the byte-level form: any model, normalizer, pre-tokenizer and decoder known here."""

from __future__ import annotations

import math
from typing import Any

from glassbox.core.errors import UserError
from glassbox.tokenizers.char_bpe import CharacterModel
from glassbox.tokenizers.checks import get, kind_of, optional, show, typed
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.sentencepiece import byte_piece
from glassbox.tokenizers.unigram import UnigramModel
from glassbox.tokenizers.wordpiece import WordPieceModel

MODELS = ("BPE", "WordPiece", "Unigram", "WordLevel")


def parse_processing(root: dict[str, Any], where: str, *, chars: bool) -> Processing:
    """What is around the model. Raises UserError naming what is not known."""
    for key in ("truncation", "padding"):
        if root.get(key) is not None:
            typed(root[key], dict, f"{where}: {key}")  # says how to batch, not what the ids are
    entries = (root.get(key) for key in ("normalizer", "pre_tokenizer", "decoder"))
    return Processing(*entries, chars=chars, where=where)


def ends_in_byte_level(root: dict[str, Any]) -> bool:
    """Whether words are bytes when the model sees them."""
    step = root.get("pre_tokenizer")
    while isinstance(step, dict) and step.get("type") == "Sequence":
        steps = step.get("pretokenizers")
        step = steps[-1] if isinstance(steps, list) and steps else None
    return isinstance(step, dict) and step.get("type") == "ByteLevel"


def parse_model(
    raw: dict[str, Any], special: frozenset[str], where: str
) -> CharacterModel | WordPieceModel | UnigramModel:
    """A model that is not byte-level BPE; `special` tokens are hidden from it."""
    kind = raw.get("type") or _guess(raw)
    if kind == "WordPiece":
        return WordPieceModel(
            vocabulary(raw, where),
            optional(raw, "unk_token", str, "[UNK]", where),
            prefix=optional(raw, "continuing_subword_prefix", str, "##", where),
            max_chars=optional(raw, "max_input_chars_per_word", int, 100, where),
            hidden=special,
        )
    if kind == "Unigram":
        return _unigram(raw, special, where)
    if kind != "BPE":
        raise UserError(
            f"{where}.type = {show(kind)} is not supported; known: BPE, WordPiece, Unigram"
        )
    if raw.get("dropout"):
        raise UserError(f"{where}.dropout = {show(raw['dropout'])} is not supported; use null")
    vocab = vocabulary(raw, where)
    unknown = optional(raw, "unk_token", str, "", where) or None
    return CharacterModel(
        vocab,
        [
            read_merge(merge, f"{where}.merges[{i}]")
            for i, merge in enumerate(get(raw, "merges", list, where))
        ],
        unknown=unknown,
        fuse_unknown=optional(raw, "fuse_unk", bool, False, where),
        byte_fallback=optional(raw, "byte_fallback", bool, False, where),
        prefix=optional(raw, "continuing_subword_prefix", str, "", where),
        suffix=optional(raw, "end_of_word_suffix", str, "", where),
        ignore_merges=optional(raw, "ignore_merges", bool, False, where),
        hidden=special,
    )


def vocabulary(raw: dict[str, Any], where: str, spare: int = 1 << 16) -> dict[str, int]:
    """The checked `vocab` of an entry: ids count from 0, at most `spare` of them unused."""
    vocab = get(raw, "vocab", dict, where)
    for token, number in vocab.items():
        if type(number) is not int or number < 0 or number > len(vocab) + spare:
            raise UserError(
                f"{where}.vocab[{show(token)}] = {show(number)}; an id is an integer from 0,"
                f" at most {spare} of them unused"
            )
    return vocab


def read_merge(merge: Any, where: str) -> tuple[str, str]:
    """A merge in either spelling."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, str) for p in parts):
        return parts[0], parts[1]
    raise UserError(f"{where} = {show(merge)}; a merge is two tokens, 'a b' or ['a', 'b']")


def _guess(raw: dict[str, Any]) -> str:
    """The kind of an entry of before `type` was written."""
    if "merges" in raw:
        return "BPE"
    return "Unigram" if isinstance(raw.get("vocab"), list) else "WordPiece"


def _unigram(raw: dict[str, Any], special: frozenset[str], where: str) -> UnigramModel:
    pieces: list[tuple[str, float]] = []
    for i, entry in enumerate(get(raw, "vocab", list, where)):
        good = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        if not good or type(entry[1]) not in (int, float) or not math.isfinite(entry[1]):
            raise UserError(f"{where}.vocab[{i}] = {show(entry)}; a piece is ['text', number]")
        pieces.append((entry[0], float(entry[1])))
    unknown = raw.get("unk_id")
    if unknown is not None:
        typed(unknown, int, f"{where}.unk_id")
    use_bytes = optional(raw, "byte_fallback", bool, False, where)
    hidden = {byte_piece(byte) for byte in range(256)} if use_bytes else set()
    hidden |= special
    numbers = {number for number, (piece, _) in enumerate(pieces) if piece in hidden}
    if unknown is not None:
        numbers.add(unknown)
    return UnigramModel(pieces, unknown, byte_fallback=use_bytes, hidden=frozenset(numbers))


def tokens_around(
    post_processor: Any, where: str = "post_processor"
) -> tuple[list[str], list[str]]:
    """The tokens that a post-processor puts before and after one text."""
    if post_processor is None:
        return [], []
    kinds = ("ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing", "Sequence")
    kind = kind_of(post_processor, kinds, where)
    if kind == "ByteLevel":
        return [], []
    if kind == "Sequence":
        before: list[str] = []
        after: list[str] = []
        for i, step in enumerate(get(post_processor, "processors", list, where)):
            first, last = tokens_around(typed(step, dict, f"{where}[{i}]"), f"{where}[{i}]")
            before, after = first + before, after + last
        return before, after
    if kind != "TemplateProcessing":
        begin, end = (get(post_processor, key, list, where)[:1] for key in ("cls", "sep"))
        for token in (*begin, *end):
            typed(token, str, where)
        return begin, end
    sides: tuple[list[str], list[str]] = ([], [])
    seen = 0
    known = optional(post_processor, "special_tokens", dict, {}, where)
    for entry in get(post_processor, "single", list, where):
        if "Sequence" in typed(entry, dict, f"{where}.single"):
            seen = 1
            continue
        name = get(get(entry, "SpecialToken", dict, where), "id", str, where)
        tokens = optional(known, name, dict, {"tokens": [name]}, where).get("tokens", [name])
        sides[seen].extend(typed(token, str, where) for token in typed(tokens, list, where))
    return sides
