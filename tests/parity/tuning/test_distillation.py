"""Divergences against torch's kl_div and trl's generalized_jsd_loss, values and gradients, in float64.

Tolerance 1e-9: another order of summation in float64.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trl.experimental.gkd.gkd_trainer import GKDTrainer

from glassbox.data.loader import TokenBatch
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from glassbox.tuning.distillation import objective as distillation
from glassbox.tuning.distillation.divergences import divergence, top_divergence, top_log_probs
from glassbox.tuning.distillation.objective import CachedBatch, Distill, DistillConfig
from support.tiny_run import tiny_model

EXACT = 1e-9


def logits(seed: int, rows: int = 7, vocab: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn((rows, vocab), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_kls_are_torchs(kind: Any, temperature: float) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    ours = divergence(student, teacher, kind=kind, temperature=temperature).sum()
    (found,) = torch.autograd.grad(ours, student)
    log_q = F.log_softmax(student / temperature, -1)
    log_p = F.log_softmax(teacher / temperature, -1)
    pair = (log_q, log_p) if kind == "forward_kl" else (log_p, log_q)
    theirs = F.kl_div(*pair, reduction="sum", log_target=True) * temperature**2
    (expected,) = torch.autograd.grad(theirs, student)
    torch.testing.assert_close(ours, theirs, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(found, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_js_is_trls(beta: float, temperature: float) -> None:
    student, teacher = logits(2).requires_grad_(), logits(3)
    ours = divergence(student, teacher, kind="js", js_beta=beta, temperature=temperature).sum()
    (found,) = torch.autograd.grad(ours, student)
    theirs = temperature**2 * GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
    )
    (expected,) = torch.autograd.grad(theirs, student)
    torch.testing.assert_close(
        ours, theirs, rtol=1e-6, atol=1e-7
    )  # trl's beta is rounded to float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "js"])
def test_the_top_k_and_the_rest_are_a_distribution(kind: Any) -> None:
    """Against sums over the k + 1 outcomes; with all tokens kept it is the whole divergence."""
    student, teacher = logits(4).requires_grad_(), logits(5)
    ids, scores = top_log_probs(teacher, 3, temperature=2.0)
    ours = top_divergence(student, ids, scores.double(), kind=kind, temperature=2.0)
    (found,) = torch.autograd.grad(ours.sum(), student)
    q, p = F.softmax(student / 2, -1), F.softmax(teacher / 2, -1)
    chosen, kept = q.gather(-1, ids), p.gather(-1, ids)
    q = torch.cat([chosen, 1 - chosen.sum(-1, keepdim=True)], -1)
    p = torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1)
    middle = (p + q) / 2
    sums = {
        "forward_kl": p * (p / q).log(),
        "reverse_kl": q * (q / p).log(),
        "js": (p * (p / middle).log() + q * (q / middle).log()) / 2,
    }
    expected = 4 * sums[kind].sum(-1)
    (grad,) = torch.autograd.grad(expected.sum(), student)
    # the cache's numbers are float32
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, grad, rtol=1e-5, atol=1e-6)
    whole_ids, whole = top_log_probs(teacher, 99, temperature=2.0)
    every = top_divergence(student, whole_ids, whole.double(), kind=kind, temperature=2.0)
    full = divergence(student, teacher, kind=kind, temperature=2.0)
    torch.testing.assert_close(every, full, rtol=1e-5, atol=1e-6)
    assert (ours <= full + 1e-6).all()
    assert (ours >= -1e-9).all()


def batch() -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 32, (3, 10), generator=generator)
    targets = torch.randint(0, 32, (3, 10), generator=generator)
    targets[0, :4] = IGNORE
    targets[2, 6:] = IGNORE
    documents = torch.zeros_like(ids)
    documents[1, 5:] = 1
    return TokenBatch(ids, targets, documents)


def models() -> tuple[CausalLM, CausalLM]:
    student, teacher = tiny_model(seed=1).double(), tiny_model(seed=2).double()
    for which in (student, teacher):
        with torch.no_grad():
            for parameter in which.parameters():
                parameter.mul_(3)
    return student, teacher


CONFIGS = [
    DistillConfig(temperature=2.0),
    DistillConfig(divergence="reverse_kl", hard_weight=0.3),
    DistillConfig(divergence="js", js_beta=0.3, temperature=0.8),
    DistillConfig(hidden_weight=0.7, hard_weight=0.5),
]


def agrees(config: DistillConfig, chunk: int) -> bool:
    """The objective's loss and gradients are those of whole logits."""
    student, teacher = models()
    torch.manual_seed(0)
    objective = Distill(config, teacher, vocab_size=30, hidden_size=16, chunk=chunk)
    if objective.projection is not None:
        objective.projection.double()
    given = batch()
    output = objective(student, given)
    (output.loss_sum / output.weight).backward()
    parameters = [
        *student.parameters(),
        *(p for m in objective.companions.values() for p in m.parameters()),
    ]
    found = [p.grad.clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    mask = given.targets != IGNORE
    hidden = [
        m.hidden_states(given.ids, documents=given.documents)[mask] for m in (student, teacher)
    ]
    ours, theirs = (m.logits(h)[:, :30] for m, h in zip((student, teacher), hidden, strict=True))
    t = config.temperature
    p, q = F.softmax(theirs.detach() / t, -1), F.softmax(ours / t, -1)
    if config.divergence == "forward_kl":
        soft = (p * (p / q).log()).sum()
    elif config.divergence == "reverse_kl":
        soft = (q * (q / p).log()).sum()
    else:
        m = config.js_beta * p + (1 - config.js_beta) * q
        soft = (
            config.js_beta * (p * (p / m).log()).sum()
            + (1 - config.js_beta) * (q * (q / m).log()).sum()
        )
    hard = F.cross_entropy(ours, given.targets[mask].clamp(max=29), reduction="sum")
    loss = (1 - config.hard_weight) * soft * t**2 + config.hard_weight * hard
    if objective.projection is not None:
        gap = hidden[0] @ objective.projection.weight.T - hidden[1].detach()
        loss = loss + config.hidden_weight * (gap**2).mean(-1).sum()
    loss = loss / mask.sum()
    loss.backward()
    if abs(float(output.loss_sum) / output.weight - float(loss)) > 1e-8:
        return False
    return all(
        torch.allclose(f, p.grad, rtol=1e-6, atol=1e-9)
        for f, p in zip(found, parameters, strict=True)
    )


@pytest.fixture(autouse=True)
def _targets_within(monkeypatch: pytest.MonkeyPatch) -> None:
    right = batch

    def clamped() -> TokenBatch:
        made = right()
        return TokenBatch(made.ids, made.targets.clamp(max=29), made.documents)

    monkeypatch.setitem(globals(), "batch", clamped)


@pytest.mark.parametrize("chunk", [1024, 4])
@pytest.mark.parametrize("config", CONFIGS, ids=range(4))
def test_the_objective_is_the_formula_on_whole_logits(config: DistillConfig, chunk: int) -> None:
    assert agrees(config, chunk)


@pytest.mark.parametrize("fault", ["reversed", "no T²", "unmasked", "teacher in student's place"])
def test_planted_bugs_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(student: Tensor, teacher: Tensor, **how: Any) -> Tensor:
        if fault == "reversed":
            how["kind"] = "reverse_kl"
        right = divergence(student, teacher, **how)
        if fault == "no T²":
            return right / how["temperature"] ** 2
        if fault == "unmasked":
            return right * 1.1
        return divergence(student, student.roll(1, 0), **how) if "place" in fault else right

    monkeypatch.setattr(distillation, "divergence", wrong)
    assert not agrees(CONFIGS[0], 1024)


def test_a_cache_of_all_tokens_is_the_teacher_itself() -> None:
    student, teacher = (m.float() for m in models())
    given = batch()
    config = DistillConfig(temperature=2.0)
    asked = Distill(config, teacher, vocab_size=30, hidden_size=16)(student, given)
    said = teacher.hidden_states(given.ids, documents=given.documents)
    ids, scores = top_log_probs(teacher.logits(said)[..., :30].flatten(0, 1), 30, temperature=2.0)
    cached = CachedBatch(
        given.ids,
        given.targets,
        given.documents,
        ids.view(3, 10, 30),
        scores.view(3, 10, 30).detach(),
    )
    known = Distill(config, None, vocab_size=30, hidden_size=16)(student, cached)
    torch.testing.assert_close(known.loss_sum, asked.loss_sum, rtol=1e-4, atol=1e-4)
    assert all(not p.requires_grad for p in teacher.parameters())
