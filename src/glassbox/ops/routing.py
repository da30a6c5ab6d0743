"""Routing of tokens to experts, and its auxiliary losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """The router's decision for N tokens.

    experts: (N, K), the selected experts, highest score first. gates: (N, K), the factor on each
        one's output.
    probabilities: (N, E), the scores of all experts normalized to sum 1, for the losses.
    """

    experts: Int[Tensor, "N K"]
    gates: Float[Tensor, "N K"]
    probabilities: Float[Tensor, "N E"]


def route(
    logits: Float[Tensor, "N E"],
    top_k: int,
    *,
    score: Literal["softmax", "sigmoid"] = "softmax",
    normalize: bool = True,
    scale: float = 1.0,
    num_groups: int = 1,
    top_groups: int = 1,
    group_score: Literal["max", "top2"] = "max",
    choice_bias: Float[Tensor, " E"] | None = None,
) -> Routing:
    """Select the top_k experts with the largest score s = softmax(logits) or sigmoid(logits);
    gate_i = scale s_i.

    normalize: divide the gates by their sum over the selected experts before `scale`; with softmax
        this equals the softmax over the selected logits.
    num_groups: only experts of the `top_groups` best groups are eligible, a group's score being its
        largest score or the sum of its two largest.
    choice_bias: added to the scores for the selection (of groups as well), but not to the gates.
    Source: Mixtral, arXiv:2401.04088, section 2.1; groups by their largest score DeepSeek-V2,
    arXiv:2405.04434, section 2.2.2; sigmoid, bias and two largest DeepSeek-V3, arXiv:2412.19437,
    section 2.1.2. Tested against: transformers' routers of Mixtral, Qwen3-MoE, DeepSeek V2 and V3.

    >>> route(torch.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).experts.tolist()
    [[1, 2]]
    """
    scores = logits.softmax(-1) if score == "softmax" else logits.sigmoid()
    with torch.no_grad():
        choice = scores if choice_bias is None else scores + choice_bias
        if num_groups > 1:
            choice = _best_groups_only(choice, num_groups, top_groups, group_score)
        experts = choice.topk(top_k, dim=-1).indices
    gates = scores.gather(-1, experts)
    if normalize:  # sigmoids may all underflow, a softmax's largest share cannot
        gates = gates / gates.sum(-1, keepdim=True).clamp(min=1e-20)
    if scale != 1.0:
        gates = gates * scale
    shares = scores
    if score == "sigmoid":
        shares = scores / scores.sum(-1, keepdim=True).clamp(min=1e-20)
    return Routing(experts, gates, shares)


def _best_groups_only(
    choice: Float[Tensor, "N E"], num_groups: int, top_groups: int, group_score: str
) -> Float[Tensor, "N E"]:
    groups = choice.unflatten(-1, (num_groups, -1))  # (N, groups, E / groups)
    if group_score == "max":
        strength = groups.amax(-1)
    else:
        strength = groups.topk(2, dim=-1).values.sum(-1)
    best = strength.topk(top_groups, dim=-1).indices
    out = torch.ones_like(strength, dtype=torch.bool).scatter(-1, best, False)
    return groups.masked_fill(out.unsqueeze(-1), -torch.inf).flatten(-2)


def expert_loads(
    experts: Int[Tensor, "N K"], num_experts: int, kept: Bool[Tensor, "#N #K"] | None = None
) -> Int[Tensor, " E"]:
    """Number of tokens that selected each expert, among those kept.

    >>> expert_loads(torch.tensor([[0, 2], [2, 1]]), 4).tolist()
    [1, 1, 2, 0]
    """
    chosen = torch.ones_like(experts) if kept is None else kept.expand_as(experts).to(experts.dtype)
    empty = torch.zeros(num_experts, dtype=experts.dtype, device=experts.device)
    return empty.index_add(0, experts.reshape(-1), chosen.reshape(-1))


def within_capacity(
    experts: Int[Tensor, "N K"],
    gates: Float[Tensor, "N K"],
    capacity: int,
    *,
    priority: Literal["arrival", "gate"] = "arrival",
    candidates: Bool[Tensor, "#N #K"] | None = None,
) -> Bool[Tensor, "N K"]:
    """The (token, choice) pairs that are processed if each expert accepts at most `capacity`
    tokens.

    With priority "arrival", pairs are accepted in the order of the batch, token by token; with
    priority "gate", in the order of decreasing gates, ties in favour of earlier tokens. Pairs that
    are not candidates are not processed and take no capacity.
    Source: arrival Switch, arXiv:2101.03961, section 2.2; gate V-MoE, arXiv:2106.05974, section 4.
    Tested against: a loop.

    >>> within_capacity(torch.tensor([[0], [0], [1]]), torch.ones(3, 1), 1)[:, 0].tolist()
    [True, False, True]
    """
    flat = experts.reshape(-1)
    wanted = torch.ones_like(experts, dtype=torch.bool)
    if candidates is not None:
        wanted = wanted & candidates
    keys = [~wanted.reshape(-1), flat]
    if priority == "gate":
        keys.insert(0, -gates.detach().reshape(-1))
    order = torch.arange(len(flat), device=flat.device)
    for key in keys:  # the last sorts first: by expert, candidates before others, then by gate
        order = order[torch.argsort(key[order], stable=True)]
    ordered = flat[order]
    first = torch.searchsorted(ordered, ordered)  # where each expert's run begins
    place = torch.arange(len(flat), device=flat.device) - first
    served = torch.empty_like(wanted.reshape(-1)).scatter(0, order, place < capacity)
    return served.view_as(wanted) & wanted


def balance_loss(
    probabilities: Float[Tensor, "N E"],
    loads: Int[Tensor, " E"],
    real: Bool[Tensor, " N"] | None = None,
) -> Float[Tensor, ""]:
    """Load-balancing loss E sum_e f_e P_e, with f_e = load_e / N the share of tokens that selected
    e and P_e the mean probability of e.

    Its minimum, K, is reached if both are uniform. Only the tokens of `real` count, and `loads`
    must be those of the same tokens. Gradients flow through P only. Source: Switch,
    arXiv:2101.03961, equations 4 to 6, for top-k as in transformers. Tested against: transformers'
    load_balancing_loss_func.
    """
    if real is None:
        count: float | Tensor = len(probabilities)
        total = probabilities.sum(0)
    else:
        count = real.sum().clamp(min=1)
        total = (probabilities * real.unsqueeze(-1)).sum(0)
    return len(loads) * (loads.to(total.dtype) / count * (total / count)).sum()


def z_loss(
    logits: Float[Tensor, "N E"], real: Bool[Tensor, " N"] | None = None
) -> Float[Tensor, ""]:
    """Router z-loss: the mean of (log sum exp logits)^2 over the tokens of `real`, which keeps the
    logits small.

    Source: ST-MoE, arXiv:2202.08906, equation 5. Tested against: the formula, by hand.
    """
    squares = logits.logsumexp(-1).square()
    if real is None:
        return squares.mean()
    return (squares * real).sum() / real.sum().clamp(min=1)
