"""Runs a recipe: builds its parts and trains."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from glassbox.adapters.attach import attach, train_only
from glassbox.adapters.base import BaseModel, adapters_of
from glassbox.core.config import as_yaml
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.mesh import check_ranks
from glassbox.core.metrics import JsonlSink, truncate_metrics
from glassbox.core.runs import RunFolder, stamp
from glassbox.core.seeding import derive_seed, seed_everything
from glassbox.core.sinks import TrackerSink
from glassbox.formats.checkpoints import checkpoint_step, list_checkpoints
from glassbox.inference.chat import end_of_turn_ids
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.setup import Setup
from glassbox.runs.stages.base import StageRecipe
from glassbox.training.loop import Trainer
from glassbox.training.protocols import TrainsAlong


def run_recipe(
    recipe: StageRecipe, *, group: Group | None = None, fresh: bool = False, profile: int = 0
) -> dict[str, Any]:
    """Run a recipe in its run folder and return the run's summary.

    All that the recipe names is opened and checked before anything is written, and a start that fails
    leaves nothing behind. A finished folder is left as it is; an interrupted one goes on from its
    last checkpoint; one whose run has begun by another recipe is refused, unless `fresh` moves it
    aside. What `recipe.harmless` allows may change: that is written into metrics.jsonl as an event
    `changed`, and a finished run goes on where it is to have more steps.
    With `profile`, that many steps are profiled into the folder `profile` of the run. The summary's
    `status` is finished, already finished or interrupted.
    """
    group = group or Group()
    changed: dict[str, tuple[Any, Any]] = {}
    run = RunFolder(recipe.out)
    setup = Setup(recipe, group=group)
    if group.is_main:
        if not fresh:
            changed = run.compare(recipe, harmless=recipe.harmless)
        for tracker in recipe.logging:
            tracker.check()
        if fresh or not run.has_begun:
            setup.restart()
            recipe.check(setup)
            check_layout(recipe, group.world_size)
            check_metrics(recipe)
        if fresh and (old := run.set_aside()) is not None:
            print(f"  the run that was there is now in '{old}'", file=sys.stderr)
    with run if group.is_main else contextlib.nullcontext():
        if group.is_main and changed:
            _record_changes(run, changed)
        group.barrier()
        if run.summary is not None:
            return {**run.summary, "status": "already finished"}
        trainer = None
        try:
            if group.is_main:
                run.begin(recipe, preparation=_preparation(recipe), harmless=recipe.harmless)
                setup.record()
            group.barrier()
            if not group.is_main:
                setup = Setup(recipe, group=group)
            trainer = build_trainer(recipe, setup, profile=profile if group.is_main else 0)
            result = trainer.run()
        except UserError:
            untouched = trainer is None or trainer.state.step == 0
            if group.is_main and untouched and not run.has_begun:
                run.withdraw()
            raise
        if result.interrupted:
            return {**result.summary, "status": "interrupted"}
        summary = {**result.summary, "checkpoint": result.checkpoint.name, "status": "finished"}
        if group.is_main:
            run.finish(summary)
        return summary


def check_recipe(recipe: StageRecipe) -> list[str]:
    """Check a recipe as `run_recipe` does before it writes anything; lines that say what was found."""
    run = RunFolder(recipe.out)
    changed = run.compare(recipe, harmless=recipe.harmless)
    setup = Setup(recipe)
    if not run.has_begun:
        setup.restart()
    for tracker in recipe.logging:
        tracker.check()
    recipe.check_shape()
    recipe.check(setup)
    check_metrics(recipe)
    if not run.has_begun:
        return []
    return [f"'{recipe.out}' holds this run, to be gone on with", *map(_said, changed.items())]


def _record_changes(run: RunFolder, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Write the changes of a run that goes on into its metrics, and take DONE.json away for more steps."""
    checkpoints = list_checkpoints(run.checkpoints)
    step = checkpoint_step(checkpoints[-1]) if checkpoints else 0
    truncate_metrics(run.metrics, step)
    sink = JsonlSink(run.metrics)
    values = {key: list(pair) for key, pair in changed.items()}
    sink.log({"step": step, "event": "changed", "changes": values})
    sink.close()
    if {"train.steps", "train.epochs"} & set(changed):
        run.done.unlink(missing_ok=True)
    for line in map(_said, changed.items()):
        print(f"  {line}", file=sys.stderr)


