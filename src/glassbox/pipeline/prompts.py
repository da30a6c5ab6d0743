"""How a prompt reaches a model: the same way it saw text in training."""

from __future__ import annotations

from glassbox.tokenizers import Tokenizer


def plain_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text to be continued, after whatever documents begin with.

    That is end-of-text for our own models, and for all whose beginning and end of text are one token;
    for others the beginning of text, where their files say that a text is given one.
    Special tokens written in the text are plain characters.
    """
    ids = tokenizer.encode(text)
    begin = tokenizer.bos_id
    if begin is None or begin == tokenizer.eos_id:
        return [tokenizer.eos_id, *ids]
    return [begin, *ids] if tokenizer.adds_bos else ids
