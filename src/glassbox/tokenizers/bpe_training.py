"""Byte-pair encoding, learned: join the most frequent pair of neighbours, again and again.

    start from the 256 bytes; repeat: (a, b) = the pair with the highest count, then the lowest ids;
    the token ab gets the next id, and every a b inside a word becomes ab

Source: Sennrich et al., 2016 (arXiv:1508.07909), on bytes as in GPT-2. `train_bpe_plain` is that
sentence in Python. `train_bpe` gives the same merges without ever looking at a word that does not
hold the pair: it keeps, for each pair, its count and its places, and a heap of counts that is mended
lazily. Tested against: `tokenizers` (`BpeTrainer`), the same merges, ties included.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from glassbox.core.errors import UserError
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import BYTES_IN_ORDER, CHAR_TO_BYTE, to_chars, utf8
from glassbox.tokenizers.chat import DEFAULT_CHAT_TEMPLATE
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer import Tokenizer
from glassbox.tokenizers.tokenizer_json import AddedToken

Progress = Callable[[str, int, int | None], None]
"""Called with a stage's name, how much of it is done, and how much there is (None: not known)."""

Merge = tuple[bytes, bytes]
Positions = npt.NDArray[np.int64]

END_OF_TEXT, TURN_START, TURN_END, PADDING = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
)
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PADDING)

_ALPHABET = [bytes([byte]) for byte in BYTES_IN_ORDER]
_EDGE, _GONE = -1, -2  # symbols of a place between two words, and of one joined to its left
_REPORT_EVERY = 64


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = "gpt4",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    min_frequency: int = 1,
    progress: Progress | None = None,
) -> Tokenizer:
    """Learn a byte-level BPE tokenizer of `vocab_size` tokens from texts, each taken by itself.

    Ids: the special tokens, the 256 bytes, then one for each merge. `pattern` is a name of
    `patterns.PATTERNS` or a regular expression. Special tokens spelled in a text are text: cut
    documents at their separators first. No merge spells one. `<|endoftext|>` ends documents and
    `<|pad|>` pads, where they are among `special_tokens`; with `<|im_start|>` and `<|im_end|>` the
    tokenizer has our chat template.

    Texts too small for the vocabulary give fewer merges and the smaller `vocab_size` that
    follows; `progress` is then told "too little text". Raises UserError for a `vocab_size` that
    does not hold the bytes and the special tokens.
    Tested against: `tokenizers`, the same vocabulary and merges; `train_bpe_plain`.
    """
    check_training(vocab_size, special_tokens, min_frequency)
    pretokenizer = PreTokenizer.named(pattern)
    words = count_words(texts, pretokenizer, progress=progress)
    num_tokens = vocab_size - len(special_tokens)
    merges = train_merges(
        words,
        num_tokens,
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
    roles = {"eos_token": END_OF_TEXT, "pad_token": PADDING}
    chats = TURN_START in special_tokens and TURN_END in special_tokens
    return Tokenizer(
        BytePairModel(vocab, written),
        pretokenizer,
        [AddedToken(token, number) for number, token in enumerate(special_tokens)],
        roles={role: token for role, token in roles.items() if token in special_tokens},
        chat_template=DEFAULT_CHAT_TEMPLATE if chats else None,
    )


def count_words(
    texts: Iterable[str], pretokenizer: PreTokenizer, *, progress: Progress | None = None
) -> Counter[str]:
    """How often each word occurs; only the distinct words and one block of text are in memory.

    `progress` is called with "count words" and the characters read so far.
    """
    counts: Counter[str] = Counter()
    done = 0
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"texts[{number}] is a {type(text).__name__}; give strings")
        for block in pretokenizer.blocks(text):
            counts.update(pretokenizer.split(pretokenizer.normalize(block)))
        done += len(text)
        if progress is not None:
            progress("count words", done, None)
    return counts


def train_merges(
    word_counts: Counter[str],
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
    words = _Words(word_counts)
    counts, places = words.count_pairs()
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)

    tokens = list(_ALPHABET)
    ids = {token: number for number, token in enumerate(tokens)}
    never = {utf8(string, what="a special token") for string in forbidden}
    merges: list[Merge] = []
    while len(tokens) < num_tokens and heap:
        negative, pair = heapq.heappop(heap)
        count = counts.get(pair, 0)
        if count != -negative:  # it lost some since it was pushed
            if count > 0:
                heapq.heappush(heap, (-count, pair))
            continue
        if count < min_frequency:
            break
        left, right = pair >> 32, pair & 0xFFFFFFFF
        joined = tokens[left] + tokens[right]
        if joined in never:
            del counts[pair]
            continue
        if joined not in ids:
            ids[joined] = len(tokens)
            tokens.append(joined)
        merges.append((tokens[left], tokens[right]))

        change = words.merge(left, right, ids[joined], places.pop(pair))
        del counts[pair]
        for other, loss in change.losses:
            if other in counts:  # not the pair itself, just joined
                counts[other] -= loss
        for other, gain, where in change.gains:
            known = places.get(other)
            places[other] = where if known is None else np.union1d(known, where)
            counts[other] = counts.get(other, 0) + gain
            heapq.heappush(heap, (-counts[other], other))
        if progress is not None and len(merges) % _REPORT_EVERY == 0:
            progress("learn merges", len(tokens) - 256, num_tokens - 256)
    if progress is not None:
        progress("learn merges", len(tokens) - 256, max(num_tokens, len(tokens)) - 256)
    return merges


