"""tokenizer.json and tokenizer_config.json: the files in which tokenizers are exchanged.

Read here: byte-level BPE, that is GPT-2's `ByteLevel` pre-tokenizer, or `Split` by regular expression
and then `ByteLevel` (Llama 3, Qwen2, SmolLM2, ours). Sentencepiece's byte-pair form is in
`sentencepiece_json`, every other in `processing_json`. Whatever would change ids and is not known here is
refused by name. Files are data: they are checked key by key, and nothing in them runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.core.files import read_limited
from glassbox.tokenizers import processing_json, sentencepiece_json
from glassbox.tokenizers.added_tokens import MAX_SPARE_IDS, AddedToken, Edges
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.char_bpe import CharacterModel
from glassbox.tokenizers.checks import get, optional, show, typed
from glassbox.tokenizers.parts import TokenizerParts, TokenModel
from glassbox.tokenizers.patterns import DIGIT, PATTERNS, PreTokenizer, compile_pattern
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.processing_json import read_merge, tokens_around, vocabulary
from glassbox.tokenizers.sentencepiece import SentencePieceModel, SpacedText
from glassbox.tokenizers.unigram import UnigramModel
from glassbox.tokenizers.wordpiece import WordPieceModel

MAX_FILE_BYTES = 128 << 20
"""Largest tokenizer.json; that of Gemma 3, of 262,144 tokens, has 33 MB."""
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


def read_text(path: Path) -> str:
    """Read a UTF-8 file. Raises UserError that names it."""
    try:
        return read_limited(path, MAX_FILE_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"no file '{path}'; check the path") from None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 ({error.reason} at {error.start})") from None


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises UserError that names it, whatever is wrong with it."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: nested without end
        raise UserError(f"'{path}' is damaged or no JSON: {error}") from None


def parse_tokenizer(raw: Any, *, where: str = TOKENIZER_FILE) -> TokenizerParts:
    """Check a parsed tokenizer.json and build its parts. Raises UserError naming the key."""
    root = typed(raw, dict, where)
    post_processor = root.get("post_processor")
    tokens_around(post_processor, f"{where}: post_processor")
    entries = root.get("added_tokens") or []
    raw_model = get(root, "model", dict, where)
    here = f"{where}: model"
    if sentencepiece_json.is_sentencepiece(root):
        pieces, spaced = sentencepiece_json.parse_model(root, where)
        added = _read_added(entries, len(pieces.vocab), f"{where}: added_tokens")
        return TokenizerParts(pieces, spaced, added, post_processor)
    byte_pairs = raw_model.get("type", "BPE") == "BPE" and processing_json.ends_in_byte_level(root)
    model: TokenModel
    if byte_pairs:
        model = _read_model(raw_model, here)
        added = _read_added(entries, len(model.vocab), f"{where}: added_tokens")
        composes = root.get("normalizer") is not None
        if _is_plain(root) and not (composes and any(token.normalized for token in added)):
            stages = _read_pre_tokenizer(root["pre_tokenizer"], f"{where}: pre_tokenizer")
            return TokenizerParts(model, PreTokenizer(stages, composes), added, post_processor)
    else:
        size = len(get(raw_model, "vocab", object, here))  # type: ignore[arg-type]
        added = _read_added(entries, size, f"{where}: added_tokens")
        special = frozenset(token.content for token in added if token.special)
        model = processing_json.parse_model(raw_model, special, here)
    words = processing_json.parse_processing(root, where, chars=not byte_pairs)
    return TokenizerParts(model, words, added, post_processor)


def _is_plain(root: dict[str, Any]) -> bool:
    """Whether text is at most composed, and cut by patterns that lose nothing."""
    normalizer, decoder = root.get("normalizer"), root.get("decoder")
    if normalizer not in (
        None,
        {"type": "NFC"},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    ):
        return False
    steps = [decoder]
    if isinstance(decoder, dict) and decoder.get("type") == "Sequence":
        steps = decoder.get("decoders") or [None]
    if any(
        step is not None and not (isinstance(step, dict) and step.get("type") == "ByteLevel")
        for step in steps
    ):
        return False
    words: dict[str, Any] = root["pre_tokenizer"]
    steps = words["pretokenizers"] if words.get("type") == "Sequence" else [words]
    *before, last = typed(steps, list, "pre_tokenizer")
    return last.get("add_prefix_space") is False and all(
        isinstance(step, dict)
        and (
            step.get("type") == "Digits"
            or (
                step.get("type") == "Split"
                and step.get("behavior") == "Isolated"
                and not step.get("invert")
                and isinstance(step.get("pattern"), dict)
                and "Regex" in step["pattern"]
            )
        )
        for step in before
    )


def tokenizer_to_json(parts: TokenizerParts) -> dict[str, Any]:
    """The tokenizer.json that `tokenizers` and `transformers` open with the same ids."""
    model, words = parts.model, parts.pretokenizer
    head = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [t.to_json() for t in sorted(parts.added, key=lambda t: t.id)],
        "post_processor": parts.post_processor,
    }
    if isinstance(words, Processing):
        return {
            **head,
            "normalizer": words.normalizer,
            "pre_tokenizer": words.pre_tokenizer,
            "decoder": words.decoder_entry,
            "model": model_to_json(model, parts.added),
        }
    if isinstance(model, SentencePieceModel):
        assert isinstance(words, SpacedText)
        added = {token.content: token.id for token in parts.added}
        return {**head, **sentencepiece_json.model_to_json(model, words, added)}
    assert isinstance(words, PreTokenizer)
    return {
        **head,
        "normalizer": {"type": "NFC"} if words.nfc else None,
        "pre_tokenizer": words.to_json(),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": model_to_json(model, parts.added),
    }


def model_to_json(model: TokenModel, added: Sequence[AddedToken]) -> dict[str, Any]:
    """The `model` entry of a tokenizer.json."""
    if isinstance(model, (WordPieceModel, UnigramModel, CharacterModel)):
        return model.to_json()
    if isinstance(model, SentencePieceModel):
        numbers = {token.content: token.id for token in added}
        return sentencepiece_json.model_entry(model, numbers)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": model.ignore_merges,
        "vocab": dict(sorted(model.vocab.items(), key=lambda item: item[1])),
        "merges": [list(pair) for pair in model.merges],
    }


def first_token(post_processor: dict[str, Any] | None) -> str | None:
    """The special token that a post-processor puts before a text, or None."""
    steps = [post_processor or {}]
    steps += steps[0].get("processors") or []
    for step in steps:
        first = (step.get("single") or [{}])[0]
        if isinstance(first, dict) and "SpecialToken" in first:
            return str(first["SpecialToken"].get("id"))
    return None


def begins_with(token: AddedToken) -> dict[str, Any]:
    """A post-processor that puts a token before each text."""
    once: list[dict[str, Any]] = [
        {"SpecialToken": {"id": token.content, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    entry = {"id": token.content, "ids": [token.id], "tokens": [token.content]}
    return {
        "type": "TemplateProcessing",
        "single": once,
        "pair": [*once, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token.content: entry},
    }


def parse_config(
    raw: Any, *, where: str = CONFIG_FILE
) -> tuple[dict[str, str], str | dict[str, str] | None]:
    """Roles and chat template of a parsed tokenizer_config.json. Raises UserError naming the key."""
    root = typed(raw, dict, where)
    roles = {}
    for role in ROLES:
        value = root.get(role)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None:
            roles[role] = typed(value, str, f"{where}: {role}")
    template = root.get("chat_template")
    if isinstance(template, list):
        template = {
            get(typed(t, dict, f"{where}: chat_template"), "name", str, where): get(
                t, "template", str, where
            )
            for t in template
        }
    elif template is not None:
        typed(template, str, f"{where}: chat_template")
    return roles, template


def config_to_json(parts: TokenizerParts) -> dict[str, Any]:
    """The tokenizer_config.json beside `tokenizer_to_json`."""
    template, added = parts.chat_template, parts.added
    if isinstance(template, Mapping):
        named = [{"name": name, "template": text} for name, text in template.items()]
    roles = {role: parts.roles.get(role) for role in ROLES}
    others = [t.content for t in added if t.special and t.content not in roles.values()]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "additional_special_tokens": others,
        "added_tokens_decoder": {
            str(t.id): {key: value for key, value in t.to_json().items() if key != "id"}
            for t in sorted(added, key=lambda t: t.id)
        },
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        **(
            {}
            if template is None
            else {"chat_template": named if isinstance(template, Mapping) else template}
        ),
    }


def _read_model(raw: dict[str, Any], where: str) -> BytePairModel:
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if raw.get(key):
            raise UserError(f"{where}.{key} = {show(raw[key])} is not supported; it must be null")
    vocab = vocabulary(raw, where, MAX_SPARE_IDS)
    merges = [
        read_merge(merge, f"{where}.merges[{i}]")
        for i, merge in enumerate(get(raw, "merges", list, where))
    ]
    ignore_merges = typed(raw.get("ignore_merges") or False, bool, f"{where}.ignore_merges")
    return BytePairModel(vocab, merges, ignore_merges=ignore_merges)


def _read_added(raw: Any, vocab_size: int, where: str) -> tuple[AddedToken, ...]:
    added: list[AddedToken] = []
    largest = vocab_size + len(typed(raw, list, where)) + MAX_SPARE_IDS
    for i, entry in enumerate(raw):
        here = f"{where}[{i}]"
        typed(entry, dict, here)
        edges = {
            key: typed(entry.get(key, False), bool, f"{here}.{key}")
            for key in ("single_word", "lstrip", "rstrip")
        }
        token = AddedToken(
            get(entry, "content", str, here),
            get(entry, "id", int, here),
            typed(entry.get("special", False), bool, f"{here}.special"),
            typed(entry.get("normalized", False), bool, f"{here}.normalized"),
            Edges(**edges),
        )
        if not 0 <= token.id <= largest:
            raise UserError(f"{here}.id = {token.id} is out of range; ids count up from 0")
        added.append(token)
    return tuple(added)


def _read_pre_tokenizer(raw: dict[str, Any], where: str) -> tuple[str, ...]:
    """The patterns of the steps of a plain pre-tokenizer; the last step is `ByteLevel`."""
    steps = raw["pretokenizers"] if raw["type"] == "Sequence" else [raw]
    stages: list[str] = []
    for i, step in enumerate(steps):
        here = f"{where}[{i}]"
        if step["type"] == "ByteLevel":
            if optional(step, "use_regex", bool, True, here):
                stages.append(PATTERNS["gpt2"])
        elif step["type"] == "Digits":
            stages.append(DIGIT if step.get("individual_digits") else DIGIT + "+")
        else:
            pattern = get(step["pattern"], "Regex", str, f"{here}.pattern")
            compile_pattern(pattern)
            stages.append(pattern)
    return tuple(stages)
