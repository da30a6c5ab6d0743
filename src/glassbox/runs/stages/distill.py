"""Distillation: a student learns a teacher's distributions, hidden states, or whole answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed
from glassbox.data.python_source import DataPath
from glassbox.models.shapes import Shape
from glassbox.runs.stages.base import (
    StageRecipe,
    check_on_meta,
    check_row_length,
    checked_config,
    evenly,
    options_of,
)
from glassbox.runs.stages.settings import HeldoutData
from glassbox.runs.stages.sft import chat_shards, check_chats, read_and_split, write_chats
from glassbox.tuning.distillation.objective import DistillConfig
from glassbox.tuning.policy.answers import RolloutConfig

if TYPE_CHECKING:
    from pathlib import Path

    from glassbox.models.causal_lm import CausalLM
    from glassbox.runs.setup import Setup, Stage
    from glassbox.tokenizers import Tokenizer


class DistillData(HeldoutData):
    """What teacher and student both read."""

    path: DataPath = Field(description="chats, text, or problems (prompts), as `form` says")
    form: Literal["chats", "text", "problems"] = Field(
        "chats", description="chats, text: for mode logits; problems: for on_policy and sequence"
    )
    row_length: int = Field(512, gt=1)
    rows_per_step: int = Field(8, gt=0)
    rows_per_batch: int | None = Field(None, gt=0)


class DistillRecipe(StageRecipe):
    """A student learns from a teacher: its distributions, its hidden states, or its answers."""

    stage: Literal["distill"] = "distill"
    teacher: str = Field(description="the teacher MODEL")
    init: str | None = Field(None, description="MODEL to start from; null: initialize `model`")
    model: Shape | None = Field(
        None, description="shape of a new student, which uses the teacher's tokenizer"
    )
    data: DistillData
    distill: DistillConfig = DistillConfig()
    rollout: RolloutConfig = Field(
        RolloutConfig(), description="how answers are sampled (on_policy, sequence)"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> DistillRecipe:
        if (self.init is None) == (self.model is None):
            raise ValueError("give one of init (a MODEL) and model (a shape of fresh weights)")
        logits = self.distill.mode == "logits"
        if logits == (self.data.form == "problems"):
            raise ValueError(
                f"data.form = '{self.data.form}' does not go with distill.mode = "
                f"'{self.distill.mode}'; logits takes chats or text, the others problems"
            )
        return self

    def check_shape(self) -> None:
        """The shape with a vocabulary of the usual size; the teacher's is known once it is open."""
        if self.model is not None:
            check_on_meta(self.model, 1024)

    def check(self, setup: Setup) -> None:
        """Teacher, student, and the data as the mode reads it."""
        teacher, theirs = setup.apart(self.teacher)
        if self.model is not None:
            context = check_on_meta(self.model, theirs.vocab_size).context_length
            tokenizer = theirs
        else:
            assert self.init is not None
            model, tokenizer = setup.model(self.init)
            context = model.config.context_length
        self.distill.check(tokenizer, theirs)
        if self.distill.mode != "on_policy":
            check_row_length(self.data.row_length, context, whose="student")
        if self.distill.mode == "logits":
            check_row_length(self.data.row_length, teacher.config.context_length, whose="teacher")
        if self.data.form == "chats":
            check_chats(self.data, self._chats(setup)[0], tokenizer)
        elif self.data.form == "problems":
            self._problems(setup)
        else:
            self._first_text(tokenizer)

    def _first_text(self, tokenizer: Tokenizer) -> None:
        from glassbox.data.text import find_corpus, read_documents

        for path in self.sources:
            first = next(iter(read_documents(find_corpus(path))), None)
            if first is None:
                raise UserError(f"'{path}' holds no text; give a file with at least one document")
            tokenizer.encode(first)

    def _chats(self, setup: Setup) -> Any:
        return setup.once("chats", lambda: read_and_split(setup, self.data, self.data.path))

    def _problems(self, setup: Setup) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Problems to learn on, and those held out."""
        return setup.once("problems", lambda: self._read_problems(setup))

    def _read_problems(self, setup: Setup) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        from glassbox.tuning.grading.graders import read_problems

        problems = read_problems(self.data.path)
        if not self.evaluates:
            return problems, []
        if self.data.heldout_path is not None:
            return problems, read_problems(self.data.heldout_path)
        split = setup.hold_out([one["prompt"] for one in problems], self.data.heldout_share)
        return [problems[n] for n in split.train], [problems[n] for n in split.heldout]

    def _student(self, setup: Setup) -> tuple[CausalLM, Tokenizer]:
        from glassbox.models.causal_lm import CausalLM

        if self.init is not None:
            return setup.model(self.init)
        assert self.model is not None
        theirs = setup.apart(self.teacher)[1]
        model = CausalLM(checked_config(self.model, theirs.vocab_size))
        return model.to(setup.device), theirs

    def build(self, setup: Setup) -> Stage:
        """The student, the objective with its teacher, and the source; the teacher may read no other vocabulary.

        Where the teacher only writes text (mode sequence) it may have any tokenizer.
        """
        model, tokenizer = self._student(setup)
        self.distill.check(tokenizer, setup.apart(self.teacher)[1])
        if self.distill.mode == "sequence":
            return self._sequence(setup, model, tokenizer)
        if self.distill.mode == "on_policy":
            return self._on_policy(setup, model, tokenizer)
        return self._logits(setup, model, tokenizer)

    def _sequence(self, setup: Setup, model: CausalLM, tokenizer: Tokenizer) -> Stage:
        """Fine-tuning on what the teacher answered."""
        from glassbox.data.conversations import read_chats
        from glassbox.data.loader import PackedRows, PackedSource
        from glassbox.runs.setup import Stage
        from glassbox.training.next_token import NextToken

        folder = setup.folder / "data"

        def answers(which: int, name: str) -> Any:
            path = folder / name
            if not path.exists():
                self._write_answers(setup, self._problems(setup)[which], path)
            return read_chats(path)

        def read() -> Any:
            held = answers(1, "teacher-heldout.jsonl") if self._problems(setup)[1] else []
            return answers(0, "teacher.jsonl"), held

        setup.main_first(lambda: write_chats(setup, self.data, read, tokenizer))
        train, hooks = chat_shards(setup, self.data, tokenizer)
        rows = PackedRows(train, self.data.row_length)
        source = PackedSource(rows, **options_of(self.data), seed=self.seed, group=setup.group)
        return Stage(
            model, tokenizer, NextToken(), source, [*hooks, *setup.sample_hooks(tokenizer)]
        )

    def _on_policy(self, setup: Setup, model: CausalLM, tokenizer: Tokenizer) -> Stage:
        """What the teacher says of the student's own answers."""
        from glassbox.evaluation.hooks import HeldoutHook
        from glassbox.inference import Engine
        from glassbox.runs.setup import Stage
        from glassbox.tuning.policy.rollouts import StudentSource

        teacher, _ = setup.apart(self.teacher)
        problems, heldout = self._problems(setup)
        engine = Engine(model, tokenizer)
        options: dict[str, Any] = {
            "seed": self.seed,
            "group": setup.group,
            "precision": self.train.stated_precision,
        }
        source = StudentSource(engine, problems, lambda text, problem: 0.0, self.rollout, **options)
        objective = self.distill.build(teacher, tokenizer, model)
        hooks = setup.sample_hooks(tokenizer)
        if heldout:
            chosen = [heldout[n] for n in evenly(len(heldout), self.evaluation.documents)]
            world = setup.group.world_size
            rollout = self.rollout.model_copy(
                update={"prompts_per_step": max(1, len(chosen) // world) * world, "group_size": 1,
                        "updates_per_rollout": 1, "minibatches": 1}
            )  # fmt: skip
            asked = StudentSource(engine, chosen, lambda text, problem: 0.0, rollout, **options)
            hook = HeldoutHook(
                objective,
                asked.first_rollout,
                every=self.evaluation.every,
                group=setup.group,
                precision=self.train.stated_precision,
            )
            hooks = [hook, *hooks]
        return Stage(model, tokenizer, objective, source, hooks)

    def _logits(self, setup: Setup, model: CausalLM, tokenizer: Tokenizer) -> Stage:
        """The teacher's distributions on the data, asked every time or kept on disk."""
        from glassbox.data.loader import PackedRows, PackedSource
        from glassbox.evaluation.hooks import HeldoutHook
        from glassbox.runs.setup import Stage
        from glassbox.tuning.distillation.teacher_cache import CachedSource

        self._write_shards(setup, tokenizer)
        teacher, _ = setup.apart(self.teacher)
        options: dict[str, Any] = {
            **options_of(self.data), "seed": self.seed, "group": setup.group,
        }  # fmt: skip

        def source_of(name: str) -> PackedSource:
            from glassbox.data.shards import read_shard

            shard = read_shard(
                setup.folder / "data" / name,
                fingerprint=tokenizer.fingerprint,
                verify=setup.group.is_main,
            )
            rows = PackedRows(shard, self.data.row_length)
            if not self.distill.top_k:
                return PackedSource(rows, **options)
            folder = setup.folder / ("teacher" if name == "train" else f"teacher-{name}")
            setup.main_first(lambda: self._cache(setup, folder, rows, tokenizer))
            return CachedSource(rows, self._cache(setup, folder, rows, tokenizer), **options)

        source = source_of("train")
        objective = self.distill.build(None if self.distill.top_k else teacher, tokenizer, model)
        hooks = setup.sample_hooks(tokenizer)
        if self.evaluates and (setup.folder / "data" / "heldout.json").exists():
            held = source_of("heldout")
            hook = HeldoutHook(
                objective,
                lambda: held.some_rows(evenly(len(held.rows), self.evaluation.documents)),
                every=self.evaluation.every,
                group=setup.group,
                precision=self.train.stated_precision,
            )
            hooks = [hook, *hooks]
        return Stage(model, tokenizer, objective, source, hooks)

    def _write_shards(self, setup: Setup, tokenizer: Tokenizer) -> None:
        """Chats or text as the shards `train` and, where anything is evaluated, `heldout`."""
        from glassbox.runs.shards import heldout_documents, prepare_shard, training_documents
        from glassbox.runs.stages.text import TextData

        if self.data.form == "chats":
            setup.main_first(
                lambda: write_chats(setup, self.data, lambda: self._chats(setup), tokenizer)
            )
            setup.forget("chats")
            return
        share = self.data.heldout_share or 0.05
        text = TextData(
            path=self.data.path, heldout_path=self.data.heldout_path, heldout_share=share
        )

        def write() -> None:
            folder = setup.folder / "data"
            prepare_shard(
                lambda: training_documents(text, self.data.path),
                tokenizer,
                folder / "train",
                what="train",
            )
            if self.evaluates and (self.data.heldout_share or self.data.heldout_path):
                prepare_shard(
                    lambda: heldout_documents(text), tokenizer, folder / "heldout", what="heldout"
                )

        setup.main_first(write)

    def _cache(self, setup: Setup, folder: Path, rows: Any, tokenizer: Tokenizer) -> Any:
        from glassbox.tuning.distillation.teacher_cache import TeacherCache

        return TeacherCache.make(
            folder,
            setup.apart(self.teacher)[0],
            rows,
            k=self.distill.top_k,
            temperature=self.distill.temperature,
            vocab_size=tokenizer.vocab_size,
            name=self.teacher,
            precision=self.train.stated_precision,
        )

    def _write_answers(self, setup: Setup, problems: list[dict[str, Any]], path: Path) -> None:
        """The teacher's answers to problems, as chats; those that never end are left out."""
        from glassbox.core.files import write_text
        from glassbox.inference import ChatPrompts, Engine, SamplingParams

        teacher, theirs = setup.apart(self.teacher)
        rollout, chats = self.rollout, ChatPrompts(theirs)
        common = chats.params(
            SamplingParams(
                max_tokens=rollout.max_tokens,
                temperature=rollout.temperature,
                n=rollout.group_size,
            )
        )
        params = [
            common.model_copy(update={"seed": derive_seed(self.seed, "teacher", number)})
            for number in range(len(problems))
        ]
        prompts = [chats.ids(problem["prompt"]) for problem in problems]
        lines = []
        for completion in Engine(teacher, theirs).generate(prompts, params):
            if completion.finish_reason == "stop" and completion.text:
                prompt = problems[completion.prompt_index]["prompt"]
                said = {"role": "assistant", "content": completion.text}
                lines.append(json.dumps({"messages": [*prompt, said]}, ensure_ascii=False))
        if not lines:
            raise UserError(
                f"the teacher '{self.teacher}' finished none of its answers within max_tokens = "
                f"{rollout.max_tokens}; raise rollout.max_tokens"
            )
        write_text(path, "\n".join(lines) + "\n")
