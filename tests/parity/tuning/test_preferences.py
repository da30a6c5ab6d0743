"""Preference objectives and reward models against trl, losses and gradients, and against formulas.

The models are in float64, but their norms and rotary tables, and trl's ORPO, pass through float32:
hence TOLERANCE, relative to the loss and to the largest gradient.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from transformers.integrations.neftune import neftune_post_forward_hook

from glassbox.data.feedback import FeedbackSource
from glassbox.data.loader import TokenBatch
from glassbox.data.preferences import preference_batch
from glassbox.formats.huggingface import load_pretrained, save_pretrained
from glassbox.models.causal_lm import CausalLM
from glassbox.models.scorer import add_score_head, sequence_scores
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.next_token import NextToken
from glassbox.training.protocols import ObjectiveOutput
from glassbox.tuning.neftune import Neftune
from glassbox.tuning.preference.dpo import Dpo, DpoConfig, reference_log_probs
from glassbox.tuning.preference.kto import Kto, KtoConfig
from glassbox.tuning.preference.reference_free import (
    CpoConfig,
    OrpoConfig,
    ReferenceFree,
    SimpoConfig,
)
from support.preference_parity import (
    CASES,
    Pair,
    difference,
    encoded,
    raw_feedback,
    raw_pairs,
)
from support.twins import EXACT, tiny, to_llama

TOLERANCE = 1e-5
DEFINED_FOR_NOTHING = [name for name in CASES if name.startswith(("DPO", "IPO", "KTO", "reward"))]
"""Objectives that are defined where an answer is empty; of the others trl's means are 0 / 0."""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("name", "side"), [(name, side) for name, case in CASES.items() for side in case.sides]
)
def test_loss_and_gradients_are_trls(name: str, seed: int, side: str) -> None:
    loss, gradients = difference(CASES[name], seed, side)
    assert loss < TOLERANCE
    assert gradients < TOLERANCE


@pytest.mark.parametrize("name", DEFINED_FOR_NOTHING)
def test_an_empty_answer_counts_as_in_trl(name: str) -> None:
    loss, gradients = difference(CASES[name], 0, "right", empty=True)
    assert loss < TOLERANCE
    assert gradients < TOLERANCE


# ---- formulas, one answer at a time, nothing padded ----------------------------------------------


def log_prob(model: CausalLM, prompt: list[int], answer: list[int]) -> Tensor:
    """Sum of log p over the answer, on plain logits."""
    log_p = torch.log_softmax(model(torch.tensor([prompt + answer]))[0], dim=-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    picked = [log_p[t, y] for t, y in zip(places, answer, strict=True)]
    return torch.stack(picked).sum() if picked else log_p.new_zeros(())


def orpo(model: CausalLM, pair: Pair) -> Tensor:
    good, bad = (log_prob(model, pair.prompt, y) / len(y) for y in (pair.chosen, pair.rejected))
    odds = [torch.exp(x) / (1 - torch.exp(x)) for x in (good, bad)]
    return -good - 0.7 * torch.log(torch.sigmoid(torch.log(odds[0] / odds[1])))


def simpo(model: CausalLM, pair: Pair) -> Tensor:
    good, bad = (log_prob(model, pair.prompt, y) / len(y) for y in (pair.chosen, pair.rejected))
    return -torch.log(1 / (1 + torch.exp(-(2.5 * good - 2.5 * bad - 0.6))))


def cpo(model: CausalLM, pair: Pair) -> Tensor:
    good, bad = (log_prob(model, pair.prompt, y) for y in (pair.chosen, pair.rejected))
    push = -torch.log(1 / (1 + torch.exp(-0.3 * (good - bad))))
    return push - 0.5 * good / len(pair.chosen)


FORMULAS = {
    "orpo": (OrpoConfig(beta=0.7), orpo),
    "simpo": (SimpoConfig(beta=2.5, gamma=0.6), simpo),
    "cpo": (CpoConfig(beta=0.3, nll_weight=0.5), cpo),
}


def agrees(model: CausalLM, output: ObjectiveOutput, expected: Tensor) -> None:
    """Loss and gradients, to rounding in float64."""
    ours = torch.autograd.grad(output.loss_sum, list(model.parameters()))
    theirs = torch.autograd.grad(expected, list(model.parameters()))
    torch.testing.assert_close(output.loss_sum, expected, rtol=EXACT, atol=EXACT)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=EXACT)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FORMULAS)
def test_the_papers_formula_pair_by_pair(name: str, seed: int) -> None:
    config, formula = FORMULAS[name]
    model, pairs = tiny(seed), raw_pairs(seed)
    output = ReferenceFree(config)(model, preference_batch(encoded(pairs)))
    assert output.weight == len(pairs)
    agrees(model, output, torch.stack([formula(model, pair) for pair in pairs]).sum())


