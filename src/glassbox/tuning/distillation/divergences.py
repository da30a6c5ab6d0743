"""Divergences between a student's and a teacher's next-token distributions, over all tokens or the
top k.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError

Divergence = Literal["forward_kl", "reverse_kl", "js"]


def divergence(
    student: Float[Tensor, "N V"],
    teacher: Float[Tensor, "N V"],
    *,
    kind: Divergence = "forward_kl",
    temperature: float = 1.0,
    js_beta: float = 0.5,
) -> Float[Tensor, " N"]:
    """The divergence at each position, computed from logits, times T^2 so that gradients keep their
    scale.

    With p the teacher's and q the student's softmax(logits / T):
    - forward_kl: sum p (log p - log q), which is mode-covering.
    - reverse_kl: sum q (log q - log p), which is mode-seeking.
    - js: b KL(p || m) + (1 - b) KL(q || m), m = b p + (1 - b) q, b = `js_beta` in (0, 1).
    Computed in float32 or wider; the teacher receives no gradient. Terms with probability zero are
    zero.
    Source: Hinton et al., arXiv:1503.02531, section 2 (T^2); Agarwal et al., arXiv:2306.13649, eq.
    1.
    Tested against: torch's kl_div, trl's generalized_jsd_loss, values and gradients.
    """
    wide = student.dtype if student.dtype == torch.float64 else torch.float32
    log_q = torch.log_softmax(student.to(wide) / temperature, dim=-1)
    log_p = torch.log_softmax(teacher.detach().to(wide) / temperature, dim=-1)
    return _between(log_p, log_q, kind, js_beta) * temperature**2


def _between(log_p: Tensor, log_q: Tensor, kind: Divergence, js_beta: float) -> Tensor:
    if kind == "forward_kl":
        return _kl(log_p, log_q)
    if kind == "reverse_kl":
        return _kl(log_q, log_p)
    if not 0 < js_beta < 1:
        raise UserError(f"js_beta = {js_beta}: use a number between 0 and 1, without them")
    mixed = torch.logaddexp(log_p + math.log(js_beta), log_q + math.log1p(-js_beta))
    return js_beta * _kl(log_p, mixed) + (1 - js_beta) * _kl(log_q, mixed)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    impossible = torch.isneginf(log_p)
    difference = torch.where(impossible, torch.zeros_like(log_p), log_p - log_q)
    return (log_p.exp() * difference).sum(dim=-1)


def top_log_probs(
    logits: Float[Tensor, "N V"], k: int, *, temperature: float = 1.0
) -> tuple[Int[Tensor, "N k"], Float[Tensor, "N k"]]:
    """Ids of the k most probable tokens, and their log-probabilities under softmax(logits / T), in
    float32.
    """
    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    values, ids = log_p.topk(min(k, logits.shape[-1]), dim=-1)
    return ids, values


def top_divergence(
    student: Float[Tensor, "N V"],
    ids: Int[Tensor, "N k"],
    log_probs: Float[Tensor, "N k"],
    *,
    kind: Divergence = "forward_kl",
    temperature: float = 1.0,
    js_beta: float = 0.5,
) -> Float[Tensor, " N"]:
    """`divergence` of distributions over k + 1 outcomes: the teacher's k most probable tokens, and
    all others together.

    `log_probs` are the teacher's at the same temperature. With the remaining tokens as one outcome
    this is a divergence (0 if both agree, never negative) and a lower bound of the one over all
    tokens, which it equals for k = V. Tested against: the sums over outcomes, and `divergence` for
    k = V.
    """
    wide = student.dtype if student.dtype == torch.float64 else torch.float32
    log_q = torch.log_softmax(student.to(wide) / temperature, dim=-1)
    chosen = log_q.gather(-1, ids)
    log_p = log_probs.detach().to(wide)
    if ids.shape[-1] < student.shape[-1]:
        others = log_q.scatter(-1, ids, float("-inf")).logsumexp(dim=-1, keepdim=True)
        chosen = torch.cat([chosen, others], dim=-1)
        tiny = torch.finfo(torch.float32).tiny
        rest = (1 - log_p.double().exp().sum(dim=-1, keepdim=True)).clamp(min=tiny).log()
        log_p = torch.cat([log_p, rest.to(wide)], dim=-1)
    return _between(log_p, chosen, kind, js_beta) * temperature**2
