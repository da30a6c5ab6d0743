"""tokenizer.json and tokenizer_config.json: the files in which tokenizers are exchanged.

Read here: byte-level BPE, that is GPT-2's `ByteLevel` pre-tokenizer, or `Split` by regular expression
and then `ByteLevel` (Llama 3, Qwen2, SmolLM2, ours); and sentencepiece's, in a file of its own. Whatever would change ids and is not known
here is refused by name. Files are data: they are checked key by key, and nothing in them runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from glassbox.core.errors import UserError
from glassbox.tokenizers import sentencepiece_json
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.patterns import DIGIT, PATTERNS, PreTokenizer, compile_pattern
from glassbox.tokenizers.sentencepiece import SentencePieceModel, SpacedText

T = TypeVar("T")

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")

_MAX_SPARE_IDS = 1 << 16
_POST_PROCESSORS = ("ByteLevel", "TemplateProcessing", "Sequence")


@dataclass(frozen=True)
class AddedToken:
    """A string that is one token wherever it stands, before any pre-tokenization.

    special:    a control token: user text never turns into it unless that is allowed, and decoding
                may leave it out. A token that is added but not special is matched in all text.
    normalized: looked for after those that are not (which matters only where tokens overlap).
    """

    content: str
    id: int
    special: bool = True
    normalized: bool = False

    def to_json(self) -> dict[str, Any]:
        """Its entry in `added_tokens`."""
        return {
            "id": self.id,
            "content": self.content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": self.normalized,
            "special": self.special,
        }


@dataclass(frozen=True)
class Parts:
    """What a tokenizer.json says. `post_processor` is kept for those who ask for its tokens."""

    model: BytePairModel | SentencePieceModel
    pretokenizer: PreTokenizer | SpacedText
    added: tuple[AddedToken, ...]
    post_processor: dict[str, Any] | None = None


def read_text(path: Path) -> str:
    """Read a UTF-8 file. Raises UserError that names it."""
    try:
        return path.read_bytes().decode("utf-8")
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


def parse_tokenizer(raw: Any, *, where: str = TOKENIZER_FILE) -> Parts:
    """Check a parsed tokenizer.json and build its parts. Raises UserError naming the key."""
    root = _typed(raw, dict, where)
    post_processor = root.get("post_processor")
    if post_processor is not None:
        _kind(post_processor, _POST_PROCESSORS, f"{where}: post_processor")
    entries = root.get("added_tokens") or []
    if sentencepiece_json.is_sentencepiece(root):
        pieces, spaced = sentencepiece_json.parse_model(root, where)
        added = _read_added(entries, len(pieces.vocab), False, f"{where}: added_tokens")
        return Parts(pieces, spaced, added, post_processor)
    stages = _read_pre_tokenizer(root.get("pre_tokenizer"), f"{where}: pre_tokenizer")
    nfc = _read_normalizer(root.get("normalizer"), f"{where}: normalizer")
    _check_decoder(root.get("decoder"), f"{where}: decoder")
    model = _read_model(_get(root, "model", dict, where), f"{where}: model")
    added = _read_added(entries, len(model.vocab), nfc, f"{where}: added_tokens")
    return Parts(model, PreTokenizer(stages, nfc), added, post_processor)


def tokenizer_to_json(parts: Parts) -> dict[str, Any]:
    """The tokenizer.json that `tokenizers` and `transformers` open with the same ids."""
    model, words = parts.model, parts.pretokenizer
    head = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [t.to_json() for t in sorted(parts.added, key=lambda t: t.id)],
        "post_processor": parts.post_processor,
    }
    if isinstance(model, SentencePieceModel):
        assert isinstance(words, SpacedText)
        added = {token.content: token.id for token in parts.added}
        return {**head, **sentencepiece_json.model_to_json(model, words, added)}
    assert isinstance(words, PreTokenizer)
    in_order = sorted(model.vocab.items(), key=lambda item: item[1])
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
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": model.ignore_merges,
            "vocab": dict(in_order),
            "merges": [list(pair) for pair in model.merges],
        },
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


@dataclass(frozen=True)
class Config:
    """What a tokenizer_config.json says of roles and chat."""

    roles: Mapping[str, str]
    chat_template: str | Mapping[str, str] | None = None


def parse_config(raw: Any, *, where: str = CONFIG_FILE) -> Config:
    """Check a parsed tokenizer_config.json. Raises UserError naming the key."""
    root = _typed(raw, dict, where)
    roles = {}
    for role in ROLES:
        value = root.get(role)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None:
            roles[role] = _typed(value, str, f"{where}: {role}")
    template = root.get("chat_template")
    if isinstance(template, list):
        template = {
            _get(_typed(t, dict, f"{where}: chat_template"), "name", str, where): _get(
                t, "template", str, where
            )
            for t in template
        }
    elif template is not None:
        _typed(template, str, f"{where}: chat_template")
    return Config(roles, template)


def config_to_json(config: Config, added: tuple[AddedToken, ...]) -> dict[str, Any]:
    """The tokenizer_config.json beside `tokenizer_to_json`."""
    template = config.chat_template
    if isinstance(template, Mapping):
        named = [{"name": name, "template": text} for name, text in template.items()]
    roles = {role: config.roles.get(role) for role in ROLES}
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
    if raw.get("type", "BPE") != "BPE":
        raise UserError(f"{where}.type = {_show(raw['type'])} is not supported; only BPE is")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if raw.get(key):
            raise UserError(f"{where}.{key} = {_show(raw[key])} is not supported; it must be null")
    vocab = _get(raw, "vocab", dict, where)
    for token, number in vocab.items():
        if type(number) is not int or number < 0 or number > len(vocab) + _MAX_SPARE_IDS:
            raise UserError(
                f"{where}.vocab[{_show(token)}] = {_show(number)}; an id is an integer from 0,"
                f" at most {_MAX_SPARE_IDS} of them unused"
            )
    merges = [
        _read_merge(merge, f"{where}.merges[{i}]")
        for i, merge in enumerate(_get(raw, "merges", list, where))
    ]
    ignore_merges = _typed(raw.get("ignore_merges") or False, bool, f"{where}.ignore_merges")
    return BytePairModel(vocab, merges, ignore_merges=ignore_merges)


def _read_merge(merge: Any, where: str) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, str) for p in parts):
        return parts[0], parts[1]
    raise UserError(f"{where} = {_show(merge)}; a merge is two tokens, 'a b' or ['a', 'b']")


def _read_added(raw: Any, vocab_size: int, nfc: bool, where: str) -> tuple[AddedToken, ...]:
    added: list[AddedToken] = []
    largest = vocab_size + len(_typed(raw, list, where)) + _MAX_SPARE_IDS
    for i, entry in enumerate(raw):
        here = f"{where}[{i}]"
        _typed(entry, dict, here)
        for key in ("single_word", "lstrip", "rstrip"):
            if entry.get(key):
                raise UserError(f"{here}.{key} = {_show(entry[key])} is not supported")
        token = AddedToken(
            _get(entry, "content", str, here),
            _get(entry, "id", int, here),
            _typed(entry.get("special", False), bool, f"{here}.special"),
            _typed(entry.get("normalized", False), bool, f"{here}.normalized"),
        )
        if not 0 <= token.id <= largest:
            raise UserError(f"{here}.id = {token.id} is out of range; ids count up from 0")
        if token.normalized and nfc:
            raise UserError(f"{here}.normalized = true is not supported beside an NFC normalizer")
        added.append(token)
    return tuple(added)


def _read_normalizer(raw: Any, where: str) -> bool:
    """Whether text is composed (NFC); any other normalizer is refused."""
    if raw is None:
        return False
    if _kind(raw, ("NFC", "Sequence"), where) == "NFC":
        return True
    steps = _get(raw, "normalizers", list, where)
    composes = [_read_normalizer(step, f"{where}[{i}]") for i, step in enumerate(steps)]
    return any(composes)


def _read_pre_tokenizer(raw: Any, where: str) -> tuple[str, ...]:
    """The stages' patterns; the last step has to be `ByteLevel`."""
    if raw is None:
        raise UserError(f"{where} = null is not supported; a byte-level one is needed")
    steps = [raw]
    if _kind(raw, ("ByteLevel", "Sequence"), where) == "Sequence":
        steps = _get(raw, "pretokenizers", list, where)
    if not steps or not isinstance(steps[-1], dict) or steps[-1].get("type") != "ByteLevel":
        raise UserError(f"{where} does not end in ByteLevel; only byte-level BPE is supported")
    stages: list[str] = []
    for i, step in enumerate(steps):
        stages.extend(_read_step(step, f"{where}[{i}]", last=i == len(steps) - 1))
    return tuple(stages)


