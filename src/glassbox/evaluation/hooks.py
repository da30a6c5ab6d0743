"""Hooks of the training loop: held-out losses, grades, and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from glassbox.core.devices import Precision, autocast
from glassbox.core.distributed import Group
from glassbox.data.shards import Shard
from glassbox.evaluation.scoring import token_log_probs
from glassbox.evaluation.stats import ratio
from glassbox.inference import Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers import Tokenizer
from glassbox.training.protocols import BeforeStep, Objective
from glassbox.training.window import add_up


class HeldoutPart(NamedTuple):
    """A source's held-out documents: its name in the figures ("" for an only one), its weight, the shard."""

    name: str
    weight: float
    shard: Shard


class LossHook:
    """Measures the loss in nats a token on held-out documents, with its standard error over
    documents.

    The same `documents` are used each time, divided over the parts by weight and spread evenly over
    each, so that the order of a corpus has no influence. Several parts are also reported separately
    (`heldout_loss/NAME`), and the total is their weighted mean. Only positions trained by a shard's
    mask are scored, so that fine-tuning is evaluated on answers only. Each rank scores its share.
    """

    def __init__(
        self,
        parts: Sequence[HeldoutPart] | Shard,
        *,
        every: int,
        documents: int = 64,
        name: str = "heldout_loss",
        group: Group | None = None,
    ) -> None:
        self.every = every
        self.name = name
        self.group = group or Group()
        parts = [HeldoutPart("", 1.0, parts)] if isinstance(parts, Shard) else parts
        parts = [part for part in parts if part.shard.num_documents]
        total = sum(part.weight for part in parts)
        self._parts = [
            (part, *_some_documents(part.shard, max(1, round(documents * part.weight / total))))
            for part in parts
        ]

    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """{name: loss, name_error: its standard error, ...}; empty where nothing is scored."""
        sums = [self._score(model, ids, trained) for _, ids, trained in self._parts]
        values: dict[str, float | str] = {}
        losses, errors, weights = [], [], []
        for (part, _, _), (nats, counts) in zip(self._parts, sums, strict=True):
            if not counts:
                continue
            loss = ratio(nats, counts)
            losses.append(loss.value)
            errors.append(loss.standard_error)
            weights.append(part.weight)
            if part.name and len(self._parts) > 1:
                values[f"{self.name}/{part.name}"] = loss.value
        if not losses:
            return {}
        shares = np.array(weights) / sum(weights)
        values = {self.name: float(shares @ losses), **values}
        if all(error is not None for error in errors):
            squares = np.array([float(error or 0.0) ** 2 for error in errors])
            values[f"{self.name}_error"] = float(np.sqrt(shares**2 @ squares))
        return values

    def _score(
        self, model: CausalLM, ids: Sequence[list[int]], trained: Sequence[NDArray[np.float64]]
    ) -> tuple[list[float], list[float]]:
        """Nats and scored tokens of each document."""
        mine = range(self.group.rank, len(ids), self.group.world_size)
        table = torch.zeros(len(ids), dtype=torch.float64)
        scores = token_log_probs(model, [ids[number] for number in mine])
        for number, score in zip(mine, scores, strict=True):
            table[number] = -float(score @ trained[number])
        return self.group.sum_(table).tolist(), [float(one.sum()) for one in trained]


def _some_documents(shard: Shard, count: int) -> tuple[list[list[int]], list[NDArray[np.float64]]]:
    """Ids and masks of `count` documents with something to score, evenly spread over the shard."""
    starts, ends = shard.offsets[:-1], shard.offsets[1:]
    scored = [
        number
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
        if end - start > 1 and (shard.mask is None or shard.mask[start + 1 : end].any())
    ]
    chosen = scored
    if len(scored) > count:
        chosen = [scored[int((place + 0.5) * len(scored) / count)] for place in range(count)]
    ids, trained = [], []
    for number in chosen:
        start, end = starts[number], ends[number]
        mask = np.ones(end - start) if shard.mask is None else shard.mask[start:end]
        ids.append(shard.ids[start:end].tolist())
        trained.append(np.asarray(mask[1:], dtype=np.float64))
    return ids, trained


class HeldoutHook:
    """Evaluates the run's objective on held-out batches: `heldout_loss`, and `heldout_NAME` of its
    metrics.

    Examples: the accuracy of preferences and reward models, the divergence of distillation.
    `batches` returns this rank's share; sums and weights are added over all ranks.
    """

    def __init__(
        self,
        objective: Objective[Any],
        batches: Callable[[], Iterable[Any]],
        *,
        every: int,
        group: Group | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.objective = objective
        self.batches = batches
        self.every = every
        self.group = group or Group()
        self.precision = precision

    @torch.no_grad()
    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """Weighted means over all held-out examples."""
        device = model.device
        outputs = []
        with autocast(device, self.precision):
            batches = [batch.to(device) for batch in self.batches()]
            if isinstance(self.objective, BeforeStep):
                self.objective.before_step(model, batches, self.group)
            outputs = [self.objective(model, batch) for batch in batches]
        totals = self.group.sum_by_name(add_up(outputs))
        means = {name: total / weight for name, (total, weight) in totals.items() if weight}
        if "main_loss" in means:  # what layers add of their own is no measure of the model
            means["loss"] = means.pop("main_loss")
        return {f"heldout_{name}": value for name, value in means.items()}


class Graded(Protocol):
    """The grades of an answer."""

    @property
    def reward(self) -> float:
        """Weighted sum."""

    @property
    def parts(self) -> Mapping[str, float]:
        """Of each grader."""


class GradeHook:
    """Grades greedy answers to held-out problems: mean reward, and pass rate.

    `heldout_reward`, `heldout_reward/NAME` of each grader, and `heldout_pass_rate`: the share of
    answers to which the first grader gives 1 or more. Each rank processes its share.
    """

    def __init__(
        self,
        grade: Callable[[Sequence[Any]], Sequence[Graded]],
        problems: Sequence[Any],
        *,
        every: int,
        group: Group | None = None,
    ) -> None:
        self.grade = grade
        self.problems = problems
        self.every = every
        self.group = group or Group()

    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """Means over all problems."""
        mine = self.problems[self.group.rank :: self.group.world_size]
        totals: dict[str, list[float]] = {}

        def count(name: str, value: float) -> None:
            pair = totals.setdefault(name, [0.0, 0.0])
            pair[0] += value
            pair[1] += 1

        for one in self.grade(mine) if mine else ():
            count("heldout_reward", one.reward)
            for place, (name, score) in enumerate(one.parts.items()):
                count(f"heldout_reward/{name}", score)
                if place == 0:
                    count("heldout_pass_rate", float(score >= 1))
        summed = self.group.sum_by_name(totals)
        return {name: total / weight for name, (total, weight) in summed.items() if weight}


class SampleHook:
    """Generates a sample for each of some prompts, with the same random numbers every time."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        *,
        every: int,
        max_tokens: int = 64,
        temperature: float = 0.8,
        seed: int = 0,
    ) -> None:
        self.every = every
        self.tokenizer = tokenizer
        self.prompts = tuple(prompts)
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
        self.params = params.spread(len(self.prompts))

    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """{"sample_0": the first prompt and what came of it, ...}."""
        ids = [[self.tokenizer.eos_id, *self.tokenizer.encode(text)] for text in self.prompts]
        completions = Engine(model, self.tokenizer).generate(ids, self.params, truncate_prompt=True)
        return {
            f"sample_{number}": prompt + (completion.text or "")
            for number, (prompt, completion) in enumerate(
                zip(self.prompts, completions, strict=True)
            )
        }
