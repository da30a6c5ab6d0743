"""Logits processors that depend on the tokens so far, as functions of one row; and the watermark.

Their order is that of transformers: sequence bias before the penalties; then repeated n-grams and
bad words; then forced tokens and the length decay; the watermark after all filters. Tested against:
transformers' processors of the same names, on random logits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from glassbox.core.config import Spec

_SELF_HASH_CANDIDATES = 40
_TABLE_SIZE = 1_000_003


class Watermark(Spec):
    """A green-list watermark: each context makes a subset of the vocabulary slightly more probable.

    Source: Kirchenbauer et al., arXiv:2301.10226 (lefthash), arXiv:2306.04634 (selfhash).
    Tested against: transformers WatermarkLogitsProcessor and WatermarkDetector.
    """

    greenlist_ratio: float = Field(
        0.25, gt=0, lt=1, description="share of the vocabulary that is green"
    )
    bias: float = Field(2.0, allow_inf_nan=False, description="added to the logits of green tokens")
    hashing_key: int = Field(
        15485863, ge=0, lt=2**31, description="key of the watermark, required for detection"
    )
    seeding_scheme: Literal["lefthash", "selfhash"] = Field(
        "lefthash",
        description="seed of the green list: the previous token (lefthash), or also the token itself "
        "(selfhash)",
    )
    context_width: int = Field(
        1, gt=0, le=64, description="tokens that seed the green list (selfhash)"
    )


def sequence_bias(
    logits: Float[Tensor, " V"],
    tokens: Sequence[int],
    biases: Iterable[tuple[Sequence[int], float]],
) -> Float[Tensor, " V"]:
    """Add each bias to the last token of its sequence, if `tokens` end with the tokens before it."""
    logits = logits.clone()
    for sequence, bias in biases:
        before = len(sequence) - 1
        if before == 0 or (before <= len(tokens) and list(tokens[-before:]) == list(sequence[:-1])):
            logits[sequence[-1]] += bias
    return logits


def ban_bad_words(
    logits: Float[Tensor, " V"],
    tokens: Sequence[int],
    words: Iterable[Sequence[int]],
    stop_ids: Collection[int],
) -> Float[Tensor, " V"]:
    """-inf for each token that would complete one of these sequences; single stop tokens are never
    banned.
    """
    banned = [word for word in words if len(word) > 1 or word[0] not in stop_ids]
    return sequence_bias(logits, tokens, ((word, -torch.inf) for word in banned))


class NgramBan:
    """Bans tokens that would repeat an n-gram of a growing sequence."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._next: dict[tuple[int, ...], set[int]] = {}
        self._done = 0  # n-grams that end before this index are known

    def banned(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that earlier followed the last size - 1 tokens. `tokens` must extend those of
        the last call.

        >>> NgramBan(2).banned([5, 6, 5, 7, 5])
        [6, 7]
        """
        size = self.size
        for end in range(max(self._done, size - 1), len(tokens)):
            self._next.setdefault(tuple(tokens[end - size + 1 : end]), set()).add(tokens[end])
        self._done = len(tokens)
        if len(tokens) + 1 < size:
            return []
        return sorted(self._next.get(tuple(tokens[len(tokens) - size + 1 :]), ()))


def force_token(logits: Float[Tensor, " V"], ids: Sequence[int]) -> Float[Tensor, " V"]:
    """0 for these tokens and -inf for all others."""
    forced = torch.full_like(logits, -torch.inf)
    forced[list(ids)] = 0.0
    return forced


def length_decay(
    logits: Float[Tensor, " V"], step: int, start: int, factor: float, stop_ids: Sequence[int]
) -> Float[Tensor, " V"]:
    """logit + |logit| (factor^(step - start) - 1) for the stop tokens from step start + 1 on."""
    if step <= start or not stop_ids:
        return logits
    logits = logits.clone()
    ids = list(stop_ids)
    old = logits[ids]
    growth = min(factor ** min(step - start, 1 << 16), 1e30) - 1
    logits[ids] = torch.where(old.isfinite(), old + old.abs() * growth, old)
    return logits


def classifier_free_guidance(
    logits: Float[Tensor, "*N V"], unconditional: Float[Tensor, "*N V"], scale: float
) -> Float[Tensor, "*N V"]:
    """Classifier-free guidance: scale * (log p - log q) + log q, with p of the prompt and q of the
    negative prompt.

    Source: Sanchez et al., arXiv:2306.17806. Tested against: transformers'
    UnbatchedClassifierFreeGuidanceLogitsProcessor.
    """
    conditional = logits.log_softmax(dim=-1)
    other = unconditional.to(conditional.dtype).log_softmax(dim=-1)
    return scale * (conditional - other) + other


def watermark(
    logits: Float[Tensor, " V"], tokens: Sequence[int], mark: Watermark
) -> Float[Tensor, " V"]:
    """Add the bias to the green tokens of this context; unchanged if the context is too short."""
    if len(tokens) < mark.context_width:
        return logits
    green = (
        _green_tokens(tokens, len(logits), mark)
        if mark.seeding_scheme == "lefthash"
        else _self_hashed(logits, tokens, mark)
    )
    marked = logits.clone()
    green = green.to(logits.device)
    marked[green] = marked[green] + mark.bias
    return marked


def _self_hashed(logits: Tensor, tokens: Sequence[int], mark: Watermark) -> Tensor:
    """Those of the most probable tokens that are green in the context that they end."""
    likeliest = logits.sort(dim=-1, descending=True).indices[:_SELF_HASH_CANDIDATES].tolist()
    green = [
        token
        for token in likeliest
        if bool((_green_tokens([*tokens, token], len(logits), mark) == token).any())
    ]
    return torch.tensor(green, dtype=torch.int64)


def _green_tokens(tokens: Sequence[int], vocab_size: int, mark: Watermark) -> Int[Tensor, " G"]:
    if mark.seeding_scheme == "selfhash":
        table = _hash_table(mark.hashing_key)
        context = torch.tensor(tokens[-mark.context_width :])
        hashed = table[context % _TABLE_SIZE] + 1
        seed = int((mark.hashing_key * hashed * (table[tokens[-1] % _TABLE_SIZE] + 1)).min())
    else:
        seed = mark.hashing_key * tokens[-1]
    generator = torch.Generator().manual_seed(seed % (2**64 - 1))
    size = int(vocab_size * mark.greenlist_ratio)
    return torch.randperm(vocab_size, generator=generator)[:size]


@lru_cache(maxsize=4)
def _hash_table(key: int) -> Int[Tensor, " T"]:
    return torch.randperm(_TABLE_SIZE, generator=torch.Generator().manual_seed(key))
