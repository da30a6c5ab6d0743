"""One recipe, one run: each stage is an objective and a source, handed to the one loop."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassbox.adapters.attach import attach, train_only
from glassbox.adapters.base import BaseModel, adapters_of
from glassbox.core.devices import resolve_device
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.core.runs import RunFolder
from glassbox.core.seeding import derive_seed, seed_everything
from glassbox.data.conversations import read_chats, write_chat_shard
from glassbox.data.loader import PackedRows, PackedSource
from glassbox.data.mixture import MixedRows, MixedSource
from glassbox.data.prefetch import prefetched
from glassbox.data.shards import Shard, read_shard
from glassbox.evaluation.hooks import LossHook, SampleHook
from glassbox.formats.open_model import find_model, open_model
from glassbox.inference import end_of_turn_ids
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.distill_stage import distill_parts
from glassbox.runs.policy_stages import PolicyRecipe, policy_parts
from glassbox.runs.preference_stages import Parts, preference_parts, reward_parts
from glassbox.runs.recipe import (
    DistillRecipe,
    DpoRecipe,
    GrpoRecipe,
    PpoRecipe,
    PreferenceRecipe,
    PretrainRecipe,
    RewardRecipe,
    RlooRecipe,
    SftRecipe,
    StageRecipe,
)
from glassbox.runs.shards import (
    heldout_documents,
    prepare_shard,
    prepare_tokenizer,
    training_documents,
)
from glassbox.tokenizers import Tokenizer
from glassbox.training.loop import Trainer, TrainResult
from glassbox.training.next_token import NextToken
from glassbox.training.protocols import BatchSource, Hook, Objective, TrainsAlong
from glassbox.tuning.neftune import Neftune


@dataclass
class Stage:
    """What a recipe becomes before the loop runs."""

    model: CausalLM
    tokenizer: Tokenizer
    objective: Objective[Any]
    source: BatchSource[Any]
    hooks: Sequence[Hook] = ()
    chats: bool = True


def run_recipe(recipe: StageRecipe, *, group: Group | None = None) -> dict[str, Any]:
    """Carry out a recipe in its run folder and return the run's summary.

    A finished folder is left as it is; an interrupted one goes on from its last checkpoint; one of
    another recipe is refused. The summary's `status` is finished, already finished or interrupted.
    """
    group = group or Group()
    run = RunFolder(recipe.out)
    with run if group.is_main else contextlib.nullcontext():
        group.barrier()
        if run.summary is not None:
            if group.is_main:
                run.begin(recipe)
            return {**run.summary, "status": "already finished"}
        if group.is_main:
            run.begin(recipe)
        result = _train(recipe, run, group)
        if result.interrupted:
            return {**result.summary, "status": "interrupted"}
        summary = {**result.summary, "checkpoint": result.checkpoint.name, "status": "finished"}
        if group.is_main:
            run.finish(summary)
        return summary


def _train(recipe: StageRecipe, run: RunFolder, group: Group) -> TrainResult:
    device = resolve_device(recipe.device, local_rank=group.local_rank)
    seed_everything(derive_seed(recipe.seed, "init"))
    stage = BUILDERS[type(recipe)](recipe, run.path, group)
    choose_trained(recipe, stage.model)
    stage.model.to(device)
    along = stage.objective.companions if isinstance(stage.objective, TrainsAlong) else {}
    for companion in along.values():
        companion.to(device)
    optimizer = recipe.optim.build(stage.model, along)
    trainer = Trainer(
        stage.model,
        stage.objective,
        stage.source,
        optimizer,
        recipe.train,
        folder=run.path,
        tokenizer=stage.tokenizer,
        group=group,
        hooks=stage.hooks,
        stop_token_ids=end_of_turn_ids(stage.tokenizer) if stage.chats else (),
        seed=recipe.seed,
        label=type(recipe).__name__.removesuffix("Recipe").lower(),
    )
    return trainer.run()


def choose_trained(recipe: StageRecipe, model: CausalLM) -> None:
    """Attach the recipe's adapter, or freeze what `train.only` does not name."""
    init = getattr(recipe, "init", None)
    if adapters_of(model) is not None:
        raise UserError(
            f"init = '{init}' is an adapter beside its base; make one model of them first: "
            f"glassbox convert {init} FOLDER"
        )
    if recipe.adapter is None:
        if recipe.train.only:
            train_only(model, recipe.train.only)
        return
    if init is None:
        raise UserError("adapter: there is no base to adapt; name one as init")
    if recipe.train.only:
        raise UserError(
            "adapter and train.only are both given; name more parameters in adapter.also"
        )
    base = BaseModel(init, find_model(init).resolve().as_posix())
    attach(model, recipe.adapter, base=base, seed=derive_seed(recipe.seed, "adapter"))
    model.train()


