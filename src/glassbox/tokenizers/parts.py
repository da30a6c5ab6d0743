"""What a tokenizer is made of, as data: what every reader returns and every writer takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.char_bpe import CharacterModel
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.sentencepiece import SentencePieceModel, SpacedText
from glassbox.tokenizers.unigram import UnigramModel
from glassbox.tokenizers.wordpiece import WordPieceModel

TokenModel = BytePairModel | SentencePieceModel | WordPieceModel | UnigramModel | CharacterModel
"""A vocabulary, and how a word becomes ids."""
TextProcessing = PreTokenizer | SpacedText | Processing
"""How a text is normalized and cut into words."""


@dataclass(frozen=True)
class TokenizerParts:
    """The arguments of `Tokenizer`.

    roles: `eos_token`, `bos_token`, ... -> the token's text. chat_template: Jinja source, or several
    by name. post_processor: the entry of a tokenizer.json that puts tokens around a text.
    """

    model: TokenModel
    pretokenizer: TextProcessing
    added: Sequence[AddedToken] = ()
    post_processor: dict[str, Any] | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | Mapping[str, str] | None = None
