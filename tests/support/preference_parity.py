"""Preference objectives and reward models against trl: the same batches through both.

`difference(case, seed, side)` gives the largest relative difference of loss and of gradients; tests
hold it, and tests/parity/objectives_table.py writes it down.
"""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from trl.experimental.cpo import cpo_trainer
from trl.experimental.orpo import orpo_trainer
from trl.trainer import dpo_trainer, kto_trainer, reward_trainer
from trl.trainer.utils import add_fused_lm_head

from glassbox.data.feedback import EncodedFeedback, FeedbackSource
from glassbox.data.preferences import EncodedPair, preference_batch
from glassbox.data.scored import EncodedSolution, judged_steps, scored_pairs
from glassbox.models.causal_lm import CausalLM
from glassbox.models.scorer import add_score_head
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.protocols import ObjectiveOutput
from glassbox.tuning.preference.dpo import Dpo, DpoConfig
from glassbox.tuning.preference.kto import Kto, KtoConfig
from glassbox.tuning.preference.reference_free import (
    CpoConfig,
    OrpoConfig,
    ReferenceFree,
    SimpoConfig,
)
from glassbox.tuning.preference.reward import (
    BradleyTerry,
    BradleyTerryConfig,
    ProcessConfig,
    StepJudge,
)
from support.twins import VOCAB, Accelerator, pieces, tiny, to_llama

Config = (
    DpoConfig
    | OrpoConfig
    | SimpoConfig
    | CpoConfig
    | KtoConfig
    | BradleyTerryConfig
    | ProcessConfig
)
Row = tuple[list[int], list[int]]
"""Ids of a prompt and of an answer."""


class Case(NamedTuple):
    """An objective, what it is compared with, and whether trl is asked pair by pair.

    alone: where trl averages a term over a batch's tokens and we over pairs; one pair at a time
        both are the same.
    sides: on which sides the batches are padded for trl (ours are padded on the right).
    """

    config: Config
    against: str
    alone: bool = False
    sides: tuple[str, ...] = ("left", "right")


CASES = {
    "DPO": Case(DpoConfig(beta=0.3), "trl DPOTrainer sigmoid"),
    "DPO, smoothed": Case(
        DpoConfig(beta=0.1, label_smoothing=0.2), "trl DPOTrainer aot, pair by pair", alone=True
    ),
    "DPO, a token": Case(DpoConfig(beta=0.9, loss="sigmoid_norm"), "trl DPOTrainer sigmoid_norm"),
    "DPO, robust": Case(
        DpoConfig(beta=0.2, loss="robust", label_smoothing=0.1), "trl DPOTrainer robust"
    ),
    "IPO": Case(DpoConfig(beta=0.2, loss="ipo"), "trl DPOTrainer ipo"),
    "DPO, hinge": Case(DpoConfig(beta=0.1, loss="hinge"), "trl DPOTrainer hinge"),
    "ORPO": Case(
        OrpoConfig(beta=0.7, prompt_loss=True),
        "trl.experimental ORPOTrainer",
        alone=True,
        sides=("right",),  # with padding on the left trl also trains the prompt's first token
    ),
    "SimPO": Case(
        SimpoConfig(beta=2.5, gamma=0.6), "trl.experimental CPOTrainer simpo, cpo_alpha 0"
    ),
    "SimPO, smoothed, with SFT": Case(
        SimpoConfig(beta=2.5, gamma=0.6, label_smoothing=0.1, nll_weight=0.3),
        "trl.experimental CPOTrainer simpo",
        alone=True,
    ),
    "CPO": Case(CpoConfig(beta=0.3), "trl.experimental CPOTrainer sigmoid", alone=True),
    "CPO, smoothed": Case(
        CpoConfig(label_smoothing=0.2, nll_weight=0.0), "trl.experimental CPOTrainer sigmoid"
    ),
    "CPO, hinge": Case(
        CpoConfig(beta=0.2, loss="hinge", nll_weight=0.0), "trl.experimental CPOTrainer hinge"
    ),
    "CPO, ipo": Case(
        CpoConfig(loss="ipo", nll_weight=0.5), "trl.experimental CPOTrainer ipo", alone=True
    ),
    "KTO": Case(KtoConfig(beta=0.4), "trl KTOTrainer"),
    "KTO, weighted": Case(
        KtoConfig(beta=0.3, desirable_weight=1.3, undesirable_weight=0.6), "trl KTOTrainer"
    ),
    "reward model": Case(BradleyTerryConfig(), "trl RewardTrainer"),
    "reward model, centred": Case(BradleyTerryConfig(centering=0.05), "trl RewardTrainer"),
    "process reward": Case(
        ProcessConfig(), "torch binary_cross_entropy_with_logits (trl 1.16 has no such trainer)"
    ),
}