def main_rank_first(group: Group, prepare: Callable[[], None]) -> None:
    """Let rank 0 make the files that all ranks then read."""
    if group.is_main:
        prepare()
    group.barrier()


def build_pretrain(recipe: PretrainRecipe, folder: Path, group: Group) -> Stage:
    """Tokenizer, shards, model and hooks of a pre-training run."""
    data, config = recipe.data, recipe.tokenizer
    if recipe.init is not None:
        model, tokenizer, _ = open_model(recipe.init)
    else:
        main_rank_first(group, lambda: _discard(prepare_tokenizer(config, data, folder)))
        tokenizer = prepare_tokenizer(config, data, folder)
        model = CausalLM(recipe.model.config(tokenizer.vocab_size))
    if data.row_length > model.config.context_length:
        raise UserError(
            f"data.row_length = {data.row_length} is more than the model's context_length = "
            f"{model.config.context_length}; lower one or raise the other"
        )

    names = {path: f"train-{n}" if data.sources else "train" for n, path in enumerate(data.paths)}

    def train_shard(path: str) -> Shard:
        return prepare_shard(
            lambda: training_documents(data, path),
            tokenizer,
            folder / "data" / names[path],
            what="train",
            fim=data.fim,
            row_length=data.row_length,
            seed=derive_seed(recipe.seed, names[path]),
        )

    def heldout_shard() -> Shard:
        target = folder / "data" / "heldout"
        return prepare_shard(lambda: heldout_documents(data), tokenizer, target, what="heldout")

    main_rank_first(group, lambda: _discard([*map(train_shard, data.paths), heldout_shard()]))
    parts = [
        PackedRows(train_shard(path), data.row_length, strategy=data.packing, stride=data.stride)
        for path in data.paths
    ]
    source: PackedSource
    options: dict[str, Any] = {
        "rows_per_step": data.rows_per_step,
        "rows_per_batch": data.rows_per_batch,
        "seed": recipe.seed,
        "group": group,
    }
    if data.sources:
        weights = [source.weight for source in data.sources]
        source = MixedSource(MixedRows(parts), weights, **options)
    else:
        source = PackedSource(parts[0], **options)
    if group.is_main:
        _describe_rows(parts, model, folder)
    hooks = _hooks(recipe, tokenizer, heldout_shard())
    ahead = prefetched(source, data.workers)
    return Stage(model, tokenizer, NextToken(), ahead, hooks, chats=False)


def build_sft(recipe: SftRecipe, folder: Path, group: Group) -> Stage:
    """Masked shards of conversations, and the same objective as pre-training."""
    model, tokenizer, _ = open_model(recipe.init)
    data = recipe.data

    def write(name: str, path: str) -> None:
        target = folder / "data" / name
        if not target.with_name(name + ".json").exists():
            chats = read_chats(path)
            report = write_chat_shard(target, chats, tokenizer, row_length=data.row_length)
            if chats.skipped:
                print(f"  {chats.describe('conversations')}", file=sys.stderr)
            _note_lost(report.shortened, report.skipped, "conversations", data.row_length)

    def prepare() -> None:
        write("train", data.path)
        if data.heldout_path is not None:
            write("heldout", data.heldout_path)

    main_rank_first(group, prepare)
    shard = read_shard(folder / "data" / "train", fingerprint=tokenizer.fingerprint)
    rows = PackedRows(shard, data.row_length, strategy=data.packing)
    if group.is_main:
        _describe_rows([rows], model, folder)
    source = PackedSource(
        rows,
        rows_per_step=data.rows_per_step,
        rows_per_batch=data.rows_per_batch,
        seed=recipe.seed,
        group=group,
    )
    heldout = None
    if data.heldout_path is not None:
        heldout = read_shard(folder / "data" / "heldout", fingerprint=tokenizer.fingerprint)
    alpha = recipe.neftune_alpha
    objective = NextToken() if alpha is None else Neftune(NextToken(), alpha)
    ahead = prefetched(source, data.workers)
    return Stage(model, tokenizer, objective, ahead, _hooks(recipe, tokenizer, heldout))


