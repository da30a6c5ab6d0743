"""What a model reads before a text that is to be continued or scored."""

from __future__ import annotations

from typing import Literal, get_args

from glassbox.core.errors import UserError
from glassbox.tokenizers.tokenizer import Tokenizer

Prefix = Literal["auto", "eos", "bos", "none"]


def check_prefix(word: str) -> Prefix:
    """The word itself. Raises UserError for one that names no prefix."""
    for known in get_args(Prefix):
        if word == known:
            return known
    raise UserError(f"prefix '{word}': use one of {', '.join(get_args(Prefix))}")


def text_prefix(tokenizer: Tokenizer, prefix: Prefix = "auto") -> list[int]:
    """The ids that stand before a text: at most one.

    auto: what documents begin with in training. That is end-of-text for our own models, and for all
    whose beginning and end of text are one token; for others the beginning of text where their files
    say that a text is given one, and nothing where they do not (as transformers and llama.cpp do).
    eos, bos, none: that token, or nothing, whatever the files say.
    Raises UserError for a token that the tokenizer does not have.
    """
    begin = tokenizer.bos_id
    if prefix == "auto":
        if begin is None or begin == tokenizer.eos_id:
            return [tokenizer.eos_id]
        return [begin] if tokenizer.adds_bos else []
    if prefix == "eos":
        return [tokenizer.eos_id]
    if prefix == "bos":
        if begin is None:
            raise UserError("prefix = 'bos': the tokenizer names no bos_token; use eos or none")
        return [begin]
    return []