class Pair(NamedTuple):
    """Ids of a prompt, its better answer and its worse one."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def ragged(generator: torch.Generator, low: int, high: int) -> list[int]:
    """Random ids, from low to high of them."""
    count = int(torch.randint(low, high + 1, (), generator=generator))
    return torch.randint(1, VOCAB, (count,), generator=generator).tolist()


def raw_pairs(seed: int, *, empty: bool = False) -> list[Pair]:
    """Ragged pairs: one of single ids, one whose prompt lost its beginning; perhaps an empty answer."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [
        Pair(ragged(generator, 1, 12), ragged(generator, 1, 9), ragged(generator, 1, 14))
        for _ in range(3)
    ]
    pairs.append(Pair(ragged(generator, 1, 1), ragged(generator, 1, 1), ragged(generator, 6, 6)))
    longest = Pair(ragged(generator, 30, 30), ragged(generator, 4, 9), ragged(generator, 4, 9))
    room = 20 - max(len(longest.chosen), len(longest.rejected))
    pairs.append(longest._replace(prompt=longest.prompt[-room:]))
    if empty:
        pairs.append(Pair(ragged(generator, 3, 8), [], ragged(generator, 3, 8)))
        pairs.append(Pair(ragged(generator, 3, 8), ragged(generator, 3, 8), []))
    return pairs


def encoded(pairs: Sequence[Pair], *, margins: bool = False) -> list[EncodedPair]:
    """The pairs as ours; with margins, 0, 0.3, 0.6, ..."""
    return [
        EncodedPair(
            pair.prompt + pair.chosen,
            [0] * len(pair.prompt) + [1] * len(pair.chosen),
            pair.prompt + pair.rejected,
            [0] * len(pair.prompt) + [1] * len(pair.rejected),
            0.3 * number if margins else 0.0,
        )
        for number, pair in enumerate(pairs)
    ]


def raw_feedback(seed: int, *, empty: bool = False) -> list[EncodedFeedback]:
    """Single answers of the pairs, good and bad in turn, in the order of their lengths."""
    rows = [
        EncodedFeedback(pair.prompt, answer, [1] * len(answer), good)
        for number, pair in enumerate(raw_pairs(seed, empty=empty))
        for answer, good in [(pair.chosen, True) if number % 2 else (pair.rejected, False)]
    ]
    return sorted(rows, key=lambda row: row.length)


def raw_solutions(seed: int) -> list[EncodedSolution]:
    """Prompts and one to three steps, each with a label at its last id."""
    generator = torch.Generator().manual_seed(seed)
    solutions = []
    for count in (1, 3, 2, 3):
        prompt = ragged(generator, 1, 9)
        ids, labels = list(prompt), [IGNORE] * len(prompt)
        for _ in range(count):
            step = ragged(generator, 1, 6)
            right = int(torch.randint(2, (), generator=generator))
            ids, labels = ids + step, labels + [IGNORE] * (len(step) - 1) + [right]
        solutions.append(EncodedSolution(ids, labels))
    return solutions


def padded(rows: Sequence[Row], side: str) -> dict[str, Tensor]:
    """ids, attention and completion masks as trl's collators make them, padded on a side."""
    most = max(len(prompt) + len(answer) for prompt, answer in rows)
    found: dict[str, list[list[int]]] = defaultdict(list)
    for prompt, answer in rows:
        ids = prompt + answer
        fill = [0] * (most - len(ids))
        parts = {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "completion_mask": [0] * len(prompt) + [1] * len(answer),
        }
        for key, part in parts.items():
            found[key].append(fill + part if side == "left" else part + fill)
    return {key: torch.tensor(rows) for key, rows in found.items()}


