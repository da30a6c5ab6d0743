"""Training of tokenizers of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glassbox.core.errors import UserError
from glassbox.tokenizers.bpe_training import SPECIAL_TOKENS, train_bpe
from glassbox.tokenizers.characters import train_characters
from glassbox.tokenizers.merge_learning import Progress
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer import Tokenizer
from glassbox.tokenizers.unigram_training import train_unigram
from glassbox.tokenizers.wordpiece_training import train_wordpiece

KINDS = ("bpe", "wordpiece", "unigram", "characters")


def check_training(kind: str, pattern: str) -> None:
    """Raise UserError for arguments that `train_tokenizer` rejects, before any text is read."""
    if kind not in KINDS:
        raise UserError(f"kind = {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if kind == "bpe":
        PreTokenizer.named(pattern)


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    kind: str = "bpe",
    pattern: str = "gpt4",
    unknown: str = "bytes",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    workers: int = 1,
    progress: Progress | None = None,
) -> Tokenizer:
    """Train a tokenizer of `kind`: bpe (with `pattern`), wordpiece, unigram, characters (with `unknown`).

    `workers` processes count the words of bpe; the other kinds use one.
    Raises UserError for another kind, and what the trainer of the kind raises.
    """
    if workers < 1:
        raise UserError(f"workers = {workers}; use 1 or more")
    if kind == "bpe":
        return train_bpe(
            texts,
            vocab_size,
            pattern=pattern,
            special_tokens=special_tokens,
            workers=workers,
            progress=progress,
        )
    if kind == "wordpiece":
        return train_wordpiece(texts, vocab_size, special_tokens=special_tokens, progress=progress)
    if kind == "unigram":
        return train_unigram(texts, vocab_size, special_tokens=special_tokens, progress=progress)
    if kind == "characters":
        return train_characters(
            texts, vocab_size, unknown=unknown, special_tokens=special_tokens, progress=progress
        )
    raise UserError(f"kind = {kind!r} is unknown; use one of {', '.join(KINDS)}")