def build_preference(recipe: PreferenceRecipe | DpoRecipe, folder: Path, group: Group) -> Stage:
    """Pairs or single answers, and a loss on them."""
    return _stage(recipe, preference_parts(recipe, group))


def build_reward(recipe: RewardRecipe, folder: Path, group: Group) -> Stage:
    """Pairs or judged solutions, and a scalar head that learns from them."""
    return _stage(recipe, reward_parts(recipe, group))


def _stage(recipe: DpoRecipe | PreferenceRecipe | RewardRecipe, parts: Parts) -> Stage:
    report = parts.report
    _note_lost(report.shortened, report.skipped, "rows", recipe.data.max_length)
    if report.useless:
        print(
            f"  {report.useless:,} rows were left out; the first is {report.example}",
            file=sys.stderr,
        )
    hooks = _hooks(recipe, parts.tokenizer, None)
    return Stage(parts.model, parts.tokenizer, parts.objective, parts.source, hooks)


def build_policy(recipe: PolicyRecipe, folder: Path, group: Group) -> Stage:
    """Rollouts through the inference engine, graded by rule or by a reward model."""
    parts = policy_parts(recipe, group)
    _note_lost(0, parts.source.num_skipped, "problems", parts.model.config.context_length)
    hooks = _hooks(recipe, parts.tokenizer, None)
    return Stage(parts.model, parts.tokenizer, parts.objective, parts.source, hooks)


def build_distill(recipe: DistillRecipe, folder: Path, group: Group) -> Stage:
    """A teacher's distributions, hidden states or answers."""
    parts = distill_parts(recipe, folder, group)
    hooks = _hooks(recipe, parts.tokenizer, None)
    return Stage(parts.model, parts.tokenizer, parts.objective, parts.source, hooks)


BUILDERS: dict[type[StageRecipe], Callable[[Any, Path, Group], Stage]] = {
    PretrainRecipe: build_pretrain,
    SftRecipe: build_sft,
    DpoRecipe: build_preference,
    PreferenceRecipe: build_preference,
    RewardRecipe: build_reward,
    GrpoRecipe: build_policy,
    RlooRecipe: build_policy,
    PpoRecipe: build_policy,
    DistillRecipe: build_distill,
}


def _hooks(recipe: StageRecipe, tokenizer: Tokenizer, heldout: Any) -> list[Hook]:
    config = recipe.evaluation
    hooks: list[Hook] = []
    if heldout is not None and config.every:
        hooks.append(LossHook(heldout, every=config.every, documents=config.documents))
    if config.prompts and config.sample_every:
        hooks.append(
            SampleHook(
                tokenizer,
                config.prompts,
                every=config.sample_every,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=recipe.seed,
            )
        )
    return hooks


def _describe_rows(parts: Sequence[PackedRows], model: CausalLM, folder: Path) -> None:
    num_rows, row_length = sum(map(len, parts)), parts[0].row_length
    facts: dict[str, Any] = {
        "documents": sum(part.shard.num_documents for part in parts),
        "tokens": sum(part.shard.num_tokens for part in parts),
        "rows": num_rows,
        "row_length": row_length,
        "fill_rate": sum(part.num_pairs for part in parts) / (num_rows * row_length),
        "parameters": model.num_parameters,
    }
    fims = [part.shard.info["fim"] for part in parts if "fim" in part.shard.info]
    if fims:
        facts["fim"] = {key: sum(fim[key] for fim in fims) for key in fims[0]}
    write_json(folder / "data.json", facts)
    print(
        f"  {facts['documents']:,} documents, {facts['tokens']:,} tokens in {num_rows:,} rows of "
        f"{row_length} ({100 * facts['fill_rate']:.1f}% full); {model.num_parameters:,} parameters",
        file=sys.stderr,
    )
    if fims:
        fim = facts["fim"]
        print(
            f"  {fim['rearranged']:,} of {fim['stretches']:,} stretches of text "
            f"({100 * fim['rearranged'] / max(1, fim['stretches']):.1f}%) are rearranged to fill in "
            f"the middle, each whole in one row; {fim['unfit']:,} did not fit one",
            file=sys.stderr,
        )


def _note_lost(shortened: int, skipped: int, what: str, room: int) -> None:
    if shortened or skipped:
        print(
            f"  of the {what}, {shortened} lost their first turns and {skipped} were left out "
            f"to fit into {room} tokens",
            file=sys.stderr,
        )


def _discard(_: object) -> None:
    """Rank 0 makes the files here only for their sake; every rank reads them after."""
