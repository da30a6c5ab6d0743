"""The unigram language model, applied: of all ways to cut a word into pieces, the most probable.

    P(x) = product of p(x_i);    the best segmentation maximises sum of log p(x_i)      (Viterbi)

With alternatives: the n best segmentations, and segmentations drawn with probability P^alpha, which
make a model robust (subword regularization). A character that no piece covers costs the least
log-probability minus 10; a run of them is one unknown token, or their bytes.

Source: Kudo, 2018 (arXiv:1804.10959). Tested against: `tokenizers` and sentencepiece, the same ids;
all segmentations of short words, enumerated.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from heapq import nlargest
from typing import Any

from glassbox.core.errors import UserError
from glassbox.tokenizers.fallback import Fallback

UNKNOWN_PENALTY = 10.0
Segmentation = tuple[float, tuple[int, ...]]
"""Sum of log-probabilities, and the ids; an unknown character is -1 until the end."""


class UnigramModel:
    """Pieces with their log-probabilities, in nats, by id.

    pieces:   (piece, log-probability); a piece's id is its place.
    unknown:  the id of the unknown token, or None. byte_fallback: unknown characters become `<0x..>`.
    hidden:   ids of pieces that no text becomes (special tokens, bytes).
    floor:    log-probability of an unknown character; None: the least minus 10.
    """

    kind = "Unigram"

    def __init__(
        self,
        pieces: Sequence[tuple[str, float]],
        unknown: int | None,
        *,
        byte_fallback: bool = False,
        hidden: frozenset[int] = frozenset(),
        floor: float | None = None,
    ) -> None:
        self.pieces = [(piece, float(score)) for piece, score in pieces]
        self.unknown, self.byte_fallback, self.hidden = unknown, byte_fallback, hidden
        self.vocab = {piece: number for number, (piece, _) in enumerate(self.pieces)}
        if not self.pieces or len(self.vocab) != len(self.pieces):
            raise UserError(
                "a piece stands twice in the vocabulary, or none does; each needs its own"
            )
        if unknown is not None and not 0 <= unknown < len(self.pieces):
            raise UserError(f"unk_id = {unknown} is none of the {len(self.pieces)} pieces")
        self.tokens = {number: piece.encode() for piece, number in self.vocab.items()}
        least = min(score for _, score in self.pieces)
        self.floor = least - UNKNOWN_PENALTY if floor is None else floor
        self._fallback = Fallback.of(self.vocab, unknown, byte_fallback)
        self._known = {
            piece: (score, number)
            for number, (piece, score) in enumerate(self.pieces)
            if number not in hidden and piece
        }
        self._longest = max(map(len, self._known), default=1)

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = self.pieces, self.unknown, self.byte_fallback, self.hidden, self.floor
        return _rebuild, arguments

    def encode_word_plain(self, word: bytes) -> list[int]:
        """Ids of one word: the best of every prefix, by trying every last piece."""
        text = word.decode("utf-8")
        best: list[Segmentation] = [(0.0, ())]
        for end in range(1, len(text) + 1):
            options = [
                (best[start][0] + score, (*best[start][1], number))
                for start in range(end)
                for score, number in self._edges(text, start, end)
            ]
            best.append(max(options, key=lambda option: option[0]))
        return self._finish(text, best[-1][1])

    def encode_word(self, word: bytes) -> list[int]:
        """`encode_word_plain` in O(length x longest piece), with places in place of paths."""
        text = word.decode("utf-8")
        if (whole := self._known.get(text)) is not None and len(text) == 1:
            return [whole[1]]
        known, longest, size = self._known, self._longest, len(text)
        scores, froms, numbers = [-math.inf] * (size + 1), [0] * (size + 1), [-1] * (size + 1)
        scores[0] = 0.0
        for start in range(size):
            here = scores[start]
            if text[start] not in known and here + self.floor > scores[start + 1]:
                scores[start + 1], froms[start + 1] = here + self.floor, start
                numbers[start + 1] = -1
            for end in range(start + 1, min(size, start + longest) + 1):
                found = known.get(text[start:end])
                if found is not None and here + found[0] > scores[end]:
                    scores[end], froms[end], numbers[end] = here + found[0], start, found[1]
        ids: list[int] = []
        end = size
        while end > 0:
            ids.append(numbers[end])
            end = froms[end]
        return self._finish(text, tuple(reversed(ids)))

    def log_probability(self, text: str) -> float:
        """Log of the sum of P over all segmentations of a word, in nats."""
        return self._forward(text, 1.0)[-1]

    def nbest(self, text: str, num: int) -> list[tuple[float, list[int]]]:
        """The `num` best segmentations of a word, (log-probability, ids), the best first.

        Exact: the best `num` of a prefix are among the best `num` of a shorter one and a piece.
        """
        if num < 1:
            raise UserError(f"num = {num}; use 1 or more")
        best: list[list[Segmentation]] = [[(0.0, ())]]
        for end in range(1, len(text) + 1):
            options = (
                (total + score, (*ids, number))
                for start in range(max(0, end - self._longest), end)
                for score, number in self._edges(text, start, end)
                for total, ids in best[start]
            )
            best.append(nlargest(num, options, key=lambda option: option[0]))
        return [(total, self._finish(text, ids)) for total, ids in best[-1]]

    def sample(self, text: str, alpha: float, draw: random.Random) -> list[int]:
        """One segmentation of a word, drawn with probability proportional to P^alpha.

        alpha = 0 takes all segmentations alike; a large one takes the best. Exact: forward sums, then
        pieces drawn from the end.
        """
        if not alpha >= 0:
            raise UserError(f"alpha = {alpha}; use 0 or more")
        sums = self._forward(text, alpha)
        ids: list[int] = []
        end = len(text)
        while end > 0:
            options = [
                (sums[start] + alpha * score - sums[end], start, number)
                for start in range(max(0, end - self._longest), end)
                for score, number in self._edges(text, start, end)
            ]
            weights = [math.exp(weight) for weight, _, _ in options]
            _, end, number = draw.choices(options, weights)[0]
            ids.append(number)
        return self._finish(text, tuple(reversed(ids)))

    def _forward(self, text: str, alpha: float) -> list[float]:
        sums = [0.0]
        for end in range(1, len(text) + 1):
            options = [
                sums[start] + alpha * score
                for start in range(max(0, end - self._longest), end)
                for score, _ in self._edges(text, start, end)
            ]
            most = max(options)
            sums.append(most + math.log(sum(math.exp(option - most) for option in options)))
        return sums

    def _edges(self, text: str, start: int, end: int) -> Iterator[tuple[float, int]]:
        found = self._known.get(text[start:end])
        if found is not None:
            yield found
        elif end == start + 1:
            yield self.floor, -1

    def _finish(self, text: str, ids: tuple[int, ...]) -> list[int]:
        """A run of unknown characters as one unknown token, or as bytes."""
        if -1 not in ids:
            return list(ids)
        done, place, run = [], 0, ""
        for number in (*ids, None):
            if number == -1:
                run += text[place]
                place += 1
                continue
            if run:
                done += self._fallback.ids(run)
                run = ""
            if number is not None:
                done.append(number)
                place += len(self.pieces[number][0])
        return done

    def to_json(self) -> dict[str, Any]:
        """The `model` entry of a tokenizer.json."""
        return {
            "type": "Unigram",
            "unk_id": self.unknown,
            "vocab": [list(piece) for piece in self.pieces],
            "byte_fallback": self.byte_fallback,
        }


def _rebuild(
    pieces: list[tuple[str, float]],
    unknown: int | None,
    byte_fallback: bool,
    hidden: frozenset[int],
    floor: float,
) -> UnigramModel:
    return UnigramModel(pieces, unknown, byte_fallback=byte_fallback, hidden=hidden, floor=floor)
