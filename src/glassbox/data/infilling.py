"""Fill-in-the-middle: documents rearranged so that a left-to-right model learns to infill.

A document is cut at two characters into prefix, middle and suffix, and written in one of two
orders:
  prefix-suffix-middle  <PRE> prefix <SUF> suffix <MID> middle
  suffix-prefix-middle  <PRE> <SUF> suffix <MID> prefix middle
The second is the paper's variant for training on both (appendix D): what follows <MID> is then read
on from in either order.

A document longer than a row of training is first cut into pieces that fit a row, and each piece is
rearranged separately (the paper's context-level variant, section 4.4): rearranged as a whole and
then cut
into rows, most long documents would have their prefix in one row and their middle in another.
Source: Bavarian et al., arXiv:2207.14255.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed


class Encoder(Protocol):
    """Protocol of the tokenizer methods used here."""

    def encode(self, text: str, /) -> list[int]:
        """The ids of a text; special tokens in it are text."""

    @property
    def eos_id(self) -> int:
        """The id that ends a text."""

    def token_to_id(self, token: str, /) -> int | None:
        """The id of a token, None where there is none."""


class FimConfig(Spec):
    """How many stretches of documents are rearranged for filling in, and with which special tokens."""

    rate: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of documents, or of row-length pieces, that are rearranged",
    )
    spm_rate: float = Field(
        0.5, ge=0, le=1, description="share of these in suffix-prefix-middle order"
    )
    prefix_token: str = Field("<|fim_prefix|>", min_length=1)
    middle_token: str = Field("<|fim_middle|>", min_length=1)
    suffix_token: str = Field("<|fim_suffix|>", min_length=1)

    @property
    def tokens(self) -> tuple[str, str, str]:
        """The special tokens: prefix, middle, suffix."""
        return self.prefix_token, self.middle_token, self.suffix_token

    @model_validator(mode="after")
    def _three_tokens(self) -> FimConfig:
        if len(set(self.tokens)) < 3:
            raise ValueError(f"prefix_token, middle_token and suffix_token are {self.tokens}; "
                             "give three different ones")  # fmt: skip
        return self

    def ids(self, tokenizer: Encoder) -> tuple[int, int, int]:
        """The ids of the special tokens. Raises UserError for one that the tokenizer lacks."""
        found = [tokenizer.token_to_id(token) for token in self.tokens]
        for token, token_id in zip(self.tokens, found, strict=True):
            if token_id is None:
                raise UserError(
                    f"data.fim: the tokenizer has no token '{token}'; name its own as "
                    "data.fim.prefix_token, middle_token and suffix_token, or train a tokenizer"
                )
        prefix, middle, suffix = (token_id for token_id in found if token_id is not None)
        return prefix, middle, suffix


def cut_in_three(text: str, generator: random.Random) -> tuple[str, str, str]:
    """Prefix, middle and suffix: cut before two characters drawn evenly, the end included.

    >>> "".join(cut_in_three("a short story", random.Random(0)))
    'a short story'
    """
    first, second = sorted(generator.randint(0, len(text)) for _ in range(2))
    return text[:first], text[first:second], text[second:]


def rearrange(
    parts: tuple[Sequence[int], Sequence[int], Sequence[int]],
    marks: tuple[int, int, int],
    *,
    suffix_first: bool,
) -> list[int]:
    """The ids of prefix, middle and suffix with their marks, in either order.

    >>> rearrange(([1], [2], [3]), (97, 98, 99), suffix_first=False)
    [97, 1, 99, 3, 98, 2]
    >>> rearrange(([1], [2], [3]), (97, 98, 99), suffix_first=True)
    [97, 99, 3, 98, 1, 2]
    """
    prefix, middle, suffix = parts
    pre, mid, suf = marks
    if suffix_first:
        return [pre, suf, *suffix, mid, *prefix, *middle]
    return [pre, *prefix, suf, *suffix, mid, *middle]


@dataclass
class FimCounts:
    """Counts of rearranged pieces. unfit: selected, but too long to be rearranged."""

    stretches: int = 0
    rearranged: int = 0
    unfit: int = 0


LEAST_ROW = 32
_SLACK = 4
_DRAWS = 16


def fill_in_the_middle(
    documents: Iterable[str],
    tokenizer: Encoder,
    config: FimConfig,
    *,
    seed: int,
    row_length: int,
    counts: FimCounts | None = None,
) -> Iterator[list[int]]:
    """Documents as ids for a shard: stretches of them rearranged, none of these longer than a row.

    A stretch that is drawn becomes `<eos> rearranged <eos>`, at most row_length + 1 ids. The text
    between two of them stays one run, with `<eos>` where the document itself begins or ends; so of
    n runs of a document n - 1 have a first token that nothing predicts. What becomes of a document
    depends on `seed`, on its place and on itself alone. Its parts are encoded each by itself, as
    they will be when somebody asks for a middle.
    Raises UserError where the tokenizer lacks the special tokens, and for rows of less than 32.
    """
    marks = config.ids(tokenizer)
    if row_length < LEAST_ROW:
        raise UserError(
            f"data.row_length = {row_length}: data.fim needs rows of {LEAST_ROW} tokens or more, "
            "since prefix, middle and suffix share one"
        )
    counts = FimCounts() if counts is None else counts
    eos = tokenizer.eos_id
    room = row_length + 1 - 2 - len(marks)
    for number, text in enumerate(documents):
        generator = random.Random(derive_seed(seed, "fim", number))
        held: list[str] = []
        at_start = True
        for stretch in cut_to_fit(text, tokenizer, room - _SLACK):
            counts.stretches += 1
            moved = None
            if generator.random() < config.rate:
                moved = _rearranged(stretch, tokenizer, marks, config, generator, room)
                counts.rearranged += moved is not None
                counts.unfit += moved is None
            if moved is None:
                held.append(stretch)
                continue
            if held:
                yield [*[eos] * at_start, *tokenizer.encode("".join(held))]
                held = []
            at_start = False
            yield [eos, *moved, eos]
        if held or at_start:
            yield [*[eos] * at_start, *tokenizer.encode("".join(held)), eos]


def _rearranged(
    text: str,
    tokenizer: Encoder,
    marks: tuple[int, int, int],
    config: FimConfig,
    generator: random.Random,
    room: int,
) -> list[int] | None:
    """The ids of a text cut in three; None where every cut makes too many of them."""
    suffix_first = generator.random() < config.spm_rate
    for _ in range(_DRAWS):  # a cut inside a word makes more tokens of it
        prefix, middle, suffix = map(tokenizer.encode, cut_in_three(text, generator))
        if len(prefix) + len(middle) + len(suffix) <= room:
            return rearrange((prefix, middle, suffix), marks, suffix_first=suffix_first)
    return None


def cut_to_fit(text: str, tokenizer: Encoder, room: int) -> Iterator[str]:
    """Stretches of at most `room` tokens, cut before white space where there is some; joined, the text.

    A text of no more tokens is one stretch; so is a character that is more tokens by itself.
    """
    count = len(tokenizer.encode(text))
    if count <= room:
        yield text
        return
    usual = max(1, len(text) * room // count)
    start = 0
    while start < len(text):
        size = min(usual, len(text) - start)
        while True:
            end = _before_space(text, start, start + size)
            found = len(tokenizer.encode(text[start:end]))
            if found <= room or end - start == 1:
                break
            size = max(1, min(end - start - 1, (end - start) * room // found))
        yield text[start:end]
        start = end


def _before_space(text: str, start: int, end: int) -> int:
    """`end`, or the beginning of white space shortly before it."""
    if end >= len(text):
        return len(text)
    for place in range(end, max(start + (end - start) // 2, end - 64), -1):
        if text[place].isspace() and not text[place - 1].isspace():
            return place
    return end
