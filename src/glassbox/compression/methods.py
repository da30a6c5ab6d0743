"""A whole model compressed by one method: round to nearest, GPTQ, AWQ, magnitude, Wanda."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch

from glassbox.compression.awq import awq
from glassbox.compression.calibration import Calibration, Seen, block_by_block
from glassbox.compression.gptq import DAMPING, gptq
from glassbox.compression.integers import IntegerCodes
from glassbox.compression.pruning import (
    magnitude_scores,
    mask_n_of_m,
    mask_of_rows,
    wanda_scores,
)
from glassbox.compression.swap import EMBEDDING, HEAD, Plan, quantizable, replace, swap_in
from glassbox.core.errors import UserError
from glassbox.layers.linear import Linear
from glassbox.layers.quantized_linear import QuantizedLinear
from glassbox.models.causal_lm import CausalLM

Method = Literal["rtn", "gptq", "awq"]
PruneMethod = Literal["magnitude", "wanda"]
METHODS: tuple[str, ...] = get_args(Method)
PRUNE_METHODS: tuple[str, ...] = get_args(PruneMethod)
Progress = Callable[[int, int], None]


@torch.no_grad()
def compress(
    model: CausalLM,
    plan: Plan,
    method: Method = "rtn",
    *,
    calibration: Calibration | None = None,
    act_order: bool = True,
    damping: float = DAMPING,
    progress: Progress | None = None,
) -> CausalLM:
    """Write a model's matrices down in the plan's codes, in place, by a method. Returns the model.

    rtn: round to nearest. gptq, awq: by what the layers see of the calibration text; layers in codes other
    than integers, the embedding, and layers that saw nothing are rounded to nearest. Raises UserError where
    a method that needs text has none.
    """
    made: dict[str, object] = {"method": method}
    if method not in METHODS:
        raise UserError(f"method = {method!r} is unknown; use one of {', '.join(METHODS)}")
    if method != "rtn":
        if calibration is None:
            raise UserError(f"method = {method!r} needs calibration text; give --calibration FILE")
        made["calibration"] = calibration.describe()
        if method == "gptq":
            made |= {"act_order": act_order, "damping": damping}

        def change(path: str, layer: Linear, seen: Seen) -> None:
            codes = plan.layers[path]
            assert isinstance(codes, IntegerCodes)
            new = QuantizedLinear.empty(layer, codes)
            if method == "gptq":
                new.set_parts(
                    gptq(layer.weight, seen.moments, codes, act_order=act_order, damping=damping)
                )
            else:
                found = awq(layer.weight, seen.moments, seen.mean_magnitudes, codes)
                new.set_parts(found.parts)
                new.scale_inputs(found.input_scales)
            replace(model, path, new)

        def wanted(path: str) -> bool:
            return isinstance(plan.layers.get(path), IntegerCodes)

        block_by_block(model, calibration, change, wanted=wanted, progress=progress)
    left = quantizable(model)
    rest = {path: codes for path, codes in plan.layers.items() if path in left}
    swap_in(model, Plan(rest))
    vars(model)["made"] = made
    return model


@torch.no_grad()
def prune(
    model: CausalLM,
    sparsity: float | Literal["2:4"],
    method: PruneMethod = "magnitude",
    *,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
) -> CausalLM:
    """Set weights of the blocks' linear layers to zero, in place. Returns the model.

    sparsity: the share of each row, or "2:4", two of every four neighbours. Embedding and head stay whole,
    and routers, as in the methods' papers. Raises UserError as `mask_of_rows` and `mask_n_of_m` do.
    """
    if method not in PRUNE_METHODS:
        raise UserError(f"method = {method!r} is unknown; use one of {', '.join(PRUNE_METHODS)}")

    def mask(scores: torch.Tensor) -> torch.Tensor:
        if isinstance(sparsity, str):
            if sparsity != "2:4":
                raise UserError(f"sparsity = {sparsity!r}: give a share, or 2:4")
            return mask_n_of_m(scores)
        return mask_of_rows(scores, sparsity)

    chosen = {path for path in quantizable(model) if path not in (EMBEDDING, HEAD)}
    if method == "magnitude":
        for path in sorted(chosen):
            layer = model.get_submodule(path)
            assert isinstance(layer, Linear)
            layer.weight.mul_(mask(magnitude_scores(layer.weight)))
        return model
    if calibration is None:
        raise UserError(f"method = {method!r} needs calibration text; give --calibration FILE")

    def change(path: str, layer: Linear, seen: Seen) -> None:
        layer.weight.mul_(mask(wanda_scores(layer.weight, seen.moments.diagonal())))

    block_by_block(model, calibration, change, wanted=chosen.__contains__, progress=progress)
    return model
