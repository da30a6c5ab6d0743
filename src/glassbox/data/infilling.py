"""Fill in the middle: documents rearranged so that a left-to-right model learns to write what lies between.

A document is cut at two characters into prefix, middle and suffix, and written in one of two orders:
  prefix-suffix-middle  <PRE> prefix <SUF> suffix <MID> middle
  suffix-prefix-middle  <PRE> <SUF> suffix <MID> prefix middle
The second is the paper's variant for training on both (appendix D): what follows <MID> is then read
on from in either order. Source: Bavarian et al., arXiv:2207.14255.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, /) -> list[int]:
        """The ids of a text; special tokens in it are text."""

    def token_to_id(self, token: str, /) -> int | None:
        """The id of a token, None where there is none."""


class FimConfig(Spec):
    """How many documents are rearranged for filling in, and with which special tokens."""

    rate: float = Field(0.5, ge=0, le=1, description="share of documents that are rearranged")
    spm_rate: float = Field(
        0.5, ge=0, le=1, description="share of these in the order suffix-prefix-middle"
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


def fill_in_the_middle(
    documents: Iterable[str], tokenizer: Encoder, config: FimConfig, *, seed: int
) -> Iterator[list[int]]:
    """The ids of documents, a share of them rearranged, before anything is cut or packed.

    What becomes of a document depends on `seed`, on its place and on itself alone. Its three parts
    are encoded each by itself, as they will be when somebody asks for a middle.
    Raises UserError where the tokenizer lacks the special tokens.
    """
    marks = config.ids(tokenizer)
    for number, text in enumerate(documents):
        generator = random.Random(derive_seed(seed, "fim", number))
        if generator.random() >= config.rate:
            yield tokenizer.encode(text)
            continue
        suffix_first = generator.random() < config.spm_rate
        prefix, middle, suffix = map(tokenizer.encode, cut_in_three(text, generator))
        yield rearrange((prefix, middle, suffix), marks, suffix_first=suffix_first)
