"""How the next token is chosen: the settings of a request, and the filters as functions of logits.

The filters come in transformers' order: repetition penalty on the raw logits, temperature, top-k,
top-p, min-p. Each works on a batch whose rows have settings of their own.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, field_validator
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.inference.randomness import derive_seed


class SamplingParams(Spec):
    """What one request asks for. The defaults sample from the model's own distribution."""

    max_tokens: int = Field(128, gt=0, description="the most tokens to generate")
    temperature: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="logits are divided by it; 0 is greedy"
    )
    top_k: int = Field(0, ge=0, description="keep the k likeliest tokens; 0 keeps all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="keep the fewest tokens whose probabilities reach p"
    )
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="keep tokens of at least min_p times the best one's probability",
    )
    repetition_penalty: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="above 1 discourages tokens already there"
    )
    stop: tuple[str, ...] = Field((), description="strings that end the answer, left out of it")
    stop_token_ids: tuple[int, ...] = Field((), description="tokens that end the answer")
    ignore_eos: bool = Field(False, description="go on past the end-of-text token")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="the same seed gives the same answer; none is fresh chance",
    )
    n: int = Field(1, gt=0, description="answers to the same prompt")
    logprobs: bool = Field(False, description="return each token's log-probability")

    @field_validator("stop", mode="before")
    @classmethod
    def _one_string_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty stop string would end every answer at once; leave it out")
        return value

    @field_validator("stop_token_ids")
    @classmethod
    def _ids_are_ids(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(token < 0 for token in value):
            raise ValueError("token ids are never negative")
        return value

    def spread(self, count: int) -> list[SamplingParams]:
        """`count` copies, each with a seed of its own derived from this one (or fresh, without one).

        Requests with equal seeds draw equal numbers, so a batch of different prompts wants these.
        """
        if self.seed is None:
            return [self] * count
        seed = self.seed
        return [self.model_copy(update={"seed": derive_seed(seed, i)}) for i in range(count)]


def apply_repetition_penalty(
    logits: Float[Tensor, "N V"], seen: Bool[Tensor, "N V"], penalty: Float[Tensor, " N"]
) -> Float[Tensor, "N V"]:
    """Make each token already seen less likely: positive logits are divided by the penalty, others multiplied.

    Source: Keskar et al., CTRL, arXiv:1909.05858, section 4.1.
    Tested against: transformers RepetitionPenaltyLogitsProcessor.
    """
    factor = penalty.to(logits.dtype).unsqueeze(-1)
    penalised = torch.where(logits < 0, logits * factor, logits / factor)
    return torch.where(seen, penalised, logits)


def apply_temperature(
    logits: Float[Tensor, "N V"], temperature: Float[Tensor, " N"]
) -> Float[Tensor, "N V"]:
    """logits / temperature; rows of temperature 0 (greedy) pass unchanged.

    Tested against: transformers TemperatureLogitsWarper.
    """
    divisor = torch.where(temperature == 0, torch.ones_like(temperature), temperature)
    return logits / divisor.to(logits.dtype).unsqueeze(-1)


def top_k_filter(logits: Float[Tensor, "N V"], k: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """-inf for what is less likely than the k-th; ties with it stay, k = 0 keeps all.

    Source: Fan et al., arXiv:1805.04833, section 5. Tested against: transformers TopKLogitsWarper.
    """
    most = min(int(k.max()), logits.shape[-1])
    if most == 0:
        return logits
    index = (k.clamp(1, most) - 1).unsqueeze(-1)
    threshold = logits.topk(most, dim=-1).values.gather(-1, index)
    return logits.masked_fill((logits < threshold) & (k > 0).unsqueeze(-1), -math.inf)


def top_p_filter(logits: Float[Tensor, "N V"], p: Float[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """-inf outside the fewest likeliest tokens whose probabilities sum to at least p; p = 1 keeps all.

    Source: Holtzman et al., arXiv:1904.09751, section 3.1. Tested against: transformers TopPLogitsWarper.
    """
    ascending, order = logits.sort(dim=-1)
    below = ascending.softmax(dim=-1).cumsum(
        dim=-1
    )  # the probability of this token and all less likely
    rest = (1 - p).to(logits.dtype).unsqueeze(-1)
    remove = (below <= rest) & (p < 1).unsqueeze(-1)
    remove[:, -1] = False
    return logits.masked_fill(torch.zeros_like(remove).scatter(-1, order, remove), -math.inf)


def min_p_filter(logits: Float[Tensor, "N V"], min_p: Float[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """-inf where a token's probability is below min_p times that of the likeliest.

    p_i < m p_max is logit_i < logit_max + log m, so no softmax is needed.
    Source: Nguyen et al., arXiv:2407.01082. Tested against: transformers MinPLogitsWarper.
    """
    threshold = logits.amax(dim=-1) + min_p.log().to(logits.dtype)
    return logits.masked_fill(logits < threshold.unsqueeze(-1), -math.inf)


def draw(logits: Float[Tensor, "N V"], uniform: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The token in whose stretch of the cumulative distribution each row's number in [0, 1) falls.

    Inverse transform sampling: the first i with sum_{j <= i} exp(l_j) > u * total, summed in
    float64, so that a token of probability 0 is never drawn.
    """
    weights = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    point = uniform.unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1)


def chosen_log_probs(
    logits: Float[Tensor, "N V"], tokens: Int[Tensor, " N"], temperature: Float[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """log softmax(logits)[token], and log softmax(logits / temperature)[token], in float32 or wider.

    Neither knows of any filter or penalty. A greedy row's second value equals its first.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    place = tokens.unsqueeze(-1)
    scaled = apply_temperature(wide, temperature)
    raw, tempered = (x.gather(-1, place).squeeze(-1) - x.logsumexp(dim=-1) for x in (wide, scaled))
    return raw, tempered
