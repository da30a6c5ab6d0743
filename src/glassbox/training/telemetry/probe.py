"""A forward pass with hooks: what goes on inside the model on a few rows of the step at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from glassbox.layers.attention import GroupedQueryAttention
from glassbox.layers.context import Auxiliary
from glassbox.models.causal_lm import CausalLM
from glassbox.training.telemetry.attention import ObservedView
from glassbox.training.telemetry.config import TelemetryConfig
from glassbox.training.telemetry.units import expert_balance, stuck_shares

Values = dict[str, Tensor]


class LastCall:
    """Stands in the place of a model's `hidden_states` and remembers what training last called it with.

    The model's class is untouched; `released` puts its own method back. Calls without gradients (of
    evaluations and of generation) and with a state are passed on and not remembered.
    """

    def __init__(self, model: CausalLM) -> None:
        self.model = model
        self.arguments: tuple[Tensor, dict[str, Any]] | None = None
        self._inner: Callable[..., Tensor] | None = None  # an inspection that was there before

    def __call__(self, ids: Tensor, **options: Any) -> Tensor:
        """The model's own hidden states."""
        if torch.is_grad_enabled() and options.get("state") is None:
            kept = {key: options.get(key) for key in ("positions", "documents", "lengths")}
            self.arguments = (ids.detach(), kept)
        if self._inner is not None:
            return self._inner(ids, **options)
        return type(self.model).hidden_states(self.model, ids, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        model = memo.get(id(self.model), self.model)
        return type(model).hidden_states.__get__(model)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within, the model's `hidden_states` is this one."""
        self._inner = self.model.__dict__.get("hidden_states")
        self.model.__dict__["hidden_states"] = self
        try:
            yield
        finally:
            self.model.__dict__.pop("hidden_states", None)
            if self._inner is not None:
                self.model.__dict__["hidden_states"] = self._inner
            self._inner = None


def observe(
    model: CausalLM, arguments: tuple[Tensor, dict[str, Any]], config: TelemetryConfig
) -> Values:
    """Measure one forward pass over the first rows of a call, without gradients and without dropout.

    Values by "MEASURE/LAYER", scalars on the device:
    residual_norm (mean L2 norm of a token's vector after the block), residual_rms, residual_max;
    activation_rms, activation_max of each mixer's and feed-forward's output; attention_entropy and
    attention_entropy_min (of the heads), in nats; attention_score_max; dead_units, saturated_units;
    expert_share_max, expert_entropy (1: even), idle_experts; logit_rms, logit_max, log_z.
    """
    ids, options = arguments
    rows = slice(0, config.rows)
    options = {k: v[rows] if isinstance(v, Tensor) else v for k, v in options.items()}
    auxiliary = Auxiliary()
    values: Values = {}
    training = model.training
    with contextlib.ExitStack() as stack:
        for index, block in enumerate(model.blocks):
            _watch_block(stack, block, f"blocks.{index}", values, auxiliary, config)
        model.eval()
        try:
            with torch.no_grad():
                hidden = type(model).hidden_states(model, ids[rows], auxiliary=auxiliary, **options)
                _look_at_logits(model, hidden, values, config)
        finally:
            model.train(training)
    return values


def _watch_block(
    stack: contextlib.ExitStack,
    block: nn.Module,
    name: str,
    values: Values,
    auxiliary: Auxiliary,
    config: TelemetryConfig,
) -> None:
    """Put hooks on one block until the stack ends; a compiled block runs as it was written meanwhile."""
    compiled = block.__dict__.get("_compiled_call_impl")
    if compiled is not None:
        block._compiled_call_impl = None
        stack.callback(setattr, block, "_compiled_call_impl", compiled)

    def after_block(module: nn.Module, inputs: Any, output: Tensor) -> None:
        wide = output.float()
        values[f"residual_norm/{name}"] = wide.norm(dim=-1).mean()
        values[f"residual_rms/{name}"] = wide.square().mean().sqrt()
        values[f"residual_max/{name}"] = wide.abs().amax()
        loads = auxiliary.measures.pop("expert_load", [])
        if loads:
            share, entropy, idle = expert_balance(loads[-1])
            values[f"expert_share_max/{name}"] = share
            values[f"expert_entropy/{name}"] = entropy
            values[f"idle_experts/{name}"] = idle

    stack.callback(block.register_forward_hook(after_block).remove)
    mixer, ffn = block.mixer, block.ffn
    assert isinstance(mixer, nn.Module)
    for part, module in (("mixer", mixer), ("ffn", ffn)):
        if isinstance(module, nn.Module):
            _watch_output(stack, module, f"{name}.{part}", values)
    if isinstance(mixer, GroupedQueryAttention):
        _watch_attention(stack, mixer, name, values, config)
    down = getattr(ffn, "down", None)
    if isinstance(down, nn.Module):

        def before_down(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            dead, saturated = stuck_shares(inputs[0])
            values[f"dead_units/{name}"] = dead
            values[f"saturated_units/{name}"] = saturated

        stack.callback(down.register_forward_pre_hook(before_down).remove)


def _watch_output(
    stack: contextlib.ExitStack, module: nn.Module, name: str, values: Values
) -> None:
    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        wide = output.float()
        values[f"activation_rms/{name}"] = wide.square().mean().sqrt()
        values[f"activation_max/{name}"] = wide.abs().amax()

    stack.callback(module.register_forward_hook(after).remove)


def _watch_attention(
    stack: contextlib.ExitStack,
    mixer: GroupedQueryAttention,
    name: str,
    values: Values,
    config: TelemetryConfig,
) -> None:
    view = ObservedView(config.queries)

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(inputs) > 2 and inputs[2] is not None:  # virtual tokens bring a view of their own
            return inputs
        return (*inputs[:2], view)

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if view.entropy is None or view.largest is None:
            return
        values[f"attention_entropy/{name}"] = view.entropy.mean()
        values[f"attention_entropy_min/{name}"] = view.entropy.min()
        values[f"attention_score_max/{name}"] = view.largest

    stack.callback(mixer.register_forward_pre_hook(before).remove)
    stack.callback(mixer.register_forward_hook(after).remove)


def _look_at_logits(
    model: CausalLM, hidden: Tensor, values: Values, config: TelemetryConfig
) -> None:
    places = torch.linspace(0, hidden.shape[1] - 1, min(config.queries, hidden.shape[1]))
    logits = model.logits(hidden[:, places.round().long().to(hidden.device)]).float()
    values["logit_rms/head"] = logits.square().mean().sqrt()
    values["logit_max/head"] = logits.abs().amax()
    values["log_z/head"] = torch.logsumexp(logits, dim=-1).mean()
