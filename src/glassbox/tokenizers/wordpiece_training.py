"""WordPiece, learned as `tokenizers` learns it: by joining the most frequent pair, pieces kept, merges not.

Words begin as characters, all but the first with the prefix `##`; a joined piece keeps its left part's
prefix and loses its right part's. Source: Sennrich et al., 2016, with BERT's pieces (Devlin et al.,
2018). Tested against: `tokenizers`, the same vocabulary where no two counts tie (its own choice among
ties is not the same from run to run); `train_pieces_plain`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from glassbox.core.errors import UserError
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe_training import SPECIAL_TOKENS, roles_and_template
from glassbox.tokenizers.merge_learning import LinkedWords, Progress, learn_merges
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.tokenizer import Tokenizer
from glassbox.tokenizers.wordpiece import WordPieceModel

UNKNOWN = "[UNK]"
PREFIX = "##"
BERT_NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    lowercase: bool = True,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    min_frequency: int = 1,
    progress: Progress | None = None,
) -> Tokenizer:
    """Learn a WordPiece tokenizer with BERT's normalizer and pre-tokenizer.

    Ids: the special tokens, `[UNK]`, the characters, those within words, then the pieces learned.
    Characters beyond the vocabulary's room are left out, the rarest first. Raises UserError for a
    `vocab_size` without room for characters. Tested against: `tokenizers`.
    """
    words = Processing(
        {**BERT_NORMALIZER, "lowercase": lowercase},
        {"type": "BertPreTokenizer"},
        {"type": "WordPiece", "prefix": PREFIX, "cleanup": False},
    )
    counts = count_processed(texts, words, progress)
    special = [*special_tokens, UNKNOWN]
    pieces = train_pieces(
        counts, vocab_size - len(special), min_frequency=min_frequency, progress=progress
    )
    pieces = [piece for piece in pieces if piece not in special]
    vocab = {token: number for number, token in enumerate([*special, *pieces])}
    roles, template = roles_and_template(special_tokens)
    return Tokenizer(
        WordPieceModel(vocab, UNKNOWN, prefix=PREFIX, hidden=frozenset(special)),
        words,
        [AddedToken(token, vocab[token]) for token in special],
        roles={**roles, "unk_token": UNKNOWN},
        chat_template=template,
    )


def count_processed(
    texts: Iterable[str], words: Processing, progress: Progress | None = None
) -> Counter[str]:
    """How often each word occurs; only the distinct words and one block of text are in memory."""
    counts: Counter[str] = Counter()
    done = 0
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"texts[{number}] is a {type(text).__name__}; give strings")
        for n, block in enumerate(words.blocks(text)):
            counts.update(words.split(words.normalize(block), n == 0))
        done += len(text)
        if progress is not None:
            progress("count words", done, None)
    return counts


def train_pieces(
    word_counts: Counter[str],
    num_tokens: int,
    *,
    min_frequency: int = 1,
    progress: Progress | None = None,
) -> list[str]:
    """The characters, and pieces joined until there are `num_tokens` or no pair is left."""
    symbols, words = _spell(word_counts, num_tokens)
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    spelled = [[numbers[symbol] for symbol in word] for word, _ in words]
    linked = LinkedWords(
        np.array([number for word in spelled for number in word], np.int64),
        [len(word) for word in spelled],
        [count for _, count in words],
    )
    tokens = list(symbols)
    learn_merges(
        linked, tokens, num_tokens, join=_join, min_frequency=min_frequency, progress=progress
    )
    return tokens


def train_pieces_plain(
    word_counts: Counter[str], num_tokens: int, *, min_frequency: int = 1
) -> list[str]:
    """The obvious `train_pieces`: count all pairs of all words before every join.

    >>> train_pieces_plain(Counter({"aab": 3}), 5)
    ['a', '##a', '##b', 'aa', 'aab']
    """
    symbols, words = _spell(word_counts, num_tokens)
    rank = {symbol: number for number, symbol in enumerate(symbols)}
    while len(rank) < num_tokens:
        counts: Counter[tuple[str, str]] = Counter()
        for word, count in words:
            for pair in pairwise(word):
                counts[pair] += count
        if not counts:
            break
        best = min(counts, key=lambda p: (-counts[p], rank[p[0]], rank[p[1]]))
        if counts[best] < min_frequency:
            break
        rank.setdefault(_join(*best), len(rank))
        for word, _ in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [_join(*best)]
                i += 1
    return list(rank)


def _join(left: str, right: str) -> str:
    return left + right.removeprefix(PREFIX)


def _spell(
    word_counts: Counter[str], num_tokens: int
) -> tuple[list[str], list[tuple[list[str], int]]]:
    """The alphabet in order, and the words in it; a character without room is left out of words."""
    counts: Counter[str] = Counter()
    words = []
    for word, count in word_counts.items():
        spelled = [char if i == 0 else PREFIX + char for i, char in enumerate(word)]
        words.append((spelled, count))
        for symbol in spelled:
            counts[symbol] += count
    if num_tokens < 1:
        raise UserError("vocab_size has no room for characters beside the special tokens; raise it")
    kept = set(sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:num_tokens])
    order = sorted(kept, key=lambda symbol: (len(symbol) > 1, symbol))
    return order, [([s for s in word if s in kept], count) for word, count in words]
