"""Specs of position encodings: rotary positions with their length extensions, and ALiBi."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.ops.rotary import rotary_frequencies
from glassbox.ops.rotary_scaling import (
    dynamic_ntk_frequencies,
    linear_frequencies,
    llama3_frequencies,
    ntk_frequencies,
    yarn_frequencies,
    yarn_temperature,
)


class LinearScaling(Spec):
    """Position interpolation: positions divided by `factor`. Source: arXiv:2306.15595."""

    kind: Literal["linear"] = "linear"
    factor: float = Field(ge=1)

    def frequencies(
        self, rotary_dim: int, base: float, positions: Int[Tensor, "*shape"]
    ) -> Float[Tensor, " R"]:
        """Angles per position, one for each pair of channels."""
        return linear_frequencies(
            rotary_frequencies(rotary_dim, base, positions.device), self.factor
        )

    @property
    def temperature(self) -> float:
        """Attention temperature, a factor on cosines and sines."""
        return 1.0


class NtkScaling(Spec):
    """NTK-aware scaling: a larger base stretches low frequencies by `factor` and leaves high ones
    nearly unchanged. Source: arXiv:2309.00071.
    """

    kind: Literal["ntk"] = "ntk"
    factor: float = Field(ge=1)

    def frequencies(
        self, rotary_dim: int, base: float, positions: Int[Tensor, "*shape"]
    ) -> Float[Tensor, " R"]:
        """Angles per position, one for each pair of channels."""
        return ntk_frequencies(rotary_dim, base, self.factor, positions.device)

    @property
    def temperature(self) -> float:
        """Attention temperature, a factor on cosines and sines."""
        return 1.0


class DynamicNtk(Spec):
    """NTK-aware scaling that grows with the length beyond `original_length`. Source:
    arXiv:2309.00071.
    """

    kind: Literal["dynamic_ntk"] = "dynamic_ntk"
    factor: float = Field(ge=1)
    original_length: int = Field(gt=0)

    def frequencies(
        self, rotary_dim: int, base: float, positions: Int[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape R"]:
        """Angles per position; each token has those of the sequence length that it ends."""
        return dynamic_ntk_frequencies(
            rotary_dim, base, self.factor, self.original_length, positions
        )

    @property
    def temperature(self) -> float:
        """Attention temperature, a factor on cosines and sines."""
        return 1.0


class Llama3Scaling(Spec):
    """Llama 3's scaling: low frequencies are stretched, high ones kept, with interpolation in
    between. Source: arXiv:2407.21783.
    """

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(ge=1)
    low_freq_factor: float = Field(1.0, gt=0)
    high_freq_factor: float = Field(4.0, gt=0)
    original_length: int = Field(gt=0)

    @model_validator(mode="after")
    def _ends_in_order(self) -> Llama3Scaling:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor = {self.high_freq_factor} must be above "
                f"low_freq_factor = {self.low_freq_factor}"
            )
        return self

    def frequencies(
        self, rotary_dim: int, base: float, positions: Int[Tensor, "*shape"]
    ) -> Float[Tensor, " R"]:
        """Angles per position, one for each pair of channels."""
        return llama3_frequencies(
            rotary_frequencies(rotary_dim, base, positions.device),
            self.factor,
            self.low_freq_factor,
            self.high_freq_factor,
            self.original_length,
        )

    @property
    def temperature(self) -> float:
        """Attention temperature, a factor on cosines and sines."""
        return 1.0


class YarnScaling(Spec):
    """YaRN: low frequencies are stretched, high ones kept, and attention is sharpened. Source:
    arXiv:2309.00071.
    """

    kind: Literal["yarn"] = "yarn"
    factor: float = Field(ge=1)
    original_length: int = Field(gt=0)
    beta_fast: float = Field(32.0, gt=0, description="turns above which a channel is kept")
    beta_slow: float = Field(1.0, gt=0, description="turns below which it is stretched")
    attention_factor: float | None = Field(
        None, gt=0, description="the temperature; None: as the paper, or of the two mscales"
    )
    mscale: float | None = Field(None, description="DeepSeek's numerator; used with the next alone")
    mscale_all_dim: float | None = Field(None, description="and denominator")
    truncate: bool = Field(True, description="the passage begins and ends at whole pairs")

    def frequencies(
        self, rotary_dim: int, base: float, positions: Int[Tensor, "*shape"]
    ) -> Float[Tensor, " R"]:
        """Angles per position, one for each pair of channels."""
        return yarn_frequencies(
            rotary_frequencies(rotary_dim, base, positions.device),
            base,
            self.factor,
            self.original_length,
            beta_fast=self.beta_fast,
            beta_slow=self.beta_slow,
            truncate=self.truncate,
        )

    @property
    def temperature(self) -> float:
        """Attention temperature, a factor on cosines and sines; scores are scaled by its square."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return yarn_temperature(self.factor, self.mscale) / yarn_temperature(
                self.factor, self.mscale_all_dim
            )
        return yarn_temperature(self.factor)


