"""tiktoken's rank files: a token's bytes in base64 and its rank, one a line; the rank is the id.

tiktoken joins whatever two neighbours together are a token, the lowest rank first. As merges that is
every way to cut a token into two tokens, in the order of what they make. A word that is a token
needs no merges. Tested against: tiktoken, the same ids.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from glassbox.core.errors import UserError
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import to_chars
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer import Tokenizer
from glassbox.tokenizers.tokenizer_json import AddedToken, read_text

END = "<|endoftext|>"
_CL100K = {
    END: 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|endofprompt|>": 100276,
}
KNOWN: Mapping[str, tuple[str, Mapping[str, int]]] = MappingProxyType(
    {
        "cl100k_base": ("gpt4", _CL100K),
        "r50k_base": ("gpt2", {END: 50256}),
        "p50k_base": ("gpt2", {END: 50256}),
        "gpt2": ("gpt2", {END: 50256}),
    }
)
"""Files published under these names: the pattern and the special tokens, which the file lacks."""


def read_known_ranks(path: Path) -> Tokenizer:
    """A rank file of a published name. Raises UserError for another: its pattern is not in it."""
    if path.stem not in KNOWN:
        raise UserError(
            f"'{path.name}' does not say its pattern; known by name: {', '.join(KNOWN)}. Others: "
            "Tokenizer.from_tiktoken(path, pattern=..., special_tokens={...})"
        )
    pattern, special = KNOWN[path.stem]
    return read_ranks(path, pattern, special)


def read_ranks(path: Path | str, pattern: str, special_tokens: Mapping[str, int]) -> Tokenizer:
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
    return Tokenizer(
        BytePairModel(vocab, merges, ignore_merges=True),
        PreTokenizer.named(pattern),
        [AddedToken(content, number) for content, number in special_tokens.items()],
        roles=dict.fromkeys(("bos_token", "eos_token", "pad_token"), END)
        if END in special_tokens
        else None,
    )