@pytest.mark.parametrize("seed", range(3))
def test_dpo_is_the_papers_formula_pair_by_pair(seed: int) -> None:
    """Equation 7 of arXiv:2305.18290, and the rewards of its section 4."""
    model, reference, pairs = tiny(seed), tiny(seed + 100), raw_pairs(seed)
    losses, rewards = [], []
    for pair in pairs:
        good, bad = (
            0.3 * (log_prob(model, pair.prompt, y) - log_prob(reference, pair.prompt, y).detach())
            for y in (pair.chosen, pair.rejected)
        )
        losses.append(torch.log(1 + torch.exp(bad - good)))
        rewards.append((float(good.detach()), float(bad.detach())))
    output = Dpo(DpoConfig(beta=0.3), reference)(model, preference_batch(encoded(pairs)))
    agrees(model, output, torch.stack(losses).sum())
    expected = {
        "reward_chosen": sum(good for good, _ in rewards),
        "reward_rejected": sum(bad for _, bad in rewards),
        "reward_margin": sum(good - bad for good, bad in rewards),
        "reward_accuracy": sum(good > bad for good, bad in rewards),
    }
    for name, value in expected.items():
        total, count = output.metrics[name]
        assert count == len(pairs)
        assert float(total) == pytest.approx(value, rel=1e-9)


def test_scores_computed_beforehand_give_the_same_loss_and_gradients() -> None:
    """In float32 as people train: 1e-5 relative, the scores are sums of a dozen log-probabilities."""
    model, reference = tiny(0).float(), tiny(100).float()
    pairs = encoded(raw_pairs(0))
    asked = Dpo(DpoConfig(), reference)(model, preference_batch(pairs)).loss_sum
    scores = reference_log_probs(reference, pairs, pairs_per_batch=2)
    assert torch.equal(scores, reference_log_probs(reference, pairs, pairs_per_batch=2))
    known = Dpo(DpoConfig())(model, preference_batch(pairs, scores)).loss_sum
    torch.testing.assert_close(known, asked, rtol=1e-5, atol=1e-5)
    gradients = (torch.autograd.grad(loss, list(model.parameters())) for loss in (known, asked))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_empty_answer_of_a_pair_adds_no_odds_and_no_nan() -> None:
    """An empty answer has p = 1: infinite odds, no length to divide by."""
    pairs = raw_pairs(0, empty=True)
    model = tiny(0)
    output = ReferenceFree(OrpoConfig(beta=0.7))(model, preference_batch(encoded(pairs)))
    whole = [orpo(model, pair) for pair in pairs if pair.chosen and pair.rejected]
    (last,) = [pair for pair in pairs if not pair.rejected]
    nll = -log_prob(model, last.prompt, last.chosen) / len(last.chosen)
    agrees(model, output, torch.stack([*whole, nll]).sum())
    for config in (SimpoConfig(), CpoConfig(), CpoConfig(loss="ipo")):
        loss = ReferenceFree(config)(model, preference_batch(encoded(pairs))).loss_sum
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        assert all(torch.isfinite(x).all() for x in (loss, *gradients))


@pytest.mark.parametrize("seed", range(3))
def test_kto_is_the_papers_formula_with_a_kl_from_mismatched_answers(seed: int) -> None:
    model, reference = tiny(seed), tiny(seed + 100)
    rows = raw_feedback(seed)
    if seed == 1:  # the other way about: z > 0 here where it is cut off at 0 there
        model, reference = reference, model
    config = KtoConfig(beta=0.4, desirable_weight=1.3, undesirable_weight=0.6)
    (batch,) = FeedbackSource(rows, per_step=len(rows), max_length=96).next_step()

    def ratio(prompt: list[int], answer: list[int]) -> Tensor:
        return log_prob(model, prompt, answer) - log_prob(reference, prompt, answer).detach()

    moved = [ratio(row.prompt_ids, rows[i - 1].answer_ids) for i, row in enumerate(rows)]
    z = max(0.0, sum(float(r) for r in moved) / len(rows))
    expected = []
    for row in rows:
        r = ratio(row.prompt_ids, row.answer_ids)
        gain = 0.4 * (r - z if row.desirable else z - r)
        expected.append((1.3 if row.desirable else 0.6) * (1 - 1 / (1 + torch.exp(-gain))))
    output = Kto(config, reference)(model, batch)
    total, count = output.metrics["kl"]
    assert float(total) / float(count) == pytest.approx(z, rel=1e-9)
    agrees(model, output, torch.stack(expected).sum())