class LongRope(Spec):
    """LongRoPE: a factor for each pair of channels, found by a search. Source: arXiv:2402.13753.

    There are two sets of factors, and a model uses one of them: the choice may not depend on the
    sequence length, since cached keys would have been rotated by the other set. transformers uses
    `short_factor` for calls of up to `original_length` tokens and `long_factor` for longer ones.
    """

    kind: Literal["longrope"] = "longrope"
    factor: float = Field(ge=1, description="the longest sequence over original_length")
    original_length: int = Field(gt=1)
    short_factor: tuple[float, ...] = Field(min_length=1)
    long_factor: tuple[float, ...] = Field(min_length=1)
    long: bool = Field(True, description="turn by long_factor, else by short_factor")
    attention_factor: float | None = Field(
        None, gt=0, description="the temperature; None: sqrt(1 + ln factor / ln original_length)"
    )

    @model_validator(mode="after")
    def _one_a_pair(self) -> LongRope:
        if len(self.short_factor) != len(self.long_factor):
            raise ValueError(
                f"short_factor has {len(self.short_factor)} numbers and long_factor "
                f"{len(self.long_factor)}; each is one a pair of channels"
            )
        return self

    def frequencies(
        self, rotary_dim: int, base: float, positions: Int[Tensor, "*shape"]
    ) -> Float[Tensor, " R"]:
        """Angles per position, one for each pair of channels."""
        factors = self.long_factor if self.long else self.short_factor
        assert 2 * len(factors) == rotary_dim, "the layer's `resolve` checks it"
        divisors = torch.tensor(factors, device=positions.device)
        return rotary_frequencies(rotary_dim, base, positions.device) / divisors

    @property
    def temperature(self) -> float:
        """Attention temperature, a factor on cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_length))


RotaryScaling = Annotated[
    LinearScaling | NtkScaling | DynamicNtk | Llama3Scaling | YarnScaling | LongRope,
    Field(discriminator="kind"),
]


class Rotary(Spec):
    """Rotary position embedding (RoPE) of an attention layer."""

    kind: Literal["rotary"] = "rotary"
    base: float = Field(10000.0, gt=0, description="theta, the base of the frequencies")
    fraction: float = Field(1.0, gt=0, le=1, description="share of each head's channels turned")
    layout: Literal["half", "interleaved"] = "half"
    scaling: RotaryScaling | None = Field(
        None, description="context extension beyond the trained length"
    )

    def num_channels(self, head_dim: int) -> int:
        """Number of rotated channels of a head; even, since channels are rotated in pairs."""
        return int(head_dim * self.fraction) // 2 * 2

    def check(self, head_dim: int) -> None:
        """Raise ValueError unless the scaling has one factor per pair of rotated channels."""
        scaling, pairs = self.scaling, self.num_channels(head_dim) // 2
        if isinstance(scaling, LongRope) and len(scaling.long_factor) != pairs:
            raise ValueError(
                f"long_factor has {len(scaling.long_factor)} numbers, but head_dim = {head_dim} "
                f"has {pairs} pairs of turned channels"
            )


class Alibi(Spec):
    """ALiBi: a bias on scores proportional to the distance, with a slope per head. Source:
    arXiv:2108.12409.
    """

    kind: Literal["alibi"] = "alibi"
