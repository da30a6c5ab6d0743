"""Rollouts: batch sources that sample answers from the policy, grade them, and yield them as
batches.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from glassbox.core.devices import Precision, autocast
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed
from glassbox.data.examples import check_resumable, identity_of
from glassbox.data.order import SeededOrder
from glassbox.data.preferences import pad_rows
from glassbox.inference.chat import ChatPrompts
from glassbox.inference.evaluating import evaluating
from glassbox.inference.sampling.params import SamplingParams
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.protocols import Objective
from glassbox.tuning.grading.graders import Grade, Grader, Problem, Rubric
from glassbox.tuning.log_probs import answer_log_probs
from glassbox.tuning.policy.answers import (
    Metrics,
    Rollout,
    RolloutBatch,
    RolloutConfig,
    gather_answers,
    overlong_penalty,
    parts_of,
    spread,
)
from glassbox.tuning.policy.tools import ToolLoop, make_tools
from glassbox.tuning.reference import Reference

if TYPE_CHECKING:
    from glassbox.inference.engine import Engine
    from glassbox.models.causal_lm import CausalLM


@dataclass(frozen=True)
class PolicySetup:
    """What a policy method is built with.

    reference: returns the model as it was at the start; called only if a KL term needs it.
    opened: opens a MODEL by name, on the device of the run.
    """

    engine: Engine
    problems: Sequence[Problem]
    rubric: Rubric
    reference: Callable[[], Reference]
    opened: Callable[[str], CausalLM]
    seed: int = 0
    group: Group | None = None
    precision: Precision = "float32"

    @property
    def options(self) -> dict[str, Any]:
        """Arguments common to all `AnswerSource`s."""
        return {"seed": self.seed, "group": self.group, "precision": self.precision}


class PolicyMethod(RolloutConfig):
    """Base class of specs of policy methods: settings of the rollouts, and the objective and source
    they build.

    A new method is a subclass in a file of its own, and a line in the union of
    `runs.stages.policy`.
    """

    kl_beta: float

    @abstractmethod
    def build(self, setup: PolicySetup) -> tuple[Objective[RolloutBatch], AnswerSource]:
        """Return the objective and its batch source."""


@dataclass
class Sampled:
    """The answers to a prompt, their rewards (including shaping), and the graders' scores."""

    answers: list[Rollout]
    rewards: list[float]
    grades: list[Grade]
    calls: int

    @property
    def is_zero_variance(self) -> bool:
        """Whether all answers have the same reward, so that all advantages are zero."""
        return max(self.rewards) == min(self.rewards)


