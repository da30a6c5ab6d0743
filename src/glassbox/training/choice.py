"""What `precision: auto` and `compile: auto` come to: by the processor, the model and the run's length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from glassbox.core.devices import Precision
from glassbox.core.distributed import Group
from glassbox.models.causal_lm import CausalLM
from glassbox.training.config import TrainConfig
from glassbox.training.protocols import Objective
from glassbox.training.step import in_one_graph

FLOPS_BEFORE = 1.5e11
"""FLOP/s of an ordinary step in float32 on two cores, about: the run's length is guessed from it."""
SAVED = 0.4
"""The share of a step's time that a compiled one saves on a processor with AMX, at least (bench/train.py)."""
COMPILING = (8.0, 4.0)
"""Seconds that the compiler takes, and more for each layer, on two cores."""
WORTH = 2.0
"""How many times the compiler's seconds must be won back."""


@dataclass(frozen=True)
class Choice:
    """A precision and whether to compile; `reason` says why, where it is not what always was."""

    precision: Precision
    compile: bool
    reason: str | None = None

    def config(self, config: TrainConfig) -> TrainConfig:
        """The settings with what was chosen in the place of `auto`."""
        return config.model_copy(update={"precision": self.precision, "compile": self.compile})


def choose(
    config: TrainConfig,
    model: CausalLM,
    objective: Objective[Any],
    *,
    tokens: int,
    group: Group,
) -> Choice:
    """The choice for a run of `tokens` tokens in all, on the machine at hand.

    Nothing but `auto` is changed. bfloat16 and compiled go together: on a CPU with AMX, with a
    compiler, for an objective and a model that are compiled in one graph, in one process, where the
    time won is `WORTH` times what the compiler takes. Everywhere else float32, not compiled.
    """
    stated = Choice(config.stated_precision, config.compile is True)
    if "auto" not in (config.precision, config.compile):
        return stated
    wanted = Choice(
        "bfloat16" if config.precision == "auto" else config.precision,
        config.compile is not False,
        "this processor multiplies bfloat16 (AMX) and the run is long",
    )
    if (
        not wanted.compile
        or wanted.precision != "bfloat16"
        or group.world_size > 1
        or model.device.type != "cpu"
        or not in_one_graph(model, objective, "bfloat16")
        or seconds_saved(model, tokens) < WORTH * seconds_to_compile(model)
        or not has_amx()
        or not has_compiler()
    ):
        return stated
    return wanted


def seconds_saved(model: CausalLM, tokens: int) -> float:
    """What compiled steps would save of a run, about."""
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    return SAVED * 6.0 * matrices * tokens / FLOPS_BEFORE


def seconds_to_compile(model: CausalLM) -> float:
    """What the compiler takes, about."""
    return COMPILING[0] + COMPILING[1] * model.config.num_layers


def has_amx() -> bool:
    """Whether the processor has matrix units for bfloat16."""
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(check is not None and check())


def has_compiler() -> bool:
    """Whether torch finds a C++ compiler."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        return bool(get_cpp_compiler())
    except Exception:  # whatever a machine without one makes of it: then there is none
        return False
