"""Training of byte-pair encoding: merge the most frequent pair of neighbours repeatedly.

    start from the 256 bytes; repeat: (a, b) = the pair with the highest count, then the lowest ids;
    the token ab gets the next id, and every a b inside a word becomes ab

Source: Sennrich et al., 2016 (arXiv:1508.07909), on bytes as in GPT-2. `train_bpe_plain` is that
sentence in Python. `train_bpe` gives the same merges while visiting only words that contain the
pair: it keeps each pair's count and positions, and a heap of counts that is updated lazily. Tested
against: `tokenizers` (`BpeTrainer`), the same merges, ties included.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from glassbox.core.errors import UserError
from glassbox.core.workers import run_tasks
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import BYTES_IN_ORDER, CHAR_TO_BYTE, to_chars, utf8
from glassbox.tokenizers.chat import DEFAULT_CHAT_TEMPLATE
from glassbox.tokenizers.merge_learning import LinkedWords, Progress, learn_merges
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer import Tokenizer

Merge = tuple[bytes, bytes]

END_OF_TEXT, TURN_START, TURN_END, PADDING = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
)
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PADDING)

_GROUP_CHARS = 1 << 22

_ALPHABET = [bytes([byte]) for byte in BYTES_IN_ORDER]


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = "gpt4",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    min_frequency: int = 1,
    workers: int = 1,
    progress: Progress | None = None,
) -> Tokenizer:
    """Learn a byte-level BPE tokenizer of `vocab_size` tokens from texts, each taken by itself.

    Ids: the special tokens, the 256 bytes, then one for each merge. `pattern` is a name of
    `patterns.PATTERNS` or a regular expression. Special tokens spelled in a text are text: cut
    documents at their separators first. No merge spells one. `<|endoftext|>` ends documents and
    `<|pad|>` pads, where they are among `special_tokens`; with `<|im_start|>` and `<|im_end|>` the
    tokenizer has our chat template. `workers` processes count the words; what is learned is the same.

    Memory holds the distinct words and a megabyte of text, whatever the length of all texts: about
    250 bytes a distinct word at the peak.

    Texts too small for the vocabulary give fewer merges and the smaller `vocab_size` that
    follows; `progress` is then told "too little text". Raises UserError for a `vocab_size` that
    does not hold the bytes and the special tokens.
    Tested against: `tokenizers`, the same vocabulary and merges; `train_bpe_plain`.
    """
    check_training(vocab_size, special_tokens, min_frequency)
    pretokenizer = PreTokenizer.named(pattern)
    words = count_words(texts, pretokenizer, workers=workers, progress=progress)
    linked = link_words(words)
    words.clear()  # what is learned from is the links alone
    merges = train_merges(
        linked,
        vocab_size - len(special_tokens),
        forbidden=special_tokens,
        min_frequency=min_frequency,
        progress=progress,
    )
    tokenizer = tokenizer_from_merges(merges, pretokenizer, special_tokens)
    if progress is not None and tokenizer.vocab_size < vocab_size:
        progress("too little text", tokenizer.vocab_size, vocab_size)
    return tokenizer


def train_bpe_plain(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = "gpt4",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    min_frequency: int = 1,
) -> Tokenizer:
    """The obvious `train_bpe`: its oracle, for small texts."""
    check_training(vocab_size, special_tokens, min_frequency)
    pretokenizer = PreTokenizer.named(pattern)
    words = Counter(word for text in texts for word in pretokenizer.split(text))
    merges = train_merges_plain(
        words,
        vocab_size - len(special_tokens),
        forbidden=special_tokens,
        min_frequency=min_frequency,
    )
    return tokenizer_from_merges(merges, pretokenizer, special_tokens)


def check_training(vocab_size: int, special_tokens: Sequence[str], min_frequency: int) -> None:
    """Raise UserError for arguments that no vocabulary can satisfy."""
    if isinstance(special_tokens, str):
        raise UserError(f"special_tokens = {special_tokens!r}; give a list of strings")
    least = 256 + len(special_tokens)
    if vocab_size < least:
        raise UserError(
            f"vocab_size = {vocab_size} is too small: 256 bytes and {len(special_tokens)} special"
            f" tokens need {least}"
        )
    if min_frequency < 1:
        raise UserError(f"min_frequency = {min_frequency}; use 1 or more")
    for token in special_tokens:
        if special_tokens.count(token) > 1:
            raise UserError(f"special_tokens holds {token!r} twice")
        if not token or (len(token) == 1 and token in CHAR_TO_BYTE):
            raise UserError(f"special_tokens holds {token!r}; use at least two characters")


def tokenizer_from_merges(
    merges: Sequence[Merge], pretokenizer: PreTokenizer, special_tokens: Sequence[str]
) -> Tokenizer:
    """Number the special tokens, the bytes and the merges, in this order."""
    vocab = {token: number for number, token in enumerate(special_tokens)}
    written = [(to_chars(left), to_chars(right)) for left, right in merges]
    for token in (*map(to_chars, _ALPHABET), *(left + right for left, right in written)):
        vocab.setdefault(token, len(vocab))
    roles, template = roles_and_template(special_tokens)
    return Tokenizer(
        BytePairModel(vocab, written),
        pretokenizer,
        [AddedToken(token, number) for number, token in enumerate(special_tokens)],
        roles=roles,
        chat_template=template,
    )


def roles_and_template(special_tokens: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """Which of our special tokens end a document and pad, and the chat template they allow."""
    roles = {"eos_token": END_OF_TEXT, "pad_token": PADDING}
    chats = TURN_START in special_tokens and TURN_END in special_tokens
    template = DEFAULT_CHAT_TEMPLATE if chats else None
    return {role: token for role, token in roles.items() if token in special_tokens}, template


def count_words(
    texts: Iterable[str],
    pretokenizer: PreTokenizer,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Counter[str]:
    """How often each word occurs; only the distinct words and some blocks of text are in memory.

    With several `workers` each counts four million characters at a time. `progress` is called with
    "count words" and the characters read so far.
    """
    counts: Counter[str] = Counter()
    done = 0
    groups = _groups(texts, pretokenizer)
    for group, found in run_tasks(_CountWords(pretokenizer), groups, workers):
        counts.update(found)
        done += group.size
        if progress is not None:
            progress("count words", done, None)
    return counts


@dataclass(frozen=True)
class _Group:
    """Blocks of text that are counted together."""

    number: int
    blocks: list[str]
    size: int

    def __str__(self) -> str:
        return f"the text's part {self.number}"


def _groups(texts: Iterable[str], pretokenizer: PreTokenizer) -> Iterator[_Group]:
    blocks: list[str] = []
    size = number = 0
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"texts[{place}] is a {type(text).__name__}; give strings")
        for block in pretokenizer.blocks(text):
            blocks.append(block)
            size += len(block)
            if size >= _GROUP_CHARS:
                number += 1
                yield _Group(number, blocks, size)
                blocks, size = [], 0
    yield _Group(number + 1, blocks, size)


@dataclass(frozen=True)
class _CountWords:
    """What a worker does with a group."""

    pretokenizer: PreTokenizer

    def __call__(self, group: _Group) -> Counter[str]:
        words = self.pretokenizer
        counts: Counter[str] = Counter()
        for block in group.blocks:
            counts.update(words.split(words.normalize(block)))
        return counts


def link_words(word_counts: Mapping[str, int]) -> LinkedWords:
    """The words as bytes, which `train_merges` learns from."""
    text, lengths, weights = bytearray(), array("i"), array("q")
    for word, count in word_counts.items():
        encoded = utf8(word)
        text += encoded
        lengths.append(len(encoded))
        weights.append(count)
    ids = np.empty(256, np.int16)
    ids[list(BYTES_IN_ORDER)] = np.arange(256)
    return LinkedWords(ids[np.frombuffer(text, np.uint8)], lengths, weights)


def train_merges(
    words: LinkedWords,
    num_tokens: int,
    *,
    forbidden: Sequence[str] = (),
    min_frequency: int = 1,
    progress: Progress | None = None,
) -> list[Merge]:
    """Learn merges until the alphabet and the tokens joined make `num_tokens`, or no pair is left.

    `forbidden` are strings that no merge may spell (special tokens). A pair that occurs fewer than
    `min_frequency` times is not joined. Two merges that spell one token count as one token.
    """
    never = {utf8(string, what="a special token") for string in forbidden}
    return learn_merges(
        words,
        list(_ALPHABET),
        num_tokens,
        join=bytes.__add__,
        never=never,
        min_frequency=min_frequency,
        progress=progress,
    )


def train_merges_plain(
    word_counts: Counter[str],
    num_tokens: int,
    *,
    forbidden: Sequence[str] = (),
    min_frequency: int = 1,
) -> list[Merge]:
    """The obvious `train_merges`: count all pairs of all words before every merge.

    >>> train_merges_plain(Counter({"abab": 3}), 258)
    [(b'a', b'b'), (b'ab', b'ab')]
    """
    rank = {token: number for number, token in enumerate(_ALPHABET)}
    never = {utf8(string, what="a special token") for string in forbidden}
    words = [([bytes([b]) for b in utf8(word)], count) for word, count in word_counts.items()]
    merges: list[Merge] = []
    while len(rank) < num_tokens:
        counts: Counter[Merge] = Counter()
        for word, count in words:
            for left, right in pairwise(word):
                if left + right not in never:
                    counts[left, right] += count
        if not counts:
            break
        best = max(counts, key=lambda p: (counts[p], -rank[p[0]], -rank[p[1]]))
        if counts[best] < min_frequency:
            break
        merges.append(best)
        rank.setdefault(best[0] + best[1], len(rank))
        words = [(_join(word, best), count) for word, count in words]
    return merges


def _join(word: list[bytes], pair: Merge) -> list[bytes]:
    """Replace each occurrence of a pair, from left to right.

    >>> _join([b"a", b"a", b"a"], (b"a", b"a"))
    [b'aa', b'a']
    """
    joined, i = [], 0
    while i < len(word):
        found = tuple(word[i : i + 2]) == pair
        joined.append(pair[0] + pair[1] if found else word[i])
        i += 2 if found else 1
    return joined