class AnswerSource:
    """Base class of rollouts: at each step, prompts in a seeded order with G answers each by the
    engine, graded.

    Subclasses define how rewards become advantages (`_credit`) and the loss's divisor (`_weight`).
    The engine must hold the model that is trained, and its tokenizer. Random numbers depend on
    (seed, position of the prompt, sample) only, so that a saved position and the same weights
    reproduce the answers bit for bit. With several steps per rollout, a position within it includes
    its answers. Each of the `minibatches` of a pass has a share of all ranks' answers, in an order
    that does not depend on the number of ranks; advantages are over the whole rollout.

    Problems whose prompt and max_tokens do not fit the model's context are skipped (`num_skipped`).
    stop_token_ids: end an answer; by default the chat template's end-of-turn token.
    precision: of the training loop, for log-probabilities that are recomputed.
    Raises UserError if no problem is left.
    """

    rows_come_again = True  # several updates on one rollout are meant: no alarm about repeated data

    def __init__(
        self,
        engine: Engine,
        problems: Sequence[Problem],
        grader: Grader | Rubric,
        config: RolloutConfig,
        *,
        seed: int = 0,
        group: Group | None = None,
        stop_token_ids: Sequence[int] | None = None,
        precision: Precision = "float32",
    ) -> None:
        tokenizer = engine.tokenizer
        if tokenizer is None:
            raise UserError("a rollout's engine has no tokenizer; make it Engine(model, tokenizer)")
        self.engine = engine
        self.precision = precision
        self.rubric = Rubric.of(grader)
        self.config = config
        self.seed = seed
        self.group = group or Group()
        if config.prompts_per_step % self.group.world_size:
            raise UserError(
                f"prompts_per_step = {config.prompts_per_step} cannot be shared by "
                f"{self.group.world_size} ranks; make it a multiple of the number of ranks"
            )
        room = engine.context_length - config.max_tokens
        chats = ChatPrompts(tokenizer)
        self.encode = lambda problem: chats.ids(problem["prompt"])
        encoded = [(self.encode(problem), problem) for problem in problems]
        self.problems = [(ids, problem) for ids, problem in encoded if len(ids) <= room]
        self.num_skipped = len(encoded) - len(self.problems)
        if not self.problems:
            raise UserError(
                f"none of {len(encoded)} problems leaves max_tokens = {config.max_tokens} of the "
                f"model's {engine.context_length} tokens; lower max_tokens or give shorter problems"
            )
        self.stop_token_ids = (
            chats.stop_token_ids if stop_token_ids is None else tuple(stop_token_ids)
        )
        tools = config.tools
        self.loop = ToolLoop(
            engine,
            make_tools(tools.names, tools.sandbox),
            rounds=tools.rounds,
            result_chars=tools.result_chars,
        )
        self.identity = identity_of(self.problems)
        self.cursor = 0
        self.update = 0  # how many optimizer steps the rollout at the cursor has served
        self._answers: list[Rollout] = []
        self._metrics: Metrics = {}
        self._order = SeededOrder(len(self.problems), seed, "problems")
        self._spare = SeededOrder(len(self.problems), seed, "replacements")
        self._deal = SeededOrder(config.prompts_per_step * config.group_size, seed, "minibatches")

    def next_step(self) -> list[RolloutBatch]:
        """Return this rank's micro-batches of the next optimizer step, after a new rollout if one
        is due.
        """
        if self.update == 0:
            self._answers, self._metrics = self._roll_out()
        batches = self._batches()
        self.update += 1
        if self.update == self.config.steps_per_rollout:
            self.update = 0
            self.cursor += self.config.prompts_per_step
            self._answers, self._metrics = [], {}
        return batches

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every problem is sampled once."""
        config = self.config
        return len(self.problems) / config.prompts_per_step * config.steps_per_rollout

    def _roll_out(self) -> tuple[list[Rollout], Metrics]:
        first = self.cursor + self.group.rank
        last = self.cursor + self.config.prompts_per_step
        groups = self._draw(list(range(first, last, self.group.world_size)))
        metrics = self._measure(groups)
        replaced = self._replace(groups)
        if replaced is not None:
            metrics["replaced_groups"] = (float(replaced), float(len(groups)))
        metrics.update(self._credit(groups))
        return [answer for one in groups for answer in one.answers], metrics

    def _replace(self, groups: list[Sampled]) -> int | None:
        """Hook: replace groups with zero advantages by those of other prompts; returns the number,
        or None if unsupported.
        """
        return None

    def _credit(self, groups: Sequence[Sampled]) -> Metrics:
        """Hook: compute the advantages of answers from their rewards; returns metrics."""
        raise NotImplementedError

    def _weight(self, answers: Sequence[Rollout]) -> float:
        """Hook: the divisor of the loss."""
        raise NotImplementedError

    def _draw(self, positions: Sequence[int], *, attempt: int = 0) -> list[Sampled]:
        """The graded answers at these positions; a later attempt draws other prompts."""
        config = self.config
        size = config.group_size
        if attempt == 0:
            numbers = [self._order[position] for position in positions]
        else:
            numbers = [self._spare[position + attempt - 1] for position in positions]
        again = ("again", attempt) if attempt else ()
        params = [
            SamplingParams(
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                n=size,
                seed=derive_seed(self.seed, "rollout", position, *again),
                stop_token_ids=self.stop_token_ids,
                logprobs=config.old_log_probs == "engine",
            )
            for position in positions
        ]
        problems = [self.problems[number] for number in numbers]
        drafts = self.loop.answer(
            [ids for ids, _ in problems], [problem["prompt"] for _, problem in problems], params
        )
        owners = [number for number in numbers for _ in range(size)]
        grades = self.rubric.grade_all(
            [draft.text for draft in drafts], [self.problems[number][1] for number in owners]
        )
        answers = [
            Rollout(
                problem=number,
                token_ids=draft.token_ids,
                truncated=draft.truncated,
                advantage=0.0,
                old_log_probs=draft.log_probs if config.old_log_probs == "engine" else None,
                mask=None if all(draft.mask) else draft.mask,
            )
            for number, draft in zip(owners, drafts, strict=True)
        ]
        rewards = [
            grade.reward + config.overlong_penalty * self._shaping(answer)
            for grade, answer in zip(grades, answers, strict=True)
        ]
        return [
            Sampled(
                answers[i : i + size],
                rewards[i : i + size],
                grades[i : i + size],
                sum(draft.calls for draft in drafts[i : i + size]),
            )
            for i in range(0, len(answers), size)
        ]

    def _shaping(self, answer: Rollout) -> float:
        config = self.config
        length = config.max_tokens if answer.truncated else len(answer.token_ids)
        return overlong_penalty(length, config.max_tokens, config.overlong_buffer)

    def _measure(self, groups: Sequence[Sampled]) -> Metrics:
        """Metrics of the answers as first drawn, so that replaced groups do not bias them."""
        answers = [answer for one in groups for answer in one.answers]
        grades = [grade for one in groups for grade in one.grades]
        rewards = torch.tensor([one.rewards for one in groups], dtype=torch.float64)
        count, prompts = float(len(answers)), float(len(groups))
        metrics: Metrics = {"reward": (float(rewards.sum()), count)}
        if self.config.group_size > 1:
            metrics["reward_std"] = (float(rewards.std(dim=1).sum()), prompts)
            metrics["zero_variance_groups"] = (
                float(sum(one.is_zero_variance for one in groups)),
                prompts,
            )
        metrics["answer_tokens"] = (float(sum(len(a.token_ids) for a in answers)), count)
        metrics["truncated"] = (float(sum(a.truncated for a in answers)), count)
        metrics["grader_errors"] = (float(sum(g.errors for g in grades)), count)
        if self.config.tools.names:
            metrics["tool_calls"] = (float(sum(one.calls for one in groups)), count)
        for name in self.rubric.graders:
            metrics[f"reward/{name}"] = (sum(g.parts[name] for g in grades), count)
        return metrics

    def _start(self, answer: Rollout) -> int:
        """The first position of an answer whose target is one of its tokens."""
        return len(self.problems[answer.problem][0]) - 1

    def _masked(self, answer: Rollout) -> bool:
        return answer.truncated and self.config.overlong == "mask"

    def _rows(self, answers: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        rows = []
        for answer in answers:
            prompt = self.problems[answer.problem][0]
            own = [0] * len(answer.token_ids) if self._masked(answer) else answer.trained
            rows.append((prompt + answer.token_ids, [0] * len(prompt) + own))
        return pad_rows(rows)

    def _parts(self, answers: Sequence[Rollout]) -> Iterator[list[Rollout]]:
        lengths = [self._start(answer) + len(answer.token_ids) for answer in answers]
        for part in parts_of(lengths, self.config.tokens_per_batch):
            yield [answers[number] for number in part]

    def _reference_scores(
        self, reference: Reference, answers: Sequence[Rollout]
    ) -> list[list[float]]:
        with reference.reading() as frozen:
            return self._scores(frozen, answers)

    @torch.no_grad()
    def _scores(self, model: CausalLM, answers: Sequence[Rollout]) -> list[list[float]]:
        """log p of each answer's tokens, computed by the same forward pass and batches as in
        training.

        Zero at a tool's tokens.
        """
        found: dict[int, list[float]] = {}
        with evaluating(model), autocast(model.device, self.precision):
            for part in self._parts(answers):
                ids, targets = (table.to(model.device) for table in self._rows(part))
                rows = answer_log_probs(model, ids, targets, temperature=self.config.temperature)
                for answer, row in zip(part, rows.tolist(), strict=True):
                    start = self._start(answer)
                    found[id(answer)] = row[start : start + len(answer.token_ids)]
        return [found[id(answer)] for answer in answers]

    def _recompute(self, answers: Sequence[Rollout]) -> None:
        for answer, scores in zip(answers, self._scores(self.engine.model, answers), strict=True):
            answer.old_log_probs = scores

    def _batches(self) -> list[RolloutBatch]:
        dealt = self._dealt()
        kept = [answer for answer in dealt if self._has_gradient(answer)]
        # every rank makes at least one backward pass, so that gradients can be summed over ranks
        shortest = min(dealt or self._answers, key=lambda answer: len(answer.token_ids))
        batches = [self._batch(part) for part in self._parts(kept or [shortest])]
        if not dealt:
            batches[0].targets.fill_(IGNORE)
            batches[0].scales.zero_()
        batches[0].weight = self._weight(dealt)
        counts = [int((batch.targets != IGNORE).sum()) for batch in batches]
        for batch, count in zip(batches, counts, strict=True):
            batch.share = batches[0].weight * count / max(1, sum(counts))
        batches[0].metrics = self._metrics if self.update == 0 else {}
        return batches

    def _dealt(self) -> list[Rollout]:
        """This rank's answers of this update's minibatch, in the order of the rollout."""
        config = self.config
        if config.minibatches == 1:
            return self._answers
        done, part = divmod(self.update, config.minibatches)
        total = config.prompts_per_step * config.group_size
        first = (self.cursor // config.prompts_per_step * config.updates_per_rollout + done) * total
        share = range(part * total // config.minibatches, (part + 1) * total // config.minibatches)
        chosen = {self._deal[first + place] for place in share}
        size, world = config.group_size, self.group.world_size
        return [
            answer
            for place, answer in enumerate(self._answers)
            if (place // size * world + self.group.rank) * size + place % size in chosen
        ]

    def _has_gradient(self, answer: Rollout) -> bool:
        return not self._masked(answer)

    def _scale(self, answer: Rollout) -> float:
        """The factor on the summed loss of an answer's tokens."""
        return 1.0

    def _batch(self, part: Sequence[Rollout]) -> RolloutBatch:
        ids, targets = self._rows(part)
        starts, width = [self._start(answer) for answer in part], targets.shape[1]
        own = spread([answer.advantages for answer in part], starts, width)
        whole = torch.tensor([answer.advantage for answer in part])
        return RolloutBatch(
            ids=ids,
            targets=targets,
            advantages=whole if own is None else own,
            scales=torch.tensor([self._scale(answer) for answer in part]),
            old_log_probs=spread([answer.old_log_probs for answer in part], starts, width),
            weight=0.0,
            returns=spread([answer.returns for answer in part], starts, width),
            old_values=spread([answer.values for answer in part], starts, width),
        )

    def grade(self, problems: Sequence[Problem]) -> list[Grade]:
        """Grade the greedy answers to some (held-out) problems; the position does not change.

        A problem that does not fit into the context gets an empty answer.
        """
        encoded = [self.encode(problem) for problem in problems]
        room = self.engine.context_length - self.config.max_tokens
        fitting = [number for number, ids in enumerate(encoded) if len(ids) <= room]
        params = SamplingParams(
            max_tokens=self.config.max_tokens,
            temperature=0.0,
            stop_token_ids=self.stop_token_ids,
        )
        drafts = self.loop.answer(
            [encoded[number] for number in fitting],
            [problems[number]["prompt"] for number in fitting],
            [params] * len(fitting),
        )
        texts = [""] * len(problems)
        for number, draft in zip(fitting, drafts, strict=True):
            texts[number] = draft.text
        return self.rubric.grade_all(texts, list(problems))

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON; within a rollout (between its updates) also its answers.

        Every rank must call it, since the answers of all ranks are gathered.
        """
        state: dict[str, Any] = {
            "cursor": self.cursor,
            "problems": len(self.problems),
            "seed": self.seed,
            "data": self.identity,
            "update": self.update,
        }
        if self.update:
            config = self.config
            total = config.prompts_per_step * config.group_size
            gathered = gather_answers(
                self._answers, total, config.group_size, config.max_tokens, self.group
            )
            state["answers"] = [asdict(answer) for answer in gathered]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved position. Raises UserError if the problems differ from those it was saved
        with.
        """
        check_resumable(
            state, {"problems": len(self.problems), "seed": self.seed, "data": self.identity}
        )
        self.cursor, self.update = int(state["cursor"]), int(state["update"])
        size = self.config.group_size
        answers = [Rollout(**answer) for answer in state.get("answers", [])]
        groups = [answers[i : i + size] for i in range(0, len(answers), size)]
        mine = groups[self.group.rank :: self.group.world_size]
        self._answers, self._metrics = [answer for group in mine for answer in group], {}


class StudentSource(AnswerSource):
    """Ungraded answers of the model itself, for on-policy distillation."""

    def _credit(self, groups: Sequence[Sampled]) -> Metrics:
        return {}

    def _weight(self, answers: Sequence[Rollout]) -> float:
        return float(sum(a.num_trained for a in answers if not self._masked(a)))

    def first_rollout(self) -> list[RolloutBatch]:
        """This rank's answers to the first problems with the current weights, for evaluation."""
        self.cursor = self.update = 0
        return self.next_step()
