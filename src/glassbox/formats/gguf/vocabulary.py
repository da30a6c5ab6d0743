"""A tokenizer in GGUF's metadata, both ways.

`tokenizer.ggml.model` is "gpt2" for byte-level BPE (tokens, merges, and in `pre` the name of the
pattern that cuts words) and "llama" for sentencepiece's (tokens, scores). Source: ggml's
`docs/gguf.md` and the names in llama.cpp's `llama-vocab.cpp`.
Tested against: the gguf package; the same ids after writing and reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from glassbox.core.errors import UserError
from glassbox.formats.gguf.writer import Number
from glassbox.models.family import HfConfig
from glassbox.tokenizers import PATTERNS, AddedToken, PreTokenizer, Tokenizer
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import CHAR_TO_BYTE
from glassbox.tokenizers.patterns import DIGIT
from glassbox.tokenizers.sentencepiece import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    SpacedText,
)
from glassbox.tokenizers.tokenizer_json import begins_with

_G = "tokenizer.ggml."
NFC_KEY = "glassbox.tokenizer.nfc"
"""Our own key: whether text is composed first, which `pre` does not say."""

PATTERN_NAMES: Mapping[str, tuple[tuple[str, ...], bool]] = MappingProxyType(
    {
        # llama.cpp's name: the patterns, and whether a word that is a token needs no merges
        "gpt-2": ((PATTERNS["gpt2"],), False),
        "smaug-bpe": ((PATTERNS["gpt4"],), False),
        "llama-bpe": ((PATTERNS["llama3"],), True),
        "qwen2": ((PATTERNS["qwen2"],), False),
        "smollm": ((DIGIT, PATTERNS["gpt2"]), False),
    }
)
_SAME_AS = {"dbrx": "smaug-bpe", "llama3": "llama-bpe", "llama-v3": "llama-bpe"} | dict.fromkeys(
    ("stablelm2", "deepseek-r1-qwen"), "qwen2"
)
_CUT_ALIKE = {PATTERNS["llama3"]: PATTERNS["gpt4"]}  # two spellings of the same cuts
_COMPOSED = ("qwen2", "deepseek-r1-qwen")  # their own tokenizer.json composes text first

_ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def vocabulary_metadata(tokenizer: Tokenizer | None, vocab_size: int) -> dict[str, Any]:
    """The `tokenizer.*` keys of a tokenizer, with unused tokens up to the model's vocabulary.

    Raises UserError for a word pattern that GGUF has no name for.
    """
    if tokenizer is None:
        return {f"{_G}model": "none"}
    special, added = set(tokenizer.special_tokens.values()), {t.id for t in tokenizer.added}
    names = [tokenizer.id_to_token(number) for number in range(vocab_size)]
    kinds = [
        UNUSED if name is None
        else CONTROL if number in special
        else USER_DEFINED if number in added
        else NORMAL
        for number, name in enumerate(names)
    ]  # fmt: skip
    tokens = [f"[PAD{n}]" if name is None else name for n, name in enumerate(names)]
    model, words = tokenizer.model, tokenizer.pretokenizer
    found: dict[str, Any] = {}
    if isinstance(model, SentencePieceModel):
        assert isinstance(words, SpacedText)
        for number in model.byte_ids:
            kinds[number] = BYTE
        unknown = tokenizer.token_to_id("<unk>")
        if unknown is not None:
            kinds[unknown] = UNKNOWN
        scores = {number: score for number, _, score in model.pieces}
        found |= {f"{_G}model": "llama", f"{_G}pre": "default"}
        found |= {f"{_G}scores": [float(scores.get(n, 0.0)) for n in range(vocab_size)]}
        found |= {f"{_G}add_space_prefix": words.prefix}
    else:
        if not isinstance(model, BytePairModel) or not isinstance(words, PreTokenizer):
            raise UserError(
                "GGUF is written for byte-level BPE and sentencepiece's BPE; this tokenizer is "
                f"{type(model).__name__} with {type(words).__name__}"
            )
        found |= {f"{_G}model": "gpt2", f"{_G}pre": _pattern_name(model, words)}
        found |= {f"{_G}merges": [f"{left} {right}" for left, right in model.merges]}
        found |= {f"{_G}add_space_prefix": False, NFC_KEY: words.nfc}
    found |= {f"{_G}tokens": tokens, f"{_G}token_type": [Number("i", kind) for kind in kinds]}
    for theirs, role in _ROLES.items():
        if role in tokenizer.roles:
            found[f"{_G}{theirs}_token_id"] = tokenizer.token_to_id(tokenizer.roles[role])
    found[f"{_G}add_bos_token"] = tokenizer.adds_bos
    found[f"{_G}add_eos_token"] = False
    template = tokenizer.chat_template
    if template is not None:
        named = {"default": template} if isinstance(template, str) else dict(template)
        found["tokenizer.chat_template"] = named.pop("default")
        found |= {f"tokenizer.chat_template.{name}": text for name, text in named.items()}
        if named:
            found["tokenizer.chat_templates"] = list(named)
    return found


def read_vocabulary(metadata: Mapping[str, Any], where: str) -> Tokenizer | None:
    """The tokenizer of a file's metadata, None where it has none. Raises UserError naming the key."""
    raw = HfConfig(metadata, where)
    kind = raw.get(f"{_G}model", str, "none")
    if kind in ("none", "no_vocab"):
        return None
    raw.refuse_unless(f"{_G}model", ("gpt2", "llama"))
    tokens = _list(raw, "tokens", str)
    kinds = _list(raw, "token_type", int, [NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise UserError(f"{where}: {len(tokens)} tokens, but {len(kinds)} in '{_G}token_type'")
    of_kind = {k: [n for n, kind in enumerate(kinds) if kind == k] for k in set(kinds)}
    added = [
        AddedToken(tokens[number], number, special=kind != USER_DEFINED)
        for kind in (CONTROL, UNKNOWN, USER_DEFINED)
        for number in of_kind.get(kind, [])
    ]
    model: BytePairModel | SentencePieceModel
    words: PreTokenizer | SpacedText
    ordinary = of_kind.get(NORMAL, [])
    if kind == "gpt2":
        # control tokens stand in the vocabulary as well, where its alphabet can spell them
        spelled = [n for n in of_kind.get(CONTROL, []) if CHAR_TO_BYTE.keys() >= set(tokens[n])]
        if len(vocab := {tokens[n]: n for n in ordinary + spelled}) != len(ordinary + spelled):
            raise UserError(f"{where}: '{_G}tokens' has a token twice; the file is damaged")
        model, words = _read_byte_level(raw, vocab)
    else:
        scores = _list(raw, "scores", float)
        if len(scores) != len(tokens):
            raise UserError(f"{where}: {len(tokens)} tokens, but {len(scores)} in '{_G}scores'")
        pieces = [(number, tokens[number], scores[number]) for number in ordinary]
        model = SentencePieceModel(pieces, of_kind.get(BYTE, []))
        words = SpacedText(raw.get(f"{_G}add_space_prefix", bool, True), model.spaces_lead())
    roles = {}
    for theirs, role in _ROLES.items():
        number = raw.raw.get(f"{_G}{theirs}_token_id")
        if number is None:
            continue
        if type(number) is not int or not 0 <= number < len(tokens):
            raise UserError(f"{where}: '{_G}{theirs}_token_id' = {number!r} is none of the tokens")
        roles[role] = tokens[number]
    begins = raw.get(f"{_G}add_bos_token", bool, kind == "llama") and "bos_token" in roles
    first = next((t for t in added if begins and t.content == roles["bos_token"]), None)
    return Tokenizer(
        model,
        words,
        sorted(added, key=lambda token: token.id),
        roles=roles,
        chat_template=_read_template(raw),
        post_processor=None if first is None else begins_with(first),
    )


def _read_byte_level(raw: HfConfig, vocab: dict[str, int]) -> tuple[BytePairModel, PreTokenizer]:
    where = raw.where
    name = raw.get(f"{_G}pre", str)
    name = _SAME_AS.get(name, name)
    if name not in PATTERN_NAMES:
        known = ", ".join([*PATTERN_NAMES, *_SAME_AS])
        raise UserError(f"{where}: '{_G}pre' = {name!r} is not known; known: {known}")
    stages, whole_words = PATTERN_NAMES[name]
    merges = []
    for place, merge in enumerate(_list(raw, "merges", str)):
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise UserError(f"{where}: '{_G}merges'[{place}] = {merge!r} is not two tokens")
        merges.append((left, right))
    nfc = raw.get(NFC_KEY, bool, name in _COMPOSED)
    return BytePairModel(vocab, merges, ignore_merges=whole_words), PreTokenizer(stages, nfc)


def _read_template(raw: HfConfig) -> str | dict[str, str] | None:
    key = "tokenizer.chat_template"
    if key not in raw.raw:
        return None
    template = raw.get(key, str)
    prefix = f"{key}."
    named = {
        name.removeprefix(prefix): raw.get(name, str) for name in raw.raw if name.startswith(prefix)
    }
    return {"default": template, **named} if named else template


def _pattern_name(model: BytePairModel, words: PreTokenizer) -> str:
    for name, (stages, whole_words) in PATTERN_NAMES.items():
        same = words.stages == stages or (
            tuple(_CUT_ALIKE.get(s, s) for s in words.stages)
            == tuple(_CUT_ALIKE.get(s, s) for s in stages)
        )
        if same and model.ignore_merges == whole_words:
            return name
    shown = [stage[:60] for stage in words.stages]
    raise UserError(
        f"GGUF has no name for the tokenizer's word pattern {shown} with ignore_merges = "
        f"{str(model.ignore_merges).lower()}; train with one of {', '.join(PATTERNS)}"
    )


def _list(raw: HfConfig, key: str, kind: type, default: list[Any] | None = None) -> list[Any]:
    found = raw.raw.get(_G + key, default)
    if found is None:
        raise UserError(f"{raw.where} lacks '{_G}{key}', which its tokenizer needs")
    if not isinstance(found, list) or not all(type(one) is kind for one in found):
        raise UserError(f"{raw.where}: '{_G}{key}' is no list of {kind.__name__}s")
    return found