def _read_step(raw: Any, where: str, *, last: bool) -> list[str]:
    kind = _kind(raw, ("ByteLevel", "Split", "Digits"), where)
    if kind == "ByteLevel":
        if not last:
            raise UserError(f"{where}: ByteLevel is not the last step; that is not supported")
        if raw.get("add_prefix_space", True):
            raise UserError(f"{where}.add_prefix_space = true is not supported")
        use_regex = _typed(raw.get("use_regex", True), bool, f"{where}.use_regex")
        return [PATTERNS["gpt2"]] if use_regex else []
    if kind == "Digits":
        return [DIGIT if raw.get("individual_digits") else DIGIT + "+"]
    if raw.get("behavior") != "Isolated" or raw.get("invert", False):
        raise UserError(
            f"{where}.behavior = {_show(raw.get('behavior'))}, invert = {_show(raw.get('invert'))};"
            " only Isolated, not inverted, is supported"
        )
    pattern = _get(raw, "pattern", dict, where)
    if isinstance(pattern.get("Regex"), str):
        compile_pattern(pattern["Regex"])
        return [pattern["Regex"]]
    raise UserError(f"{where}.pattern = {_show(pattern)}; only a Regex is supported")


def _check_decoder(raw: Any, where: str) -> None:
    if raw is None:
        return
    if _kind(raw, ("ByteLevel", "Sequence"), where) == "Sequence":
        for i, step in enumerate(_get(raw, "decoders", list, where)):
            _kind(step, ("ByteLevel",), f"{where}[{i}]")


def _kind(raw: Any, known: tuple[str, ...], where: str) -> str:
    kind = _typed(raw, dict, where).get("type")
    if kind not in known:
        raise UserError(f"{where}.type = {_show(kind)} is not supported; known: {', '.join(known)}")
    return str(kind)


def _get(raw: dict[str, Any], key: str, kind: type[T], where: str) -> T:
    if key not in raw:
        raise UserError(f"{where} lacks '{key}'; the file is damaged or of another kind")
    return _typed(raw[key], kind, f"{where}.{key}")


def _typed(value: Any, kind: type[T], where: str) -> T:
    # A bool is an int to Python, but no id is `true`.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where} = {_show(value)} is no {kind.__name__}")
    return value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