def _said(change: tuple[str, tuple[Any, Any]]) -> str:
    key, (old, new) = change
    return f"changed: {key}: {as_yaml(old)} -> {as_yaml(new)}"


def check_layout(recipe: StageRecipe, ranks: int) -> None:
    """Raise UserError unless the recipe's `parallel` fits the ranks and the model."""
    parallel = recipe.parallel
    if parallel is None:
        return
    check_ranks(ranks, shard=parallel.fsdp, tensor=parallel.tensor)
    if parallel.tensor > 1:
        from glassbox.runs.plan import model_of
        from glassbox.training.parallel.tensor import check_divisible

        check_divisible(model_of(recipe), parallel.tensor)
        if recipe.adapter is not None:
            raise UserError(
                f"parallel.tensor = {parallel.tensor} divides no adapters; use parallel.fsdp"
            )


def check_metrics(recipe: StageRecipe) -> None:
    """Raise UserError unless every user-defined metric can be loaded and called."""
    for metric in recipe.evaluation.metrics:
        metric.check()
    if recipe.evaluation.tasks is not None:
        recipe.evaluation.tasks.check()


def _preparation(recipe: StageRecipe) -> dict[str, Any]:
    """What the tokenizer, the shards and the held-out split of a run depend on."""
    outside = {
        "out",
        "train",
        "optim",
        "adapter",
        "device",
        "telemetry",
        "logging",
        "alarms",
        "parallel",
    }
    files = [one for one in recipe.sources if isinstance(one, str)]
    code = {str(one): one.digest() for one in recipe.sources if not isinstance(one, str)}
    made_of = {**recipe.model_dump(mode="json", exclude=outside), "files": stamp(files)}
    return {**made_of, "code": code} if code else made_of


def build_trainer(recipe: StageRecipe, setup: Setup, *, profile: int = 0) -> Trainer:
    """The loop with all that the recipe asks for, ready to run."""
    setup.arrange()
    seed_everything(derive_seed(recipe.seed, "init"))
    stage = recipe.build(setup)
    if setup.group.is_main:
        setup.record()
    choose_trained(recipe, stage.model, setup)
    stage.model.to(setup.device)
    along = stage.objective.companions if isinstance(stage.objective, TrainsAlong) else {}
    for companion in along.values():
        companion.to(setup.device)
    setup.layout.apply(stage.model)
    with setup.layout.local(stage.model):
        optimizer = recipe.build_optimizer(stage.model, along)
    return Trainer(
        stage.model,
        stage.objective,
        stage.source,
        setup.layout.optimizer(optimizer, stage.model),
        recipe.train,
        folder=setup.folder,
        tokenizer=stage.tokenizer,
        layout=setup.layout,
        hooks=[
            *stage.hooks,
            *setup.metric_hooks(stage.tokenizer),
            *setup.task_hooks(stage.tokenizer),
        ],
        stop_token_ids=end_of_turn_ids(stage.tokenizer) if stage.chats else (),
        seed=recipe.seed,
        label=recipe.stage,
        telemetry=recipe.telemetry,
        alarms=recipe.alarms,
        sinks=_sinks(recipe, setup),
        profile=profile,
    )


def _sinks(recipe: StageRecipe, setup: Setup) -> list[TrackerSink]:
    """The trackers of the recipe, on the rank that writes; they open at their first record."""
    if not setup.group.is_main:
        return []
    settings = recipe.model_dump(mode="json")
    return [tracker.build(setup.folder, settings) for tracker in recipe.logging]


def choose_trained(recipe: StageRecipe, model: CausalLM, setup: Setup) -> None:
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
    base = BaseModel(init, setup.path_of(init).resolve().as_posix())
    attach(model, recipe.adapter, base=base, seed=derive_seed(recipe.seed, "adapter"))
    model.train()
