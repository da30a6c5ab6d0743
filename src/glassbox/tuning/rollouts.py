"""Rollouts: a batch source that asks the policy itself, grades its answers, and yields them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from glassbox.core.devices import Precision, autocast
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed
from glassbox.data.order import SeededOrder
from glassbox.data.preferences import check_resumable, pad_rows
from glassbox.inference.engine import Completion, Engine
from glassbox.inference.sampling import SamplingParams
from glassbox.inference.wave import evaluating
from glassbox.tuning.graders import Grader, Problem, Rubric
from glassbox.tuning.grpo import GrpoConfig, Metrics, RolloutBatch, group_advantages
from glassbox.tuning.log_probs import answer_log_probs


@dataclass
class Answer:
    """One graded completion of a rollout, JSON-able, so that a rollout in use can be saved."""

    problem: int
    token_ids: list[int]
    truncated: bool
    advantage: float
    old_log_probs: list[float] | None


class RolloutSource:
    """Every step: prompts in a seeded order, G answers each by the engine, graded and compared.

    The engine must hold the very model that is trained, and its tokenizer. Chance comes from (seed, position of the
    prompt, sample) alone, so a saved position and the same weights give the same answers to the bit.
    With updates_per_rollout > 1, a position within a rollout carries its answers along.

    With kl_beta = 0, answers of advantage zero are counted but not run through the model: their
    loss and gradient are exactly zero. Problems whose prompt and max_tokens do not fit the model's
    context are left out (`num_skipped`). `stop_token_ids` end an answer, <|im_end|> and the end of
    text unless given. `precision` is that of the training loop, for scores that are computed again.
    Raises UserError where no problem is left.
    """

    def __init__(
        self,
        engine: Engine,
        problems: Sequence[Problem],
        grader: Grader | Rubric,
        config: GrpoConfig,
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
        encoded = [
            (tokenizer.encode_chat_prompt(problem["prompt"]), problem) for problem in problems
        ]
        self.problems = [(ids, problem) for ids, problem in encoded if len(ids) <= room]
        self.num_skipped = len(encoded) - len(self.problems)
        if not self.problems:
            raise UserError(
                f"none of {len(encoded)} problems leaves max_tokens = {config.max_tokens} of the "
                f"model's {engine.context_length} tokens; lower max_tokens or give shorter problems"
            )
        if stop_token_ids is None:
            end = tokenizer.special_tokens.get("<|im_end|>")
            stop_token_ids = () if end is None else (end,)
        self.stop_token_ids = tuple(stop_token_ids)
        self.cursor = 0
        self.update = 0  # how many optimizer steps the rollout at the cursor has served
        self._answers: list[Answer] = []
        self._metrics: Metrics = {}
        self._order = SeededOrder(len(self.problems), seed, "problems")

    def next_step(self) -> list[RolloutBatch]:
        """This rank's micro-batches of the next optimizer step; a fresh rollout where one is due."""
        if self.update == 0:
            self._answers, self._metrics = self._roll_out()
        batches = self._batches()
        self.update += 1
        if self.update == self.config.updates_per_rollout:
            self.update = 0
            self.cursor += self.config.prompts_per_step
            self._answers, self._metrics = [], {}
        return batches

    def _roll_out(self) -> tuple[list[Answer], Metrics]:
        config = self.config
        first = self.cursor + self.group.rank
        positions = range(first, self.cursor + config.prompts_per_step, self.group.world_size)
        numbers = [self._order[position] for position in positions]
        params = [
            SamplingParams(
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                n=config.group_size,
                seed=derive_seed(self.seed, "rollout", position),
                stop_token_ids=self.stop_token_ids,
                logprobs=config.old_log_probs == "engine",
            )
            for position in positions
        ]
        completions = self.engine.generate([self.problems[n][0] for n in numbers], params)
        return self._grade(numbers, completions)

    def _grade(
        self, numbers: list[int], completions: list[Completion]
    ) -> tuple[list[Answer], Metrics]:
        config = self.config
        owners = [number for number in numbers for _ in range(config.group_size)]
        grades = [
            self.rubric.grade(completion.text or "", self.problems[number][1])
            for number, completion in zip(owners, completions, strict=True)
        ]
        rewards = torch.tensor([g.reward for g in grades], dtype=torch.float64)
        rewards = rewards.view(len(numbers), config.group_size)
        advantages = group_advantages(rewards, scale=config.scale_rewards)
        answers = [
            Answer(
                problem=number,
                token_ids=completion.token_ids,
                truncated=completion.finish_reason == "length",
                advantage=advantage,
                old_log_probs=completion.sampling_log_probs,
            )
            for number, completion, advantage in zip(
                owners, completions, advantages.flatten().tolist(), strict=True
            )
        ]
        if config.old_log_probs == "recompute" and config.updates_per_rollout > 1:
            self._recompute([answer for answer in answers if self._teaches(answer)])
        count, groups = float(len(answers)), float(len(numbers))
        silent = rewards.amax(dim=1) == rewards.amin(dim=1)
        metrics: Metrics = {
            "reward": (float(rewards.sum()), count),
            "reward_std": (float(rewards.std(dim=1).sum()), groups),
            "silent_groups": (float(silent.sum()), groups),
            "answer_tokens": (float(sum(len(a.token_ids) for a in answers)), count),
            "truncated": (float(sum(a.truncated for a in answers)), count),
            "grader_errors": (float(sum(g.errors for g in grades)), count),
        }
        for name in self.rubric.graders:
            metrics[f"reward/{name}"] = (sum(g.parts[name] for g in grades), count)
        return answers, metrics

    def _rows(self, answers: Sequence[Answer]) -> tuple[Tensor, Tensor]:
        rows = []
        for answer in answers:
            prompt = self.problems[answer.problem][0]
            trained = not (answer.truncated and self.config.overlong == "mask")
            mask = [0] * len(prompt) + [int(trained)] * len(answer.token_ids)
            rows.append((prompt + answer.token_ids, mask))
        return pad_rows(rows)

    def _parts(self, answers: Sequence[Answer]) -> Iterator[list[Answer]]:
        """Answers of like length together, at most tokens_per_batch with padding (and at least one)."""

        def length(answer: Answer) -> int:
            return len(self.problems[answer.problem][0]) + len(answer.token_ids) - 1

        part: list[Answer] = []
        for answer in sorted(answers, key=length):  # so the newest is the longest of its part
            if part and (len(part) + 1) * length(answer) > self.config.tokens_per_batch:
                yield part
                part = []
            part.append(answer)
        yield part

    @torch.no_grad()
    def _recompute(self, answers: list[Answer]) -> None:
        """Score the answers by the forward pass, and in the batches, that training uses."""
        model = self.engine.model
        with evaluating(model), autocast(model.device, self.precision):
            for part in self._parts(answers) if answers else ():
                ids, targets = self._rows(part)
                scored = answer_log_probs(
                    model,
                    ids.to(model.device),
                    targets.to(model.device),
                    temperature=self.config.temperature,
                ).tolist()
                for answer, row in zip(part, scored, strict=True):
                    start = len(self.problems[answer.problem][0]) - 1
                    answer.old_log_probs = row[start : start + len(answer.token_ids)]

    def _batches(self) -> list[RolloutBatch]:
        kept = [answer for answer in self._answers if self._teaches(answer)]
        # every rank makes at least one backward pass, so that gradients can be summed over ranks
        shortest = min(self._answers, key=lambda answer: len(answer.token_ids))
        batches = [self._batch(part) for part in self._parts(kept or [shortest])]
        batches[0].weight = self._weight(self._answers)
        for batch in batches[1:]:
            batch.weight = 0.0
        batches[0].metrics = self._metrics if self.update == 0 else {}
        return batches

    def _teaches(self, answer: Answer) -> bool:
        masked = answer.truncated and self.config.overlong == "mask"
        return not masked and (answer.advantage != 0 or self.config.kl_beta > 0)

    def _weight(self, answers: Sequence[Answer]) -> float:
        """What the normalization divides by: answers, trained tokens, or answers * max_tokens."""
        config = self.config
        if config.normalization == "dapo":
            masked = config.overlong == "mask"
            return float(sum(len(a.token_ids) for a in answers if not (a.truncated and masked)))
        count = float(len(answers))
        return count if config.normalization == "grpo" else count * config.max_tokens

    def _batch(self, part: Sequence[Answer]) -> RolloutBatch:
        ids, targets = self._rows(part)
        lengths = torch.tensor([float(len(answer.token_ids)) for answer in part])
        old = None
        if part[0].old_log_probs is not None:
            old = torch.zeros(targets.shape)
            for row, answer in enumerate(part):
                start = len(self.problems[answer.problem][0]) - 1
                assert answer.old_log_probs is not None
                old[row, start : start + len(answer.token_ids)] = torch.tensor(answer.old_log_probs)
        by_length = self.config.normalization == "grpo"
        return RolloutBatch(
            ids=ids,
            targets=targets,
            advantages=torch.tensor([answer.advantage for answer in part]),
            scales=1 / lengths if by_length else torch.ones_like(lengths),
            old_log_probs=old,
            weight=0.0,
        )

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON; within a rollout (updates_per_rollout > 1) also its answers.

        Every rank must call it: the answers of all ranks are gathered.
        """
        state: dict[str, Any] = {
            "cursor": self.cursor,
            "problems": len(self.problems),
            "seed": self.seed,
            "update": self.update,
        }
        if self.update:
            state["answers"] = [asdict(a) for a in _gather(self._answers, self.config, self.group)]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises UserError where the problems are not the ones it was saved with."""
        check_resumable(state, {"problems": len(self.problems), "seed": self.seed})
        self.cursor, self.update = int(state["cursor"]), int(state["update"])
        size = self.config.group_size
        answers = [Answer(**answer) for answer in state.get("answers", [])]
        groups = [answers[i : i + size] for i in range(0, len(answers), size)]
        mine = groups[self.group.rank :: self.group.world_size]
        self._answers, self._metrics = [answer for group in mine for answer in group], {}


def _gather(answers: list[Answer], config: GrpoConfig, group: Group) -> list[Answer]:
    """The answers of all ranks in the order of their prompts, by summing tables with one owner a row."""
    if group.world_size == 1:
        return answers
    size, ranks, most = config.group_size, group.world_size, config.max_tokens
    whole = torch.zeros((config.prompts_per_step * size, 4 + most), dtype=torch.int64)
    real = torch.zeros((config.prompts_per_step * size, 1 + most), dtype=torch.float64)
    for place, answer in enumerate(answers):
        row = (place // size * ranks + group.rank) * size + place % size
        old, ids = answer.old_log_probs, answer.token_ids
        facts = [answer.problem, int(answer.truncated), int(old is not None), len(ids)]
        whole[row, : 4 + len(ids)] = torch.tensor([*facts, *ids])
        values = [answer.advantage, *(old or [])]
        real[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
    gathered = []
    for ints, reals in zip(group.sum_(whole).tolist(), group.sum_(real).tolist(), strict=True):
        problem, truncated, scored, count = ints[:4]
        old = reals[1 : 1 + count] if scored else None
        gathered.append(Answer(problem, ints[4 : 4 + count], bool(truncated), reals[0], old))
    return gathered