@dataclass(frozen=True)
class _Change:
    """What one merge did to the counts of its neighbours' pairs."""

    losses: list[tuple[int, int]]
    gains: list[tuple[int, int, Positions]]


class _Words:
    """All distinct words end to end, each symbol linked to the next one that is still there.

    A pair (a, b) is keyed as a * 2^32 + b, so that keys sort as pairs do.
    """

    def __init__(self, word_counts: Counter[str]) -> None:
        encoded = [utf8(word) for word in word_counts]
        lengths = np.fromiter((len(word) for word in encoded), np.int64, len(encoded))
        weights = np.fromiter(word_counts.values(), np.int64, len(encoded))
        id_of_byte = np.empty(256, np.int64)
        id_of_byte[list(BYTES_IN_ORDER)] = np.arange(256)

        ends = np.cumsum(lengths + 1)  # each word is followed by an edge, and one comes first
        total = int(ends[-1]) + 1 if len(ends) else 1
        inside = np.ones(total, bool)
        inside[0] = False
        inside[ends] = False
        self.symbol = np.full(total, _EDGE, np.int64)
        self.symbol[inside] = id_of_byte[np.frombuffer(b"".join(encoded), np.uint8)]
        self.weight = np.zeros(total, np.int64)
        self.weight[inside] = np.repeat(weights, lengths)
        self.next = np.arange(1, total + 1)
        self.previous = np.arange(-1, total - 1)

    def count_pairs(self) -> tuple[dict[int, int], dict[int, Positions]]:
        """Each pair's count and the places of its left symbol, in ascending order."""
        here = np.flatnonzero((self.symbol[:-1] >= 0) & (self.symbol[1:] >= 0))
        small = (self.symbol[here] * 256 + self.symbol[here + 1]).astype(np.uint16)  # sorts faster
        order = np.argsort(small, kind="stable")
        keys = small[order].astype(np.int64)
        keys = (keys >> 8 << 32) | (keys & 255)
        counts, places = {}, {}
        for pair, count, where in _grouped(keys, self.weight[here[order]], here[order]):
            counts[pair] = count
            places[pair] = where
        return counts, places

    def merge(self, left: int, right: int, joined: int, places: Positions) -> _Change:
        """Join every `left right` that still stands at one of `places`."""
        symbol, follow, precede = self.symbol, self.next, self.previous
        places = places[symbol[places] == left]
        partner = follow[places]
        here = symbol[partner] == right
        places, partner = places[here], partner[here]
        if left == right and len(places) > 1:  # in a run such as aaa, only every other pair
            apart = np.ones(len(places), bool)
            apart[1:] = partner[:-1] != places[1:]
            index = np.arange(len(places))
            run_start = np.maximum.accumulate(np.where(apart, index, 0))
            every_other = (index - run_start) % 2 == 0
            places, partner = places[every_other], partner[every_other]

        after = follow[partner]
        before = precede[places]
        symbol_after_old = symbol[after]
        symbol[places] = joined
        symbol[partner] = _GONE
        follow[places] = after
        precede[after] = places

        # A neighbour that was itself joined: the pair between the two is counted from its left.
        weight = self.weight[places]
        has_after = symbol_after_old >= 0
        has_before = symbol[before] >= 0
        weight_after, weight_before = weight[has_after], weight[has_before]
        symbol_before = symbol[before[has_before]]
        lost = np.concatenate(
            [(right << 32) | symbol_after_old[has_after], (symbol_before << 32) | left]
        )
        won = np.concatenate(
            [(joined << 32) | symbol[after[has_after]], (symbol_before << 32) | joined]
        )
        weights = np.concatenate([weight_after, weight_before])
        where = np.concatenate([places[has_after], before[has_before]])

        order = np.argsort(lost, kind="stable")
        losses = [(p, n) for p, n, _ in _grouped(lost[order], weights[order], where[order])]
        order = np.argsort(won, kind="stable")
        gains = _grouped(won[order], weights[order], where[order])
        return _Change(losses, gains)


def _grouped(
    keys: Positions, weights: Positions, places: Positions
) -> list[tuple[int, int, Positions]]:
    """(key, total weight, places) of each run of equal keys."""
    if not len(keys):
        return []
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    totals = np.add.reduceat(weights, starts).tolist()
    return list(zip(keys[starts].tolist(), totals, np.split(places, starts[1:]), strict=True))


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
