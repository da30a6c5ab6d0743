"""tiktoken's rank files: a token's bytes in base64 and its rank, one a line; the rank is the id.

tiktoken joins whatever two neighbours together are a token, the lowest rank first. As merges that is
every way to cut a token into two tokens, in the order of what they make. A word that is a token
needs no merges. Tested against: tiktoken, the same ids.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from glassbox.core.errors import UserError
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import to_chars
from glassbox.tokenizers.parts import TokenizerParts
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer_json import read_text

END = "<|endoftext|>"
_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_CL100K = {
    END: 100257,
    **dict(zip(_FIM, range(100258, 100261), strict=True)),
    "<|endofprompt|>": 100276,
}
_O200K = {END: 199999, "<|endofprompt|>": 200018}
_HARMONY = {
    **{f"<|reserved_{number}|>": number for number in range(200000, 201088) if number != 200018},
    **_O200K,
}
for _name, _number in (
    ("startoftext", 199998),
    ("return", 200002),
    ("constrain", 200003),
    ("channel", 200005),
    ("start", 200006),
    ("end", 200007),
    ("message", 200008),
    ("call", 200012),
):
    _HARMONY.pop(f"<|reserved_{_number}|>", None)
    _HARMONY[f"<|{_name}|>"] = _number


@dataclass(frozen=True)
class KnownEncoding:
    """What a rank file lacks: its pattern and its special tokens. `file`: the name of the rank file."""

    file: str
    pattern: str
    special: Mapping[str, int]


KNOWN: Mapping[str, KnownEncoding] = MappingProxyType(
    {
        "gpt2": KnownEncoding("gpt2", "gpt2", {END: 50256}),
        "r50k_base": KnownEncoding("r50k_base", "gpt2", {END: 50256}),
        "p50k_base": KnownEncoding("p50k_base", "gpt2", {END: 50256}),
        "p50k_edit": KnownEncoding(
            "p50k_base", "gpt2", {END: 50256, **dict(zip(_FIM, range(50281, 50284), strict=True))}
        ),
        "cl100k_base": KnownEncoding("cl100k_base", "gpt4", _CL100K),
        "o200k_base": KnownEncoding("o200k_base", "o200k", _O200K),
        "o200k_harmony": KnownEncoding("o200k_base", "o200k", _HARMONY),
    }
)
"""The encodings published under these names.

`o200k_harmony` gives id 200018 two names; here it has the first, `<|endofprompt|>`, as decoding has it.
"""
_PUBLISHED = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


def find_known_ranks(name: str) -> TokenizerParts | None:
    """The encoding of this name, its rank file in the working folder or tiktoken's cache; None: no such name.

    tiktoken's cache is TIKTOKEN_CACHE_DIR, DATA_GYM_CACHE_DIR or the folder `data-gym-cache` of the
    temporary one; a file lies there under the SHA-1 of its address, or here also under its own name.
    Raises UserError naming these places where the file is in none of them.
    """
    if name not in KNOWN:
        return None
    known = KNOWN[name]
    cache = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = Path(cache) if cache else Path(tempfile.gettempdir()) / "data-gym-cache"
    hashed = hashlib.sha1(_PUBLISHED.format(known.file).encode()).hexdigest()
    file = f"{known.file}.tiktoken"
    places = (Path(file), folder / file, folder / hashed)
    for place in places:
        if place.is_file():
            return read_ranks(place, known.pattern, known.special)
    raise UserError(
        f"the tokenizer `{name}` needs its published rank file '{file}'; put it into the working "
        f"folder or '{folder}'"
    )


def read_known_ranks(path: Path) -> TokenizerParts:
    """A rank file of a published name. Raises UserError for another: its pattern is not in it."""
    known = KNOWN.get(path.stem)
    if known is None:
        raise UserError(
            f"'{path.name}' does not say its pattern; known by name: {', '.join(KNOWN)}. Others: "
            "Tokenizer.from_tiktoken(path, pattern=..., special_tokens={...})"
        )
    return read_ranks(path, known.pattern, known.special)


def read_ranks(path: Path | str, pattern: str, special_tokens: Mapping[str, int]) -> TokenizerParts:
    """A rank file with a pattern (a name or an expression) and special tokens by id."""
    vocab: dict[str, int] = {}
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        token, _, rank = line.partition(" ")
        try:
            if line:
                vocab[to_chars(base64.b64decode(token, validate=True))] = int(rank)
        except (binascii.Error, ValueError):
            raise UserError(
                f"'{path}', line {number}: {line[:40]!r} is not base64 and a rank"
            ) from None
    for token, number in vocab.items():
        if number < 0 or number > 2 * len(vocab) + 1024:
            raise UserError(f"'{path}': the rank {number} of {token!r} is out of range")
    merges = [
        (token[:cut], token[cut:])
        for token, _ in sorted(vocab.items(), key=lambda item: item[1])
        for cut in sorted(
            (n for n in range(1, len(token)) if token[:n] in vocab and token[n:] in vocab),
            key=lambda n: (vocab[token[:n]], vocab[token[n:]]),
        )
    ]
    return TokenizerParts(
        BytePairModel(vocab, merges, ignore_merges=True),
        PreTokenizer.named(pattern),
        [AddedToken(content, number) for content, number in special_tokens.items()],
        roles=dict.fromkeys(("bos_token", "eos_token", "pad_token"), END)
        if END in special_tokens
        else {},
    )
