"""The unigram language model, learned: many pieces at first, fewer and fewer by what each is worth.

    seeds: every character, and the substrings that occur twice or more, by count x length
    repeat: EM, twice: expected counts of pieces over all segmentations; p = exp(digamma(count)) / ...
            prune: drop the pieces whose loss costs the least likelihood, at most a quarter at a time

All words' segmentations are one graph whose edges are pieces; the forward and backward sums run over
all words at once, by place. `expected_counts_plain` is the same sum over all segmentations, one by one.

Source: Kudo, 2018 (arXiv:1804.10959), with the Bayesian M step of sentencepiece's trainer. Tested
against: `expected_counts_plain`; `tokenizers` and sentencepiece, the likelihood of the vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from glassbox.core.errors import UserError
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe_training import SPECIAL_TOKENS, roles_and_template
from glassbox.tokenizers.merge_learning import Progress
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.splitters import SPACE
from glassbox.tokenizers.tokenizer import Tokenizer
from glassbox.tokenizers.unigram import UnigramModel
from glassbox.tokenizers.wordpiece_training import count_processed

UNKNOWN = "<unk>"
_LEAST_EXPECTED = 0.5  # a piece expected less often is dropped in EM
_SHRINK = 0.75
_SLACK = 1.1  # pruning stops a little above the size asked for; the end takes the most probable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def train_unigram(
    texts: Iterable[str],
    vocab_size: int,
    *,
    normalizer: str = "NFKC",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    max_piece_chars: int = 16,
    seeds: int = 200_000,
    progress: Progress | None = None,
) -> Tokenizer:
    """Learn a unigram tokenizer: words with a space before each (`▁`), normalized by NFKC or another form.

    Ids: the special tokens, `<unk>`, then the pieces, the most probable first. Every character of the
    texts is a piece. Texts too small give fewer pieces; `progress` is then told "too little text".
    Raises UserError for a `vocab_size` that does not hold the characters.
    """
    if normalizer not in ("NFC", "NFD", "NFKC", "NFKD", "none"):
        raise UserError(f"normalizer = {normalizer!r}; use NFC, NFD, NFKC, NFKD or none")
    entry = None if normalizer == "none" else {"type": normalizer}
    space = {"replacement": SPACE, "prepend_scheme": "always", "split": True}
    words = Processing(entry, {"type": "Metaspace", **space}, {"type": "Metaspace", **space})
    counts = count_processed(texts, words, progress)
    special = [*special_tokens, UNKNOWN]
    pieces = train_pieces(
        counts,
        vocab_size - len(special),
        max_piece_chars=max_piece_chars,
        seeds=seeds,
        forbidden=special,
        progress=progress,
    )
    if progress is not None and len(pieces) + len(special) < vocab_size:
        progress("too little text", len(pieces) + len(special), vocab_size)
    vocab = [*((token, 0.0) for token in special), *pieces]
    roles, template = roles_and_template(special_tokens)
    model = UnigramModel(vocab, len(special) - 1, hidden=frozenset(range(len(special))))
    return Tokenizer(
        model,
        words,
        [AddedToken(token, number) for number, token in enumerate(special)],
        roles={**roles, "unk_token": UNKNOWN},
        chat_template=template,
    )


def train_pieces(
    word_counts: Mapping[str, int],
    num_pieces: int,
    *,
    max_piece_chars: int = 16,
    seeds: int = 200_000,
    forbidden: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[tuple[str, float]]:
    """Pieces and their log-probabilities in nats, the most probable first."""
    weights = seed_pieces(word_counts, seeds, max_piece_chars)
    for piece in forbidden:
        if len(piece) > 1:
            weights.pop(piece, None)
    chars = {piece for piece in weights if len(piece) == 1}
    if len(chars) > num_pieces:
        raise UserError(
            f"vocab_size leaves room for {num_pieces} pieces, but the texts have {len(chars)} "
            "characters; raise it, or clean the texts"
        )
    total = math.log(sum(weights.values()))
    scores = {piece: math.log(weight) - total for piece, weight in weights.items()}
    graph = Segmentations(word_counts, list(scores))
    goal = max(num_pieces, int(num_pieces * _SLACK))
    while True:
        for _ in range(2):
            scores = _maximize(graph.expected_counts(scores), chars)
        if progress is not None:
            progress("prune pieces", len(scores), num_pieces)
        if len(scores) <= goal:
            break
        scores = _prune(graph, scores, max(goal, int(len(scores) * _SHRINK)), chars)
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    room = num_pieces - len(chars)
    kept = [item for item in ranked if item[0] in chars]
    kept += [item for item in ranked if item[0] not in chars][:room]
    return sorted(kept, key=lambda item: (-item[1], item[0]))


def seed_pieces(word_counts: Mapping[str, int], seeds: int, max_chars: int) -> dict[str, float]:
    """Every character, and substrings that occur twice or more, weighed by count x length.

    Of substrings that only ever go on in one way, the longest stands for all, as in a suffix tree.

    >>> seed_pieces({"abab": 1, "c": 1}, 10, 4)
    {'a': 2.0, 'b': 2.0, 'c': 1.0, 'ab': 4.0}
    """
    level: Counter[str] = Counter()
    for word, count in word_counts.items():
        for char in word:
            level[char] += count
    found = {char: float(count) for char, count in sorted(level.items())}
    positions = [
        (word, start, count) for word, count in word_counts.items() for start in range(len(word))
    ]
    candidates: list[tuple[float, str]] = []
    for length in range(2, max_chars + 2):
        longer: Counter[str] = Counter()
        positions = [
            (word, start, count)
            for word, start, count in positions
            if start + length <= len(word) and level[word[start : start + length - 1]] > 1
        ]
        for word, start, count in positions:
            longer[word[start : start + length]] += count
        most: dict[str, int] = {}
        for piece, count in longer.items():
            most[piece[:-1]] = max(count, most.get(piece[:-1], 0))
        if length > 2:
            candidates += [
                (float(count * len(piece)), piece)
                for piece, count in level.items()
                if count > 1 and most.get(piece, 0) < count
            ]
        level = longer
    candidates.sort(key=lambda one: (-one[0], one[1]))
    return found | {piece: weight for weight, piece in candidates[:seeds]}


class Segmentations:
    """Every way to cut every word: a graph of positions, whose edges are pieces."""

    def __init__(self, word_counts: Mapping[str, int], pieces: Sequence[str]) -> None:
        self.pieces = list(pieces)
        ids = {piece: number for number, piece in enumerate(self.pieces)}
        longest = max(map(len, self.pieces), default=1)
        edges: list[tuple[int, int, int, int]] = []  # end within the word, from, to, piece
        base = 0
        first, last = [], []
        for word in word_counts:
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + longest) + 1):
                    number = ids.get(word[start:end])
                    if number is not None:
                        edges.append((end, base + start, base + end, number))
            first.append(base)
            base += len(word) + 1
            last.append(base - 1)
        table = np.array(edges, np.int64).reshape(-1, 4)
        self.size = base
        self.first, self.last = np.array(first, np.int64), np.array(last, np.int64)
        self.counts = np.array(list(word_counts.values()), np.float64)
        lengths = self.last - self.first
        self.count_at = np.repeat(self.counts, lengths + 1)
        self.last_at = np.repeat(self.last, lengths + 1)
        begin_at = np.repeat(self.first, lengths + 1)
        self.source, self.target, self.piece = table[:, 1], table[:, 2], table[:, 3]
        self._by_end = _levels(self.target - begin_at[self.target], self.target)
        self._by_start = _levels(self.last_at[self.source] - self.source, self.source)

    def expected_counts(self, scores: Mapping[str, float]) -> dict[str, float]:
        """How often each piece is expected, over all segmentations by their probability."""
        value = self._values(scores)
        forward, backward = self._sums(value)
        exponent = (
            forward[self.source]
            + value
            + backward[self.target]
            - forward[self.last_at][self.source]
        )
        share = np.exp(exponent) * self.count_at[self.source]
        totals = np.bincount(self.piece, share, minlength=len(self.pieces))
        return {piece: float(n) for piece, n in zip(self.pieces, totals, strict=True) if n > 0}

    def log_likelihood(self, scores: Mapping[str, float]) -> float:
        """Sum over words of count x log P(word), in nats."""
        forward, _ = self._sums(self._values(scores))
        return float((forward[self.last] * self.counts).sum())

    def best_counts(self, scores: Mapping[str, float]) -> dict[str, float]:
        """How often each piece is in the best segmentations."""
        value = self._values(scores)
        best = np.full(self.size, -np.inf)
        best[self.first] = 0.0
        edge_to = np.full(self.size, -1, np.int64)
        for order, starts, targets in self._by_end:
            options = best[self.source[order]] + value[order]
            top = np.maximum.reduceat(options, starts)
            best[targets] = top
            sizes = np.diff([*starts, len(order)])
            hit = np.flatnonzero(options == np.repeat(top, sizes))
            edge_to[self.target[order[hit[::-1]]]] = order[hit[::-1]]
        totals = np.zeros(len(self.pieces))
        place, count = self.last[self.last > self.first], self.counts[self.last > self.first]
        while len(place):
            edge = edge_to[place]
            totals += np.bincount(self.piece[edge], count, minlength=len(totals))
            place = self.source[edge]
            going = edge_to[place] >= 0
            place, count = place[going], count[going]
        return {piece: float(n) for piece, n in zip(self.pieces, totals, strict=True) if n > 0}

    def _values(self, scores: Mapping[str, float]) -> Floats:
        return np.array([scores.get(piece, -np.inf) for piece in self.pieces])[self.piece]

    def _sums(self, value: Floats) -> tuple[Floats, Floats]:
        forward, backward = np.full(self.size, -np.inf), np.full(self.size, -np.inf)
        forward[self.first] = 0.0
        backward[self.last] = 0.0
        for order, starts, targets in self._by_end:
            forward[targets] = np.logaddexp.reduceat(
                forward[self.source[order]] + value[order], starts
            )
        for order, starts, targets in self._by_start:
            backward[targets] = np.logaddexp.reduceat(
                backward[self.target[order]] + value[order], starts
            )
        return forward, backward


def expected_counts_plain(
    word_counts: Mapping[str, int], scores: Mapping[str, float]
) -> dict[str, float]:
    """The obvious expected counts: each segmentation of each word, by its probability."""
    totals: dict[str, float] = {}
    for word, count in word_counts.items():
        ways = list(_segmentations(word, scores))
        weights = [math.exp(sum(scores[piece] for piece in way)) for way in ways]
        for way, weight in zip(ways, weights, strict=True):
            for piece in way:
                totals[piece] = totals.get(piece, 0.0) + count * weight / sum(weights)
    return totals


def _segmentations(word: str, scores: Mapping[str, float]) -> Iterable[tuple[str, ...]]:
    if not word:
        yield ()
    for end in range(1, len(word) + 1):
        if word[:end] in scores:
            for rest in _segmentations(word[end:], scores):
                yield (word[:end], *rest)


def _levels(depth: Ints, target: Ints) -> list[tuple[Ints, Ints, Ints]]:
    """Edges level by level; in each, their order, where each target's edges start, the targets."""
    order = np.lexsort((target, depth))
    levels = []
    cuts = np.flatnonzero(np.diff(depth[order])) + 1
    for part in np.split(order, cuts) if len(order) else []:
        targets = target[part]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(targets)) + 1])
        levels.append((part, starts, targets[starts]))
    return levels


