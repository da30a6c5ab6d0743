"""What a run will take, from its specs alone: parameters, FLOPs, memory by rank, time and price by layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils.flop_counter import FlopCounterMode

from glassbox.core.errors import UserError
from glassbox.core.tensor_memory import TensorMemory, tensor_bytes
from glassbox.data.loader import TokenBatch
from glassbox.layers.attention import GroupedQuery
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.runs.stages.base import StageRecipe, checked_config
from glassbox.training.next_token import NextToken
from glassbox.training.parallel.config import ParallelConfig
from glassbox.training.parallel.recompute import recompute_blocks
from glassbox.training.parallel.tensor import check_divisible


@dataclass(frozen=True)
class Device:
    """A device by its data sheet: bytes, dense FLOPs a second by precision, bytes a second to others."""

    name: str
    memory: float
    bfloat16: float
    float32: float
    link: float

    def rate(self, precision: str) -> float:
        """FLOPs a second."""
        return self.float32 if precision == "float32" else self.bfloat16


DEVICES = {
    device.name: device
    for device in (
        Device("h200", 141e9, 989e12, 67e12, 450e9),
        Device("h100", 80e9, 989e12, 67e12, 450e9),
        Device("a100", 80e9, 312e12, 19.5e12, 300e9),
        Device("l40s", 48e9, 362e12, 91.6e12, 32e9),
        Device("rtx4090", 24e9, 165e12, 82.6e12, 32e9),
    )
}
"""Memory, rates and links as their makers give them; link: one direction, of NVLink or PCIe."""


@dataclass(frozen=True)
class Cost:
    """One micro-batch and one update on one rank, in bytes and FLOPs.

    activations: what is alive at the peak of forward and backward pass beside weights, moments and the
    gradients that are there by then (`gradients_at_peak`). update: temporaries of the optimizer's step.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    gradients_at_peak: int
    update: int
    flops: float
    largest_block: int
    outside_blocks: int


