"""Penalties, temperature and truncation filters as functions of logits, in the order in which they
are applied.

Logit bias and penalties apply to the raw logits, followed by temperature, top-k, top-p, min-p,
typical, epsilon, eta and top-h, the order of transformers' `generate`. Each works on a batch whose
rows have their own settings, over the whole vocabulary; `shortlist` is tested against them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CACHED = 1 << 17  # numbers
_TOP_H_TOKENS = 100


def apply_repetition_penalty(
    logits: Float[Tensor, "N V"], seen: Bool[Tensor, "N V"], penalty: Float[Tensor, " N"]
) -> Float[Tensor, "N V"]:
    """Repetition penalty: the positive logits of tokens that have occurred are divided by the
    penalty, negative ones multiplied.

    Source: Keskar et al., CTRL, arXiv:1909.05858, section 4.1.
    Tested against: transformers RepetitionPenaltyLogitsProcessor.
    """
    factor = penalty.to(logits.dtype).unsqueeze(-1)
    penalised = torch.where(logits < 0, logits * factor, logits / factor)
    return torch.where(seen, penalised, logits)


def apply_count_penalties(
    logits: Float[Tensor, "N V"],
    counts: Int[Tensor, "N V"],
    frequency: Float[Tensor, " N"],
    presence: Float[Tensor, " N"],
) -> Float[Tensor, "N V"]:
    """Frequency and presence penalty: logit_i - c_i * frequency - [c_i > 0] * presence, with c_i
    the number of times that token i occurs in the answer.

    Source: OpenAI's API reference, "Frequency and presence penalties". The prompt is not counted.
    """
    often = frequency.to(logits.dtype).unsqueeze(-1) * counts
    once = presence.to(logits.dtype).unsqueeze(-1) * (counts > 0)
    return logits - often - once


def apply_temperature(
    logits: Float[Tensor, "N V"], temperature: Float[Tensor, " N"]
) -> Float[Tensor, "N V"]:
    """Compute logits / temperature; rows with temperature 0 (greedy) are unchanged.

    Temperatures that float32 cannot represent, or that would overflow, are replaced by 1e-30 and
    1e30.
    Tested against: transformers TemperatureLogitsWarper.
    """
    divisor = torch.where(temperature == 0, torch.ones_like(temperature), temperature)
    return logits / divisor.clamp(1e-30, 1e30).to(logits.dtype).unsqueeze(-1)


def top_k_filter(logits: Float[Tensor, "N V"], k: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """Top-k: -inf below the k-th largest logit; ties with it are kept, k = 0 keeps all.

    Source: Fan et al., arXiv:1805.04833, section 5. Tested against: transformers TopKLogitsWarper.
    """
    most = min(int(k.max()), logits.shape[-1])
    if most == 0:
        return logits
    index = (k.clamp(1, most) - 1).unsqueeze(-1)
    threshold = logits.topk(most, dim=-1).values.gather(-1, index)
    return logits.masked_fill((logits < threshold) & (k > 0).unsqueeze(-1), -math.inf)


def top_p_filter(
    logits: Float[Tensor, "N V"],
    p: Float[Tensor, " N"],
    total: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, "N V"]:
    """Top-p (nucleus): -inf outside the smallest set of most probable tokens whose probabilities
    sum to at least p; p = 1 keeps all.

    A token is kept if the sum over the tokens before it (more probable ones, and equal ones with a
    lower id) is less than p. `total` is `totals` over the whole vocabulary, if these logits are
    only a part of it.
    Source: Holtzman et al., arXiv:1904.09751, section 3.1. Tested against: transformers
    TopPLogitsWarper.
    """
    total = totals(logits) if total is None else total
    descending, order = logits.sort(dim=-1, descending=True, stable=True)
    before = (descending - descending[:, :1]).exp().cumsum(dim=-1, dtype=torch.float64).roll(1, -1)
    before[:, 0] = 0.0
    remove = (before >= (p.double() * total).unsqueeze(-1)) & (p < 1).unsqueeze(-1)
    return logits.masked_fill(torch.zeros_like(remove).scatter(-1, order, remove), -math.inf)


def min_p_filter(logits: Float[Tensor, "N V"], min_p: Float[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """Min-p: -inf where a token's probability is below min_p times the largest probability.

    p_i < m p_max is equivalent to logit_i < logit_max + log m, so no softmax is needed.
    Source: Nguyen et al., arXiv:2407.01082. Tested against: transformers MinPLogitsWarper.
    """
    threshold = logits.amax(dim=-1) + min_p.log().to(logits.dtype)
    return logits.masked_fill(logits < threshold.unsqueeze(-1), -math.inf)


def typical_filter(logits: Float[Tensor, "N V"], mass: Float[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """Locally typical sampling: -inf outside the tokens whose information content is nearest to the
    entropy, up to a total probability of `mass`.

    Tokens are taken in the order of |-log p_i - H|, with H the entropy, until their probabilities
    reach `mass`; ties with the last one are kept, mass = 1 keeps all.
    Source: Meister et al., arXiv:2202.00666, equation 10. Tested against: transformers
    TypicalLogitsWarper.
    """
    total = totals(logits).unsqueeze(-1)
    log_probs = (logits - logits.amax(dim=-1, keepdim=True)).double() - total.log()
    probs = log_probs.exp()
    surprise = torch.where(probs > 0, -probs * log_probs, 0.0)
    entropy = surprise.cumsum(dim=-1)[
        :, -1:
    ]  # summed in order, so that tokens left out change nothing
    distance = (-log_probs - entropy).abs()
    ascending, order = distance.sort(dim=-1, stable=True)
    cumulative = probs.gather(-1, order).cumsum(dim=-1)
    last = (cumulative < mass.double().unsqueeze(-1)).sum(dim=-1, keepdim=True)
    border = ascending.gather(-1, last.clamp_(max=logits.shape[-1] - 1))
    return logits.masked_fill((distance > border) & (mass < 1).unsqueeze(-1), -math.inf)


def epsilon_filter(
    logits: Float[Tensor, "N V"], epsilon: Float[Tensor, " N"]
) -> Float[Tensor, "N V"]:
    """Epsilon sampling: -inf where a token's probability is below epsilon; the most probable token
    is kept, 0 keeps all.

    Source: Hewitt et al., arXiv:2210.15191, section 4. Tested against: transformers
    EpsilonLogitsWarper.
    """
    remove = logits.softmax(dim=-1) < epsilon.to(logits.dtype).unsqueeze(-1)
    return logits.masked_fill(remove & (logits < logits.amax(dim=-1, keepdim=True)), -math.inf)


def eta_filter(logits: Float[Tensor, "N V"], epsilon: Float[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """Eta sampling: -inf where a token's probability is below min(epsilon, sqrt(epsilon) e^-H); 0
    keeps all.

    H is the entropy in nats; the most probable token is kept.
    Source: Hewitt et al., arXiv:2210.15191, section 4. Tested against: transformers
    EtaLogitsWarper.
    """
    probs = logits.softmax(dim=-1)
    entropy = torch.special.entr(probs).sum(dim=-1)
    epsilon = epsilon.to(logits.dtype)
    eta = torch.minimum(epsilon, epsilon.sqrt() * (-entropy).exp()).unsqueeze(-1)
    remove = (probs < eta) & (logits < logits.amax(dim=-1, keepdim=True))
    return logits.masked_fill(remove, -math.inf)


def top_h_filter(logits: Float[Tensor, "N V"], share: Float[Tensor, " N"]) -> Float[Tensor, "N V"]:
    """Top-H: -inf outside the most probable tokens whose terms -p log p sum to at most share * H.

    p and the entropy H are those of the 100 most probable tokens, which are the only ones that can
    be kept; share = 0 keeps all.
    Source: Potraghloo et al., Top-H decoding, arXiv:2509.02510. Tested against: transformers
    TopHLogitsWarper.
    """
    values, ids = logits.topk(min(_TOP_H_TOKENS, logits.shape[-1]), dim=-1)
    terms = torch.special.entr(values.softmax(dim=-1))
    bound = (terms.sum(dim=-1) * share.to(logits.dtype)).unsqueeze(-1)
    keep = terms.cumsum(dim=-1) <= bound
    keep[:, 0] = True
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, keep)
    return logits.masked_fill(~kept & (share > 0).unsqueeze(-1), -math.inf)


def totals(logits: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """sum exp(logit - max) of each row in float64, summed sequentially, so that zeros do not change
    the result.
    """
    return torch.cat([_cumulative(part)[:, -1] for part in _chunks(logits)])


def draw(logits: Float[Tensor, "N V"], uniform: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Inverse transform sampling: the token whose interval of the cumulative distribution contains
    each row's number in [0, 1).

    The first i with sum_{j <= i} exp(l_j) > u * total, summed in float64, so that a token of
    probability 0 is never drawn.
    """
    found, first = [], 0
    for part in _chunks(logits):
        cumulative = _cumulative(part)
        point = uniform[first : first + len(part)].unsqueeze(-1) * cumulative[:, -1:]
        found.append(torch.searchsorted(cumulative, point, right=True).squeeze(-1))
        first += len(part)
    return torch.cat(found)


def _cumulative(logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    weights = (logits - logits.amax(dim=-1, keepdim=True)).exp_()
    return weights.cumsum(dim=-1, dtype=torch.float64)


def _chunks(logits: Float[Tensor, "N V"]) -> Sequence[Float[Tensor, "M V"]]:
    """A few rows at a time, as many as fit into a processor's cache; all of them on a GPU."""
    rows = len(logits) if logits.is_cuda else _CACHED // logits.shape[-1]
    return logits.split(max(1, rows))
