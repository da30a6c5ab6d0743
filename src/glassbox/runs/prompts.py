"""How a prompt reaches a model: the same way it saw text in training."""

from __future__ import annotations

from glassbox.tokenizers import Tokenizer
from glassbox.tokenizers.prefix import text_prefix


def plain_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text to be continued, after whatever documents begin with (`text_prefix`).

    Special tokens written in the text are plain characters.
    """
    return [*text_prefix(tokenizer), *tokenizer.encode(text)]
