"""How a prompt reaches a model: the same way it saw text in training."""

from __future__ import annotations

from glassbox.tokenizers import Tokenizer


def plain_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text to be continued: end-of-text, which every document begins after, then the text.

    Special tokens written in the text are plain characters.
    """
    return [tokenizer.eos_id, *tokenizer.encode(text)]
