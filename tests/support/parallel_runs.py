"""Tiny runs in every layout of two ranks, started by torchrun: FOLDER. The same runs on one rank: `train`."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from glassbox.core.distributed import Group, process_group
from glassbox.data.loader import PackedSource
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.averaging import WeightAverageConfig
from glassbox.optim.clipping import AdaptiveClip, ParameterClip
from glassbox.optim.lion import LionConfig
from glassbox.optim.muon import MuonConfig
from glassbox.optim.schedules.warmup_cosine import WarmupCosine
from glassbox.runs.train import run_recipe
from glassbox.training.config import TrainConfig
from glassbox.training.loop import Trainer
from glassbox.training.next_token import NextToken
from glassbox.training.parallel.config import ParallelConfig
from glassbox.training.parallel.layout import Layout
from glassbox.training.telemetry.config import TelemetryConfig
from support.stages import TRAIN, make_home, recipe
from support.tiny_run import NoisyHook, tiny_rows

STEPS = 4

VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "muon": {"optim": MuonConfig(), "lr": 0.02},
    "experts": {"experts": True, "clip": ParameterClip(max_norm=0.1), "wide": True},
    "lion": {"optim": LionConfig(), "lr": 1e-3, "clip": AdaptiveClip(quantile=0.5), "dropout": 0.0},
}

LAYOUTS: dict[str, ParallelConfig] = {
    "ddp": ParallelConfig(bucket_mb=0.01),
    "zero1": ParallelConfig(data="zero1", checkpoint="selective"),
    "fsdp": ParallelConfig(fsdp=2, checkpoint="full"),
    "tensor": ParallelConfig(tensor=2, checkpoint="selective"),
}


RESUMED = (
    ("fsdp", "fsdp"),
    ("tensor", "tensor"),
    ("tensor", "fsdp"),
    ("zero1", "zero1"),
    ("fsdp", "ddp"),
    ("ddp", "fsdp"),
)


def config(*, experts: bool = False) -> ModelConfig:
    """Two layers; sizes that two ranks cannot divide evenly by rows."""
    mixer = GroupedQuery(
        num_heads=4, num_kv_heads=2, head_dim=4, positions=Rotary(), qk_norm=RmsNorm()
    )
    ffn: SwiGlu | MixtureOfExperts = SwiGlu(size=18)
    if experts:
        ffn = MixtureOfExperts(
            num_experts=5, top_k=2, expert=SwiGlu(size=6), balance_bias=True, z_loss=0.01
        )
    block = BlockSpec(mixer=mixer, ffn=ffn, norm=RmsNorm())
    return ModelConfig(
        vocab_size=33, hidden_size=14, context_length=16, blocks=(Repeat(block=block, times=2),),
        tie_embeddings=True,
    )  # fmt: skip


def trainer(
    folder: Path,
    variant: str,
    *,
    group: Group | None = None,
    parallel: ParallelConfig | None = None,
    steps: int = STEPS,
) -> Trainer:
    """A run of some steps on the rows of `tiny_rows`, two rows a micro-batch."""
    options = VARIANTS[variant]
    group, wide = group or Group(), options.get("wide", False)
    layout = Layout(group) if parallel is None else parallel.build(group, "cpu")
    torch.manual_seed(0)
    shape = config(experts=options.get("experts", False))
    model = CausalLM(shape).double() if wide else layout.create(shape)
    layout.apply(model)
    rows = tiny_rows(folder)
    train = TrainConfig(
        steps=steps,
        lr=options.get("lr", 1e-2),
        schedule=WarmupCosine(warmup_steps=1),
        precision="float32",
        compile=False,
        log_every=1,
        checkpoint_every=2,
        max_grad_norm=0.2,
        clip=options.get("clip"),
        ema=WeightAverageConfig(decay=0.5),
    )
    with layout.local(model):
        optimizer = options.get("optim", AdamWConfig()).build(model)
    return Trainer(
        model,
        NextToken(),
        PackedSource(rows, rows_per_step=8, rows_per_batch=2, seed=0, group=layout.data),
        layout.optimizer(optimizer, model),
        train,
        folder=folder,
        layout=layout,
        hooks=[NoisyHook(rows.batch(range(8)), 2)],
        telemetry=TelemetryConfig(every=2),
    )


def main(folder: Path) -> None:
    """Every variant in every layout, each again from its middle; what is held is written down."""
    torch.set_num_threads(1)
    with process_group("cpu") as group:
        held = {}
        for variant in VARIANTS:
            for name, parallel in LAYOUTS.items():
                if name not in layouts_of(variant):
                    continue
                run = folder / f"{variant}-{name}"
                if group.is_main:
                    run.mkdir(parents=True, exist_ok=True)
                    tiny_rows(run)
                group.barrier()
                one = trainer(run, variant, group=group, parallel=parallel)
                one.run()
                held[run.name] = sum(t.numel() * t.element_size() for t in moments(one.optimizer))
        for old, new in RESUMED:
            run = folder / f"adamw-{old}-then-{new}"
            if group.is_main:
                start(run, folder / f"adamw-{old}")
            group.barrier()
            trainer(run, "adamw", group=group, parallel=LAYOUTS[new]).run()
        if group.is_main:
            make_home(folder / "home")
        group.barrier()
        for name, parallel in RECIPES.items():
            run_recipe(pretraining(folder, name, parallel), group=group)
        for name in ("none", "zero1"):
            run_recipe(with_companion(folder, name), group=group)
        tables: list[Any] = [None] * group.world_size
        torch.distributed.all_gather_object(tables, held)
        if group.is_main:
            (folder / "held.json").write_text(json.dumps(tables))


RECIPES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "fsdp": {"fsdp": 2, "checkpoint": "full"},
    "tensor": {"tensor": 2},
}


def pretraining(folder: Path, name: str, parallel: dict[str, Any] | None) -> Any:
    """A recipe with held-out loss and samples, in a layout."""
    evaluation = {
        "every": 2, "documents": 8, "sample_every": 2, "prompts": ["the fox"], "max_tokens": 5,
        "temperature": 0,
    }  # fmt: skip
    return recipe(
        folder / "home",
        folder / f"recipe-{name}",
        "pretrain",
        train={**TRAIN, "checkpoint_every": 0},
        parallel=parallel,
        evaluation=evaluation,
    )


def with_companion(folder: Path, name: str) -> Any:
    """PPO, whose value model's weights have names that end as the model's do."""
    return recipe(
        folder / "home",
        folder / f"ppo-{name}",
        "ppo",
        train={**TRAIN, "steps": 2, "checkpoint_every": 0},
        parallel=None if name == "none" else {"data": "zero1"},
    )


def layouts_of(variant: str) -> list[str]:
    """All that can train a variant: experts are not divided over tensor ranks."""
    return [name for name in LAYOUTS if (variant, name) != ("experts", "tensor")]


def start(run: Path, old: Path) -> None:
    """A run that goes on from the middle of another."""
    name = "checkpoints/step-00000002"
    shutil.copytree(old / name, run / name)
    shutil.copytree(old / "data", run / "data")
    shutil.copy(old / "metrics.jsonl", run / "metrics.jsonl")


def moments(optimizer: Any) -> list[torch.Tensor]:
    """The tensors of an optimizer's state on this rank."""
    inner = getattr(optimizer, "inner", optimizer)
    return [t for t in copy.copy(inner).state_dict().values() if t.dim()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