def test_the_kl_of_kto_is_somewhere_cut_off_and_somewhere_not() -> None:
    """Or the test above would not know the sign of the KL."""
    found = set()
    for seed in range(3):
        model, reference = tiny(seed), tiny(seed + 100)
        if seed == 1:
            model, reference = reference, model
        rows = raw_feedback(seed)
        (batch,) = FeedbackSource(rows, per_step=len(rows), max_length=96).next_step()
        total, _ = Kto(KtoConfig(), reference)(model, batch).metrics["kl"]
        found.add(float(total) > 0)
    assert found == {True, False}


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_the_reference_is_frozen(kind: str) -> None:
    """It stays as it is, takes no gradient, and is in evaluation mode."""
    model, reference = tiny(0), tiny(100).train()
    rows = raw_feedback(0)
    if kind == "kto":
        (batch,) = FeedbackSource(rows, per_step=len(rows), max_length=96).next_step()
        output = Kto(KtoConfig(), reference)(model, batch)
    else:
        output = Dpo(DpoConfig(), reference)(model, preference_batch(encoded(raw_pairs(0))))
    output.loss_sum.backward()
    assert not reference.training
    assert all(p.grad is None and not p.requires_grad for p in reference.parameters())
    assert all(p.grad is not None for p in model.parameters())


# ---- reward models ---------------------------------------------------------------------------


def test_scores_are_transformers_and_the_folder_opens_there(tmp_path: Path) -> None:
    model = add_score_head(tiny(3).float(), torch.Generator().manual_seed(3)).eval()
    save_pretrained(model, tmp_path)
    again = load_pretrained(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    rows = [pair.prompt + pair.chosen for pair in raw_pairs(3)]
    scores = sequence_scores(model, rows, batch_tokens=40)
    assert torch.equal(scores, sequence_scores(again, rows, batch_tokens=40))
    for row, score in zip(rows, scores.tolist(), strict=True):
        assert float(theirs(torch.tensor([row])).logits) == pytest.approx(score, rel=1e-5, abs=1e-6)
    del theirs.config.glassbox  # as a folder that we never wrote
    theirs.save_pretrained(tmp_path / "theirs")
    foreign = load_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(sequence_scores(foreign, rows), scores, rtol=1e-5, atol=1e-6)


# ---- NEFTune ---------------------------------------------------------------------------------


def test_noise_is_that_of_transformers_on_a_row_of_one_document() -> None:
    model = tiny(0).train()
    llama = to_llama(model).train()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 37, (3, 11), generator=generator)
    targets = torch.randint(1, 37, (3, 11), generator=generator)
    targets[:, :4] = IGNORE
    embedding = llama.get_input_embeddings()
    embedding.neftune_noise_alpha = 5.0
    embedding.register_forward_hook(neftune_post_forward_hook)
    torch.manual_seed(5)
    logits = llama(ids).logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    theirs.backward()
    torch.manual_seed(5)
    output = Neftune(NextToken(), 5.0)(model, TokenBatch(ids, targets, torch.zeros_like(ids)))
    loss = output.loss_sum / output.weight
    loss.backward()
    assert float(loss) == pytest.approx(float(theirs), rel=TOLERANCE)
    ours, other = model.embedding.weight.grad, embedding.weight.grad
    assert float((ours - other).abs().max()) < TOLERANCE * float(other.abs().max())


def test_noise_follows_the_length_of_each_packed_document_and_leaves_evaluation_alone() -> None:
    model = tiny(0)
    documents = torch.tensor([[0] * 9 + [1] * 2 + [-1]])
    batch = TokenBatch(torch.ones_like(documents), torch.ones_like(documents), documents)
    seen: list[Tensor] = []
    plain = model.embedding(batch.ids)

    class Watch:
        def __call__(self, model: CausalLM, batch: TokenBatch) -> ObjectiveOutput:
            seen.append(model.embedding(batch.ids) - plain)
            seen.append(model.embedding(batch.ids) - plain)
            return ObjectiveOutput(seen[0].sum(), 1)

    torch.manual_seed(0)
    Neftune(Watch(), 5.0)(model.train(), batch)
    noise, later = seen
    assert not later.any()  # only the first look-up of a pass is noisy
    for first, end in ((0, 9), (9, 11)):
        bound = 5.0 / math.sqrt((end - first) * 16)
        largest = float(noise[:, first:end].abs().max())
        assert 0.8 * bound < largest < bound
    seen.clear()
    Neftune(Watch(), 5.0)(model.eval(), batch)
    assert not seen[0].any()
