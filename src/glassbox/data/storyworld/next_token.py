"""The generator's exact law of the next token, over the canonical tokenization of the text so far.

A generator gives every document a probability; a tokenizer gives every document one sequence of ids, its
canonical tokenization, and an end. So the two together are a distribution over sequences of ids, and

    P(v | t_1 .. t_n) = mass of documents whose ids begin with t_1 .. t_n v / mass of those with t_1 .. t_n.

Derivations and the borders of tokens meet so: a derivation is followed for as long as its text agrees
with what is given, and beyond until a cut between words is certain whatever follows
(`PreTokenizer.last_cut`), so that its first id that differs is certain too. All of its mass, whatever the
choices still to come, then belongs to that id at that place. A document that is spelled as the text so
far but whose canonical ids are others (a word that goes on and is merged otherwise) is no continuation
of these ids, and counts where it parted from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from glassbox.core.errors import UserError
from glassbox.data.storyworld.choice import Chooser, Program, Weights
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class NextTokenLaw:
    """The exact law at each place of a text, and the text's own log-probability under it.

    laws[n]: id -> probability of what follows the first n ids of the text; they sum to 1. Of a text
        that is not ended there is one more than it has ids.
    log_probs[n]: log laws[n][t_n], in nats.
    num_derivations: how many ends of derivations were looked at.
    """

    ids: list[int]
    laws: list[dict[int, float]]
    log_probs: list[float]
    num_derivations: int

    @property
    def log_prob(self) -> float:
        """Of all ids given, in nats: for a whole document, its end included, what the generator says."""
        return math.fsum(self.log_probs)


def next_token_law(
    program: Program,
    tokenizer: Tokenizer,
    text: str | Sequence[int],
    *,
    ended: bool = True,
    most_derivations: int = 2_000_000,
) -> NextTokenLaw:
    """The generator's law of the next id at every place of a text, and behind it unless `ended`.

    program: `document_program(config)`. text: as a string, or as its ids without an end.
    ended: the text is a whole document, and the last id of the law is the end of text; else it is what
        has been written so far.
    Raises UserError for a text that the generator cannot write, or not in these ids, for a tokenizer
    whose cuts between words are not known (all but byte-level BPE with a named pattern), and where more
    than `most_derivations` would have to be looked at.
    Tested against: every document of a small generator enumerated; `Document.log_prob`.
    """
    words = tokenizer.pretokenizer
    if not isinstance(words, PreTokenizer) or not words.cuts_are_known or words.changes_text:
        raise UserError(
            "the law of the next token needs a byte-level BPE tokenizer with a named pattern (gpt2, gpt4, "
            "o200k), whose words end where nothing that follows can change it"
        )
    target = _Target(tokenizer, words, text, ended)
    mass: list[dict[int, list[float]]] = [{} for _ in range(len(target.ids) + 1)]
    trail: list[int] = []
    count = 0
    while True:
        follower = _Follower(trail, target)
        try:
            program(follower)
            place, token = follower.end()
        except _Parted as parted:
            place, token = parted.place, parted.token
        mass[place].setdefault(token, []).append(follower.log_prob)
        count += 1
        if count > most_derivations:
            raise UserError(
                f"more than {most_derivations} derivations agree with this text for a while; "
                "raise most_derivations, or use a tokenizer with shorter words"
            )
        while trail and trail[-1] + 1 >= follower.sizes[len(trail) - 1]:
            trail.pop()
        if not trail:
            break
        trail[-1] += 1
    return _divided(target.ids, mass, ended, count)


def _divided(
    ids: list[int], mass: list[dict[int, list[float]]], ended: bool, count: int
) -> NextTokenLaw:
    """From the mass that parts at each place to the law there: masses add up from the end."""
    last = mass[len(ids)]
    if not last:
        reached = max((n for n, parted in enumerate(mass) if parted), default=0)
        raise UserError(
            f"the story world cannot write this text: nothing of it begins with its first {reached + 1} "
            f"tokens of {len(ids)}"
        )
    base = max(
        value for values in last.values() for value in values
    )  # of the rarest, hence the scale
    sums = [
        {token: math.fsum(math.exp(v - base) for v in values) for token, values in parted.items()}
        for parted in mass
    ]
    total = math.fsum(sums[-1].values())
    laws: list[dict[int, float]] = []
    if not ended:
        laws.append({token: value / total for token, value in sums[-1].items()})
    log_probs = []
    for place in range(len(ids) - 1, -1, -1):
        parted, ours = sums[place], total
        total = math.fsum((ours, *parted.values()))
        law = {token: value / total for token, value in parted.items()}
        law[ids[place]] = ours / total
        laws.append(law)
        log_probs.append(math.log(ours / total))
    return NextTokenLaw(ids, laws[::-1], log_probs[::-1], count)


class _Parted(Exception):
    """It is certain which id this derivation has where it first differs."""

    def __init__(self, place: int, token: int) -> None:
        self.place = place
        self.token = token


class _Target:
    """The text that derivations are held against, and where what differs from it gets its ids."""

    def __init__(
        self, tokenizer: Tokenizer, words: PreTokenizer, text: str | Sequence[int], ended: bool
    ) -> None:
        self.tokenizer = tokenizer
        self.words = words
        self.end = tokenizer.eos_id
        if isinstance(text, str):
            self.text, ids = text, tokenizer.encode_ordinary(text)
        else:  # half a character at the end is left out of the text and not of the ids
            self.text = tokenizer.decode_bytes(text).decode("utf-8", "ignore")
            ids = list(text)
        sure = tokenizer.encode_ordinary(self.text[: words.last_cut(self.text)])
        if ids[: len(sure)] != sure:
            raise UserError(
                "these ids are not the tokenizer's own for their text, so no document begins with them; "
                "give the text instead"
            )
        self.ids = [*ids, *([self.end] if ended else [])]
        self._anchors: dict[int, tuple[int, int]] = {}
        self._known: dict[tuple[int, str, bool], tuple[int, int] | None] = {}

    def parts(self, place: int, tail: str, *, whole: bool) -> tuple[int, int] | None:
        """Where text[:place] + tail first has another id, and which; None while that is not certain.

        whole: nothing follows the tail but the end.
        """
        key = (place, tail, whole)
        if key not in self._known:
            self._known[key] = self._parts(place, tail, whole)
        return self._known[key]

    def _parts(self, place: int, tail: str, whole: bool) -> tuple[int, int] | None:
        start, before = self._anchor(place)
        window = self.text[start:place] + tail
        cut = len(window) if whole else self.words.last_cut(window)
        if not cut and not whole:
            return None
        ids = self.tokenizer.encode_ordinary(window[:cut])
        if whole:
            ids.append(self.end)
        for offset, token in enumerate(ids):
            at = before + offset
            if at == len(self.ids) or token != self.ids[at]:
                return at, token
        return None

    def _anchor(self, place: int) -> tuple[int, int]:
        """The last certain cut before a place of the text, and how many ids lie before it."""
        if place not in self._anchors:
            start = self.words.last_cut(self.text[:place])
            self._anchors[place] = (start, len(self.tokenizer.encode_ordinary(self.text[:start])))
        return self._anchors[place]


class _Follower(Chooser):
    """Follows `trail` (option indices), then always the first option, until its ids part."""

    def __init__(self, trail: list[int], target: _Target) -> None:
        self.trail = trail
        self.sizes: list[int] = []
        self.log_prob = 0.0
        self._target = target
        self._place = 0  # so much of the text agrees
        self._tail = ""  # and this comes behind it

    def pick(self, options: Sequence[T], weights: Weights | None = None) -> T:
        depth = len(self.sizes)
        self.sizes.append(len(options))
        if depth == len(self.trail):
            self.trail.append(0)
        index = self.trail[depth]
        self.log_prob += -math.log(len(options)) if weights is None else weights.logs[index]
        return options[index]

    def emit(self, text: str) -> None:
        if not self._tail:
            known = self._target.text
            if known.startswith(text, self._place):
                self._place += len(text)
                return
            agreed = 0
            while (
                agreed < len(text)
                and self._place + agreed < len(known)
                and known[self._place + agreed] == text[agreed]
            ):
                agreed += 1
            self._place += agreed
            text = text[agreed:]
        self._tail += text
        found = self._target.parts(self._place, self._tail, whole=False)
        if found is not None:
            raise _Parted(*found)

    def end(self) -> tuple[int, int]:
        """Where a derivation that has ended parts: at its end, if not before."""
        found = self._target.parts(self._place, self._tail, whole=True)
        # the document itself: its end is the last id
        return (len(self._target.ids), self._target.end) if found is None else found
