"""The settings of a batch's rows as tensors, and the one function that picks their next tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.randomness import uniforms
from glassbox.inference.sampling import (
    SamplingParams,
    apply_repetition_penalty,
    apply_temperature,
    draw,
    min_p_filter,
    top_k_filter,
    top_p_filter,
)


@dataclass
class RowSettings:
    """One entry a row; a filter that no row asks for is not run at all."""

    temperature: Float[Tensor, " N"]
    top_k: Int[Tensor, " N"]
    top_p: Float[Tensor, " N"]
    min_p: Float[Tensor, " N"]
    penalty: Float[Tensor, " N"]
    seed: Int[Tensor, " N"]
    sample: Int[Tensor, " N"]

    @classmethod
    def of(
        cls,
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        samples: Sequence[int],
        device: torch.device,
    ) -> RowSettings:
        """Gather the rows' settings."""

        def column(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        real, whole = torch.float64, torch.int64
        return cls(
            temperature=column([p.temperature for p in params], real),
            top_k=column([p.top_k for p in params], whole),
            top_p=column([p.top_p for p in params], real),
            min_p=column([p.min_p for p in params], real),
            penalty=column([p.repetition_penalty for p in params], real),
            seed=column(list(seeds), whole),
            sample=column(list(samples), whole),
        )

    def __post_init__(self) -> None:
        greedy = self.temperature == 0
        self.greedy = greedy
        self.all_greedy = bool(greedy.all())
        self.any_greedy = bool(greedy.any())
        self.any_temperature = bool(((self.temperature != 1) & ~greedy).any())
        self.any_top_k = bool(((self.top_k > 0) & ~greedy).any())
        self.any_top_p = bool(((self.top_p < 1) & ~greedy).any())
        self.any_min_p = bool(((self.min_p > 0) & ~greedy).any())
        self.any_penalty = bool((self.penalty != 1).any())

    def select(self, rows: Int[Tensor, " M"]) -> RowSettings:
        """The settings of these rows."""
        return RowSettings(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def uniforms(self, first_step: int, count: int) -> Float[Tensor, "T N"]:
        """The numbers in [0, 1) that `count` steps from `first_step` on will use."""
        step = torch.arange(first_step, first_step + count, device=self.seed.device)
        return uniforms(self.seed, self.sample, step).T.contiguous()


def process_logits(
    logits: Float[Tensor, "N V"], settings: RowSettings, seen: Tensor | None
) -> Float[Tensor, "N V"]:
    """All filters in their order. `seen` (N, V) marks tokens already there, for the penalty."""
    if settings.any_penalty:
        assert seen is not None
        logits = apply_repetition_penalty(logits, seen, settings.penalty)
    if settings.all_greedy:
        return logits
    if settings.any_temperature:
        logits = apply_temperature(logits, settings.temperature)
    if settings.any_top_k:
        logits = top_k_filter(logits, settings.top_k)
    if settings.any_top_p:
        logits = top_p_filter(logits, settings.top_p)
    if settings.any_min_p:
        logits = min_p_filter(logits, settings.min_p)
    return logits


def pick(
    logits: Float[Tensor, "N V"],
    settings: RowSettings,
    uniform: Float[Tensor, " N"],
    seen: Tensor | None = None,
) -> Int[Tensor, " N"]:
    """The next token of each row: its likeliest where greedy, else drawn with its number in [0, 1)."""
    logits = process_logits(logits, settings, seen)
    if settings.all_greedy:
        return logits.argmax(dim=-1)
    drawn = draw(logits, uniform)
    if not settings.any_greedy:
        return drawn
    return torch.where(settings.greedy, logits.argmax(dim=-1), drawn)


def check_finite(logits: Float[Tensor, "N V"], rows: Tensor | None = None) -> None:
    """Raise UserError where a row (of those marked in `rows`) has NaN, +inf, or nothing above -inf."""
    sound = logits.amax(dim=-1).isfinite()
    if rows is not None:
        sound = sound | ~rows
    if not bool(sound.all()):
        bad = int((~sound).sum())
        raise UserError(
            f"the model's logits are NaN or infinite in {bad} of {len(logits)} rows; its weights are "
            "broken (a diverged training run?) or overflow in this dtype: use float32 or another checkpoint"
        )
