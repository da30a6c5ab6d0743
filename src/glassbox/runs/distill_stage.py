"""What a distillation recipe becomes: a student, a teacher, and data that both read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from glassbox.core.devices import resolve_device
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.files import write_text
from glassbox.core.seeding import derive_seed
from glassbox.data.conversations import read_chats, write_chat_shard
from glassbox.data.loader import PackedRows, PackedSource
from glassbox.data.shards import read_shard
from glassbox.formats.open_model import open_model
from glassbox.inference import Engine, SamplingParams, end_of_turn_ids
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.recipe import DistillRecipe, TextData
from glassbox.runs.shards import prepare_shard, training_documents
from glassbox.tokenizers import Tokenizer
from glassbox.training.next_token import NextToken
from glassbox.training.protocols import BatchSource, Objective
from glassbox.tuning.distillation.objective import Distill, same_vocabulary
from glassbox.tuning.distillation.teacher_cache import CachedSource, TeacherCache
from glassbox.tuning.grading.graders import read_problems
from glassbox.tuning.policy.rollouts import StudentSource


class DistillParts(NamedTuple):
    """A stage's parts."""

    model: CausalLM
    tokenizer: Tokenizer
    objective: Objective[Any]
    source: BatchSource[Any]


def distill_parts(recipe: DistillRecipe, folder: Path, group: Group) -> DistillParts:
    """The student, its teacher's objective, and the source; the teacher may read no other vocabulary.

    Where the teacher only writes text (mode sequence) it may have any tokenizer.
    """
    device = resolve_device(recipe.device, local_rank=group.local_rank)
    config, data = recipe.distill, recipe.data
    teacher, theirs, _ = open_model(recipe.teacher)
    teacher.to(device)
    if recipe.init is not None:
        model, tokenizer, _ = open_model(recipe.init)
    else:
        assert recipe.model is not None
        model, tokenizer = CausalLM(recipe.model.config(theirs.vocab_size)), theirs
    model.to(device)
    rows_options: dict[str, Any] = {
        "rows_per_step": data.rows_per_step,
        "rows_per_batch": data.rows_per_batch,
        "seed": recipe.seed,
        "group": group,
    }
    if config.mode == "sequence":
        answers = folder / "data" / "teacher.jsonl"
        if group.is_main and not answers.exists():
            _write_answers(recipe, Engine(teacher, theirs), theirs, answers)
        group.barrier()
        rows = _rows(recipe, folder, tokenizer, group, str(answers), "chats")
        return DistillParts(model, tokenizer, NextToken(), PackedSource(rows, **rows_options))
    same_vocabulary(tokenizer, theirs)
    sizes = {"vocab_size": tokenizer.vocab_size, "hidden_size": model.config.hidden_size}
    source: BatchSource[Any]
    if config.mode == "on_policy":
        source = StudentSource(
            Engine(model, tokenizer),
            read_problems(data.path),
            lambda completion, problem: 0.0,
            recipe.rollout,
            seed=recipe.seed,
            group=group,
            precision=recipe.train.precision,
        )
        return DistillParts(model, tokenizer, Distill(config, teacher, **sizes), source)
    for which, one in (("student", model), ("teacher", teacher)):
        if data.row_length > one.config.context_length:
            raise UserError(
                f"data.row_length = {data.row_length} is more than the {which}'s context_length = "
                f"{one.config.context_length}; make it smaller"
            )
    rows = _rows(recipe, folder, tokenizer, group, data.path, data.form)
    if not config.top_k:
        source = PackedSource(rows, **rows_options)
        return DistillParts(model, tokenizer, Distill(config, teacher, **sizes), source)

    def cache() -> TeacherCache:
        return TeacherCache.make(
            folder / "teacher",
            teacher,
            rows,
            k=config.top_k,
            temperature=config.temperature,
            vocab_size=tokenizer.vocab_size,
            name=recipe.teacher,
            precision=recipe.train.precision,
        )

    if group.is_main:
        cache()
    group.barrier()
    source = CachedSource(rows, cache(), **rows_options)
    return DistillParts(model, tokenizer, Distill(config, None, **sizes), source)


def _rows(
    recipe: DistillRecipe, folder: Path, tokenizer: Tokenizer, group: Group, path: str, form: str
) -> PackedRows:
    target = folder / "data" / "train"
    row_length = recipe.data.row_length
    if group.is_main and form == "chats" and not target.with_name("train.json").exists():
        write_chat_shard(target, read_chats(path), tokenizer, row_length=row_length)
    if group.is_main and form == "text":
        text = TextData(path=path)
        prepare_shard(lambda: training_documents(text, path), tokenizer, target, what="train")
    group.barrier()
    return PackedRows(read_shard(target, fingerprint=tokenizer.fingerprint), row_length)


def _write_answers(recipe: DistillRecipe, engine: Engine, tokenizer: Tokenizer, path: Path) -> None:
    """The teacher's answers to every problem, as chats; those that never end are left out."""
    rollout = recipe.rollout
    problems = read_problems(recipe.data.path)
    stop = tuple(end_of_turn_ids(tokenizer))
    params = [
        SamplingParams(
            max_tokens=rollout.max_tokens,
            temperature=rollout.temperature,
            n=rollout.group_size,
            seed=derive_seed(recipe.seed, "teacher", number),
            stop_token_ids=stop,
        )
        for number in range(len(problems))
    ]
    prompts = [tokenizer.encode_chat_prompt(problem["prompt"]) for problem in problems]
    lines = []
    for completion in engine.generate(prompts, params):
        if completion.finish_reason == "stop" and completion.text:
            prompt = problems[completion.prompt_index]["prompt"]
            said = {"role": "assistant", "content": completion.text}
            lines.append(json.dumps({"messages": [*prompt, said]}, ensure_ascii=False))
    if not lines:
        raise UserError(
            f"the teacher '{recipe.teacher}' finished none of its answers within max_tokens = "
            f"{rollout.max_tokens}; raise rollout.max_tokens"
        )
    write_text(path, "\n".join(lines) + "\n")