def _maximize(expected: Mapping[str, float], chars: set[str]) -> dict[str, float]:
    kept = {
        piece: max(count, _LEAST_EXPECTED)
        for piece, count in expected.items()
        if count >= _LEAST_EXPECTED or piece in chars
    }
    for char in chars - kept.keys():
        kept[char] = _LEAST_EXPECTED
    total = _digamma(sum(kept.values()))
    return {piece: _digamma(count) - total for piece, count in kept.items()}


def _prune(
    graph: Segmentations, scores: Mapping[str, float], size: int, chars: set[str]
) -> dict[str, float]:
    """Keep the characters and the pieces whose removal would cost the most likelihood."""
    used = graph.best_counts(scores)
    total = sum(used.values())
    losses: list[tuple[float, str]] = []
    for piece, count in used.items():
        if piece in chars:
            continue
        others = _best_without(piece, scores)
        if others is None:
            continue
        # Its occurrences would be written with `others`, whose counts rise by as much.
        log_total = math.log(total + count * (len(others) - 1))
        instead = sum(math.log(used.get(other, 0.0) + count) - log_total for other in others)
        losses.append((count / total * (math.log(count / total) - instead), piece))
    losses.sort(key=lambda one: (-one[0], one[1]))
    kept = {piece for _, piece in losses[: max(0, size - len(chars))]} | chars
    return {piece: score for piece, score in scores.items() if piece in kept}


def _best_without(piece: str, scores: Mapping[str, float]) -> list[str] | None:
    """The best other way to write a piece; None where that is better than the piece itself."""
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for end in range(1, len(piece) + 1):
        options = [
            (best[start][0] + scores[piece[start:end]], [*best[start][1], piece[start:end]])
            for start in range(end)
            if end - start < len(piece) and piece[start:end] in scores
        ]
        best.append(max(options, key=lambda one: one[0]))
    return None if best[-1][0] >= scores[piece] else best[-1][1]


def _digamma(x: float) -> float:
    """The derivative of log gamma: by its recurrence up to 7, then its asymptotic series.

    Source: Abramowitz and Stegun, 6.3.5 and 6.3.18.
    """
    result = 0.0
    while x < 7:
        result -= 1 / x
        x += 1
    x -= 0.5
    inverse = 1 / (x * x)
    series = inverse * (
        1 / 24 - inverse * (7 / 960 - inverse * (31 / 8064 - inverse * 127 / 30720))
    )
    return result + math.log(x) + series