def bare(trainer: type, model: nn.Module, **values: Any) -> Any:
    """A trainer with nothing but what its loss asks for."""
    found = trainer.__new__(trainer)
    common = {
        "model": model,
        "accelerator": Accelerator(),
        "aux_loss_enabled": False,
        "is_encoder_decoder": False,
        "precompute_ref_logps": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    vars(found).update({**common, **values})
    return found


FUSED = ("log_probs", "entropy", "mean_logits", "is_top1")


def trl_dpo(config: DpoConfig, model: Any, reference: Any, pairs: list[Pair], side: str) -> Tensor:
    """trl's mean loss of the pairs."""
    trainer = bare(
        dpo_trainer.DPOTrainer,
        model,
        ref_model=reference.eval().requires_grad_(False),
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        beta=config.beta,
        # "aot" sorts a batch's margins; of a single pair it is the smoothed sigmoid loss
        loss_types=["aot" if config.loss == "sigmoid" and config.label_smoothing else config.loss],
        loss_weights=[1.0],
        label_smoothing=config.label_smoothing,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
    )
    add_fused_lm_head(model, outputs=FUSED)
    add_fused_lm_head(reference)
    rows = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
    return trainer._compute_loss(model, padded(rows, side), False)


def trl_paired(trainer: Any, model: nn.Module, pairs: list[Pair], side: str) -> Tensor:
    """Mean loss of the experimental trainers, which take chosen and rejected apart."""
    batch: dict[str, Tensor] = {}
    rows = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
    whole = padded(rows, side)
    labels = whole["input_ids"].masked_fill(whole["completion_mask"] == 0, IGNORE)
    for key, tensor in {**whole, "labels": labels}.items():
        if key != "completion_mask":
            batch[f"chosen_{key}"], batch[f"rejected_{key}"] = tensor.chunk(2)
    loss, _ = trainer.get_batch_loss_metrics(model, batch)
    return loss


def trl_orpo(config: OrpoConfig, model: Any, _: Any, pairs: list[Pair], side: str) -> Tensor:
    """trl's mean loss of the pairs."""
    trainer = bare(orpo_trainer.ORPOTrainer, model, beta=config.beta, padding_value=0)
    return trl_paired(trainer, model, pairs, side)


def trl_cpo(
    config: SimpoConfig | CpoConfig, model: Any, _: Any, pairs: list[Pair], side: str
) -> Tensor:
    """trl's mean loss of the pairs, SimPO's too."""
    trainer = bare(
        cpo_trainer.CPOTrainer,
        model,
        beta=config.beta,
        alpha=0.0,
        loss_type="simpo" if isinstance(config, SimpoConfig) else config.loss,
        simpo_gamma=config.gamma if isinstance(config, SimpoConfig) else 0.0,
        cpo_alpha=config.nll_weight,
        label_smoothing=config.label_smoothing,
        pad_token_id=0,
    )
    return trl_paired(trainer, model, pairs, side)


def trl_kto(
    config: KtoConfig, model: Any, reference: Any, rows: list[EncodedFeedback], side: str
) -> Tensor:
    """trl's mean loss of the answers; the mismatched ones by its own rule, each moved on by one."""
    trainer = bare(
        kto_trainer.KTOTrainer,
        model,
        ref_model=reference.eval().requires_grad_(False),
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        calculate_KL=True,
        loss_type="kto",
        beta=config.beta,
        desirable_weight=config.desirable_weight,
        undesirable_weight=config.undesirable_weight,
    )
    add_fused_lm_head(model, outputs=FUSED)
    add_fused_lm_head(reference)
    answers = [row.answer_ids for row in rows]
    moved = [answers[-1], *answers[:-1]]
    batch = padded([(row.prompt_ids, row.answer_ids) for row in rows], side)
    mismatched = [(row.prompt_ids, answer) for row, answer in zip(rows, moved, strict=True)]
    batch |= {f"KL_{key}": tensor for key, tensor in padded(mismatched, side).items()}
    batch["label"] = torch.tensor([row.desirable for row in rows])
    return trainer._compute_loss(model, batch, False)


def trl_reward(config: BradleyTerryConfig, model: Any, pairs: list[Pair], side: str) -> Tensor:
    """trl's mean loss of the pairs, whose margins are 0, 0.3, 0.6, ..."""
    centering = config.centering or None
    args = types.SimpleNamespace(center_rewards_coefficient=centering)
    trainer = bare(reward_trainer.RewardTrainer, model, args=args)
    rows = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
    inputs = padded(rows, side)
    del inputs["completion_mask"]
    inputs["margin"] = torch.tensor([0.3 * number for number in range(len(pairs))])
    return trainer.compute_loss(model, inputs)


def torch_process(model: Any, solutions: list[EncodedSolution], side: str) -> Tensor:
    """torch's binary cross-entropy over all judged places."""
    most = max(len(one.ids) for one in solutions)
    scores, right = [], []
    for one in solutions:
        fill = most - len(one.ids)
        before, after = (fill, 0) if side == "left" else (0, fill)
        ids = torch.tensor([[0] * before + one.ids + [0] * after])
        mask = torch.tensor([[0] * before + [1] * len(one.ids) + [0] * after])
        hidden = model.model(ids, attention_mask=mask).last_hidden_state[0]
        places = [before + t for t, label in enumerate(one.labels) if label != IGNORE]
        scores.append(model.score(hidden[places])[:, 0])
        right += [float(label) for label in one.labels if label != IGNORE]
    target = torch.tensor(right, dtype=torch.float64)
    return nn.functional.binary_cross_entropy_with_logits(torch.cat(scores), target)


TRL: dict[type, Callable[..., Tensor]] = {
    DpoConfig: trl_dpo,
    OrpoConfig: trl_orpo,
    SimpoConfig: trl_cpo,
    CpoConfig: trl_cpo,
    KtoConfig: trl_kto,
}


def ours_and_theirs(
    case: Case, seed: int, side: str, *, empty: bool
) -> tuple[CausalLM, ObjectiveOutput, Any, Tensor]:
    """Our model and output, their model and mean loss; nothing propagated back yet."""
    config, reference = case.config, tiny(seed + 100)
    model = tiny(seed)
    if isinstance(config, (BradleyTerryConfig, ProcessConfig)):
        add_score_head(model, torch.Generator().manual_seed(seed))
    llama, llama_reference = to_llama(model), to_llama(reference)
    pairs = raw_pairs(seed, empty=empty)
    if isinstance(config, ProcessConfig):
        solutions = raw_solutions(seed)
        return (
            model,
            StepJudge()(model, judged_steps(solutions)),
            llama,
            torch_process(llama, solutions, side),
        )
    if isinstance(config, BradleyTerryConfig):
        output = BradleyTerry(config)(model, scored_pairs(encoded(pairs, margins=True)))
        return model, output, llama, trl_reward(config, llama, pairs, side)
    if isinstance(config, KtoConfig):
        rows = raw_feedback(seed, empty=empty)
        source = FeedbackSource(rows, per_step=len(rows), max_length=96)
        (batch,) = source.next_step()
        output = Kto(config, reference)(model, batch)
        return model, output, llama, trl_kto(config, llama, llama_reference, rows, side)
    objective = Dpo(config, reference) if isinstance(config, DpoConfig) else ReferenceFree(config)
    output = objective(model, preference_batch(encoded(pairs)))
    groups = [[pair] for pair in pairs] if case.alone else [pairs]
    theirs = [TRL[type(config)](config, llama, llama_reference, g, side) for g in groups]
    return model, output, llama, torch.stack(theirs).mean()


def difference(case: Case, seed: int, side: str, *, empty: bool = False) -> tuple[float, float]:
    """Relative difference of the loss, and of the worst weight's gradient to the largest gradient."""
    model, output, llama, theirs = ours_and_theirs(case, seed, side, empty=empty)
    loss = output.loss_sum / output.weight
    loss.backward()
    theirs.backward()
    of_loss = abs(float(loss) - float(theirs)) / max(1e-3, abs(float(theirs)))
    ours = pieces(model, {name: p.grad for name, p in model.named_parameters()})
    other = {name: p.grad for name, p in llama.named_parameters()}
    largest = max(float(other[name].abs().max()) for name in ours)
    assert largest > 0, "nothing to compare"
    worst = max(float((ours[name] - other[name]).abs().max()) for name in ours)
    return of_loss, worst / largest