@dataclass(frozen=True)
class Forecast:
    """A layout on so many devices: bytes a rank by kind, seconds and price of the run."""

    layout: str
    ranks: int
    fits: bool
    weights: int
    gradients: int
    moments: int
    activations: int
    peak: int
    step_seconds: float
    hours: float
    price: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """The whole forecast."""

    parameters: dict[str, int]
    tokens_per_step: int
    steps: int | None
    flops_per_token: float
    forecasts: list[Forecast]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def model_of(recipe: StageRecipe) -> ModelConfig:
    """The shape of what a recipe trains, with the vocabulary of its tokenizer.

    Raises UserError for a stage without `shards`.
    """
    if not recipe.shards:
        raise UserError(
            f"stage '{recipe.stage}' is neither planned nor verified; give a recipe of stage pretrain "
            "or sft"
        )
    shape = getattr(recipe, "model", None)
    if shape is None:
        from glassbox.formats.huggingface import load_config
        from glassbox.formats.open_model import find_model

        return load_config(find_model(recipe.init))  # type: ignore[attr-defined]
    tokenizer: Any = recipe.tokenizer  # type: ignore[attr-defined]
    if tokenizer.path is None:
        return checked_config(shape, tokenizer.vocab_size)
    from glassbox.tokenizers import Tokenizer

    return checked_config(shape, Tokenizer.load(tokenizer.path).vocab_size)


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Numbers of weights: embedding, mixers, feed-forwards, norms, output, other; tied ones once."""
    with torch.device("meta"):
        model = CausalLM(config)
    found = dict.fromkeys(("embedding", "mixers", "feed-forwards", "norms", "output", "other"), 0)
    for name, parameter in model.named_parameters():
        words = name.split(".")
        inside = words[2] if words[0] == "blocks" else words[0]
        if "norm" in inside:
            part = "norms"
        else:
            part = {
                "mixer": "mixers", "ffn": "feed-forwards", "embedding": "embedding",
                "position_embedding": "embedding", "head": "output",
            }.get(inside, "other")  # fmt: skip
        found[part] += parameter.numel()
    return found


def measure_cost(
    recipe: StageRecipe, config: ModelConfig, rows: int, row_length: int, *, real: bool = False
) -> Cost:
    """One micro-batch and one update, run on fake tensors of the CPU: nothing is computed or allocated.

    Attention is counted as the CPU's kernel, which like a GPU's keeps no scores. real: with real tensors,
    which is how the fake ones are tested.
    Raises UserError for layers whose sizes depend on the data, such as experts.
    """
    if real:
        return _cost(recipe, config, rows, row_length)
    try:
        with FakeTensorMode():
            return _cost(recipe, config, rows, row_length)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UserError(
            "model: the sizes of a layer's tensors depend on the data (experts, selected blocks), and "
            f"cannot be planned ({error.func}); plan a model without them"
        ) from None


def _cost(recipe: StageRecipe, config: ModelConfig, rows: int, row_length: int) -> Cost:
    parallel = recipe.parallel or ParallelConfig()
    memory = TensorMemory()
    flops = FlopCounterMode(display=False)
    model = CausalLM(config).train()
    recompute_blocks([*model.blocks, *model.mtp], parallel.checkpoint)
    optimizer = recipe.build_optimizer(model, {})
    weights = tensor_bytes([*model.parameters(), *model.buffers()])
    state = [tensor for tensor in optimizer.state_dict().values() if tensor.dim()]
    moments = tensor_bytes(state)
    blocks = [tensor_bytes(block.parameters()) for block in model.blocks]
    ids = torch.zeros(rows, row_length, dtype=torch.long)
    batch = TokenBatch(ids, ids.clone(), ids.clone())
    for tensor in [*model.parameters(), *model.buffers(), *state]:
        memory.see(tensor)
    base = memory.live
    handles = [
        p.register_post_accumulate_grad_hook(lambda p: _count(memory, p))
        for p in model.parameters()
        if p.requires_grad
    ]
    narrow = recipe.train.stated_precision == "bfloat16"
    with memory, flops:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            output = NextToken(z_loss=getattr(recipe, "z_loss", 0.0))(model, batch)
        output.loss_sum.backward()
    activations, at_peak = memory.peak - base - memory.mark_at_peak, memory.mark_at_peak
    del output
    for handle in handles:
        handle.remove()
    gradients = tensor_bytes(p.grad for p in model.parameters() if p.grad is not None)
    memory.restart()
    before = memory.live
    with memory:
        optimizer.step(1e-3)
    return Cost(
        weights=weights,
        gradients=gradients,
        moments=moments,
        activations=activations,
        gradients_at_peak=at_peak,
        update=memory.peak - before,
        flops=float(flops.get_total_flops()),
        largest_block=max(blocks),
        outside_blocks=weights - sum(blocks),
    )


def _count(memory: TensorMemory, parameter: Tensor) -> None:
    if parameter.grad is not None:
        memory.mark += parameter.grad.untyped_storage().nbytes()


def divided_config(config: ModelConfig, tensor: int) -> ModelConfig:
    """What one of `tensor` ranks computes with: its heads, channels and rows of the vocabulary."""
    if tensor == 1:
        return config
    check_divisible(config, tensor)
    blocks = []
    for repeat in config.blocks:
        spec, mixer = repeat.block, repeat.block.mixer
        assert isinstance(mixer, GroupedQuery)
        heads = {
            "num_heads": mixer.num_heads // tensor,
            "num_kv_heads": mixer.kv_heads // tensor,
            "head_dim": mixer.resolved_head_dim(config.hidden_size),
        }
        changes: dict[str, Any] = {"mixer": mixer.model_copy(update=heads)}
        if spec.ffn is not None:
            size = spec.ffn.size // tensor  # type: ignore[union-attr]
            changes["ffn"] = spec.ffn.model_copy(update={"size": size})
        blocks.append(repeat.model_copy(update={"block": spec.model_copy(update=changes)}))
    vocabulary = -(-config.vocab_size // tensor)
    return config.model_copy(update={"blocks": tuple(blocks), "vocab_size": vocabulary})


def layouts_of(devices: int) -> Iterator[tuple[str, int, int, int, bool]]:
    """(name, copies, fsdp, tensor, whether ZeRO) of every layout of so many devices."""
    for tensor in _divisors(devices):
        for shard in _divisors(devices // tensor):
            copies = devices // tensor // shard
            parts = [("dp", copies), ("fsdp", shard), ("tp", tensor)]
            name = "x".join(f"{word}{size}" for word, size in parts if size > 1) or "one"
            yield name, copies, shard, tensor, False
            if copies > 1 and shard == tensor == 1:
                yield f"zero{copies}", copies, 1, 1, True


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def plan(
    recipe: StageRecipe,
    *,
    devices: int,
    device: Device,
    utilization: float = 0.4,
    hourly: float | None = None,
) -> Plan:
    """The forecast of every layout, those that fit first, the fastest of them at the top.

    A step takes its FLOPs over the device's rate times `utilization`, and what communication is not hidden:
    sums inside of layers (tensor) fully, gradients and gathered weights beyond the time of the backward
    pass. The price is `hourly` for each device and hour. Raises UserError for a recipe that cannot be planned.
    """
    config = model_of(recipe)
    data: Any = recipe.data  # type: ignore[attr-defined]
    precision = recipe.train.stated_precision
    forecasts = []
    costs: dict[tuple[int, int], Cost] = {}
    tokens = data.rows_per_step * data.row_length
    steps = recipe.train.steps
    for name, copies, shard, tensor, zero in layouts_of(devices):
        ranks = copies * shard
        if data.rows_per_step % ranks:
            forecasts.append(
                _refused(name, devices, f"{ranks} ranks do not share {data.rows_per_step} rows")
            )
            continue
        share = data.rows_per_step // ranks
        rows = min(data.rows_per_batch or share, share)
        try:
            if (rows, tensor) not in costs:
                costs[rows, tensor] = measure_cost(
                    recipe, divided_config(config, tensor), rows, data.row_length
                )
        except UserError as error:
            if tensor == 1:
                raise
            forecasts.append(_refused(name, devices, str(error)))
            continue
        cost = costs[rows, tensor]
        kinds = _memory(cost, copies, shard, zero=zero)
        compute = cost.flops * (share / rows) / (device.rate(precision) * utilization)
        hidden = cost.gradients * 2 * (ranks > 1) + (cost.weights * 2 if shard > 1 else 0)
        inside = 0.0
        if tensor > 1:
            width = 2 if precision == "bfloat16" else 4
            inside = 8.0 * config.num_layers * share * data.row_length * config.hidden_size * width
        exposed = max(0.0, hidden / device.link - 2 / 3 * compute) + inside / device.link
        seconds = compute + exposed
        hours = seconds * (steps or 0) / 3600
        forecasts.append(
            Forecast(
                name, devices, kinds["peak"] <= device.memory, kinds["weights"], kinds["gradients"],
                kinds["moments"], kinds["activations"], kinds["peak"], seconds, hours,
                None if hourly is None else hours * devices * hourly,
                None if kinds["peak"] <= device.memory else f"more than {device.memory / 1e9:.0f} GB",
            )
        )  # fmt: skip
    forecasts.sort(key=lambda one: (not one.fits, one.step_seconds, one.peak))
    whole = next(cost for (_, tensor), cost in costs.items() if tensor == 1)
    rows = next(rows for rows, tensor in costs if tensor == 1)
    return Plan(
        parameters_by_part(config), tokens, steps, whole.flops / (rows * data.row_length), forecasts
    )


def _refused(name: str, ranks: int, reason: str) -> Forecast:
    return Forecast(name, ranks, False, 0, 0, 0, 0, 0, 0.0, 0.0, None, reason)


def _memory(cost: Cost, copies: int, shard: int, *, zero: bool) -> dict[str, int]:
    """Bytes a rank by kind, and their peak: at the worst of the passes, or in the update."""
    parts = copies if zero else shard
    weights, moments = cost.weights // shard, cost.moments // parts
    gradients, at_peak = cost.gradients // shard, cost.gradients_at_peak // shard
    activations, summed = cost.activations, 0
    if shard > 1:  # gathered: what lies outside of blocks, and two blocks; one block's gradient
        activations += cost.outside_blocks + 3 * cost.largest_block
    elif copies > 1:  # buckets under way, a copy of the gradients
        summed = cost.gradients
    update = cost.update // parts
    passes = max(activations + at_peak, gradients + summed)
    return {
        "weights": weights,
        "gradients": gradients,
        "moments": moments,
        "activations": activations,
        "peak": weights + moments + max(passes, gradients + update),
    }
