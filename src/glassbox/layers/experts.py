"""Mixture of experts: each token is routed to top_k of many feed-forward networks."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.core.distributed import Group
from glassbox.layers.context import Context
from glassbox.layers.feedforward import Perceptron
from glassbox.layers.initialization import Draw
from glassbox.layers.linear import Linear
from glassbox.layers.parameter_roles import FusedRows
from glassbox.ops.experts import experts_grouped, linear_wide
from glassbox.ops.routing import (
    Routing,
    balance_loss,
    expert_loads,
    route,
    within_capacity,
    z_loss,
)


class MixtureOfExperts(Spec):
    """The sum of gate_i expert_i(x) over each token's top_k of num_experts experts, plus the shared
    expert.

    The router's softmax is over all experts; with `normalize_top_k` it is divided by its sum over
    the selected experts, which equals a softmax over the selected logits (Mixtral, gpt-oss).
    Source: Mixtral, arXiv:2401.04088; fine-grained and shared experts DeepSeekMoE,
    arXiv:2401.06066; auxiliary-loss-free balancing by a bias arXiv:2408.15664.
    """

    kind: Literal["experts"] = "experts"
    num_experts: int = Field(gt=0, description="E")
    top_k: int = Field(gt=0, description="K, how many experts each token passes")
    expert: Annotated[Perceptron, Field(discriminator="kind")]
    router: Literal["softmax", "sigmoid"] = "softmax"
    router_bias: bool = False
    normalize_top_k: bool = Field(True, description="the gates of a token sum to routed_scale")
    routed_scale: float = Field(1.0, gt=0, description="factor on the gates")
    num_groups: int = Field(1, gt=0, description="number of expert groups")
    top_groups: int = Field(1, gt=0, description="number of groups a token's experts may come from")
    group_score: Literal["max", "top2"] = Field(
        "max", description="a group's score: its best expert's, or the sum of its best two"
    )
    shared: int | None = Field(None, gt=0, description="width F of an expert that all tokens pass")
    shared_gate: bool = Field(False, description="times sigmoid(w x), as Qwen2-MoE")
    balance_bias: bool = Field(False, description="load-dependent bias on expert selection only")
    balance_rate: float = Field(0.001, ge=0, description="update size of that bias per step")
    balance_loss: float = Field(0.0, ge=0, description="weight of each layer's balancing loss")
    z_loss: float = Field(0.0, ge=0, description="weight of each layer's router z-loss")
    capacity_factor: float | None = Field(
        None, gt=0, description="in training an expert takes factor * K N / E tokens at most"
    )
    capacity_priority: Literal["arrival", "gate"] = "arrival"

    @model_validator(mode="after")
    def _numbers_fit(self) -> MixtureOfExperts:
        if self.num_experts % self.num_groups:
            raise ValueError(
                f"num_groups = {self.num_groups} does not divide num_experts = {self.num_experts}"
            )
        if self.top_groups > self.num_groups:
            raise ValueError(
                f"top_groups = {self.top_groups} is more than num_groups = {self.num_groups}"
            )
        size = self.num_experts // self.num_groups
        if self.top_k > self.top_groups * size:
            raise ValueError(
                f"top_k = {self.top_k} is more than the {self.top_groups * size} experts "
                "that a token may choose from; make it smaller"
            )
        if self.num_groups > 1 and self.group_score == "top2" and size < 2:
            raise ValueError(
                f"group_score = top2 needs two experts a group; num_groups = {self.num_groups} "
                f"leaves {size}"
            )
        if self.shared_gate and self.shared is None:
            raise ValueError("shared_gate = true needs shared, the shared expert's width")
        return self

    def untrained(self) -> MixtureOfExperts:
        """The spec with training-only settings reset to their defaults; it computes the same
        function.
        """
        training = (
            "balance_rate",
            "balance_loss",
            "z_loss",
            "capacity_factor",
            "capacity_priority",
        )
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].default for name in training})

    def build(self, hidden_size: int) -> MixtureOfExpertsLayer:
        """Return the module; its weights are not yet initialized."""
        return MixtureOfExpertsLayer(self, hidden_size)


class MixtureOfExpertsLayer(nn.Module):
    """The module of `MixtureOfExperts`; the experts' matrices are stacked, (E, 2F, D) and (E, D,
    F).

    Gated experts have `gate_up` (gate rows first), others `up`. The router computes in float32 or
    wider. Padding (by `context.lengths`, or packed documents with a negative index) is not routed
    and not counted in losses. If `context.auxiliary` is given, each pass adds the losses
    `balance_loss` and `router_z_loss` and the measures `expert_load` (E,), `router_entropy` (nats a
    token) and `dropped_share`.

    A capacity limit applies in training only, and makes a token's output depend on the tokens
    before it in the batch (priority "arrival") or on all tokens, including later ones (priority
    "gate").
    Tested against: `experts_plain`; transformers' Mixtral, Qwen3-MoE and gpt-oss blocks.
    """

    wide_weights: ClassVar[tuple[str, ...]] = ("router.weight", "router.bias", "balance_bias")
    balance_bias: Tensor | None
    route = staticmethod(route)

    no_decay: ClassVar[tuple[str, ...]] = ("gate_up_bias", "up_bias", "down_bias")
    matrices: ClassVar[tuple[str, ...]] = ("gate_up", "up", "down")

    def __init__(self, spec: MixtureOfExperts, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        count, size = spec.num_experts, spec.expert.size
        gated = spec.expert.gated
        middle = 2 * size if gated else size
        self.up_name = "gate_up" if gated else "up"
        self.router = Linear(hidden_size, count, bias=spec.router_bias)
        self.register_parameter(self.up_name, nn.Parameter(torch.empty(count, middle, hidden_size)))
        self.down = nn.Parameter(torch.empty(count, hidden_size, size))
        has_bias = spec.expert.bias
        self.register_parameter(
            f"{self.up_name}_bias", nn.Parameter(torch.zeros(count, middle)) if has_bias else None
        )
        self.down_bias = nn.Parameter(torch.zeros(count, hidden_size)) if has_bias else None
        self.shared = (
            None
            if spec.shared is None
            else spec.expert.model_copy(update={"size": spec.shared}).build(hidden_size)
        )
        self.shared_gate = Linear(hidden_size, 1) if spec.shared_gate else None
        self.register_buffer("balance_bias", torch.zeros(count) if spec.balance_bias else None)
        self._pending_load: Tensor | None = None

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of each expert's gate and up projections."""
        size = self.spec.expert.size
        return {"gate_up": FusedRows((size, size))} if self.spec.expert.gated else {}

    def initialize(self, draw: Draw) -> None:
        """Initialize matrices from a normal distribution, the second with a smaller std; biases are
        zero.
        """
        draw.normal(getattr(self, self.up_name))
        draw.normal(self.down, into_residual=True)
        for bias in (getattr(self, f"{self.up_name}_bias"), self.down_bias, self.balance_bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context | None = None
    ) -> Float[Tensor, "B T D"]:
        """Route each token, apply its experts, and sum their gated outputs."""
        spec = self.spec
        x = hidden.reshape(-1, hidden.shape[-1])  # (N, D)
        real = _real_tokens(hidden, context)
        logits = linear_wide(x, self.router.weight, self.router.bias)
        routing = self.route(
            logits,
            spec.top_k,
            score=spec.router,
            normalize=spec.normalize_top_k,
            scale=spec.routed_scale,
            num_groups=spec.num_groups,
            top_groups=spec.top_groups,
            group_score=spec.group_score,
            choice_bias=self.balance_bias,
        )
        kept = None if real is None else real.unsqueeze(-1)  # (N, 1)
        if spec.capacity_factor is not None and self.training:
            tokens = len(x) if real is None else int(real.sum())
            even = spec.top_k * tokens / spec.num_experts
            kept = within_capacity(
                routing.experts,
                routing.gates,
                math.ceil(spec.capacity_factor * even),
                priority=spec.capacity_priority,
                candidates=kept,
            )
        output = experts_grouped(
            x,
            routing.experts,
            routing.gates,
            getattr(self, self.up_name),
            self.down,
            spec.expert.activate,
            up_bias=getattr(self, f"{self.up_name}_bias"),
            down_bias=self.down_bias,
            kept=kept,
        ).view_as(hidden)
        if self.shared is not None:
            shared = self.shared(hidden, context)
            if self.shared_gate is not None:
                shared = torch.sigmoid(self.shared_gate(hidden)) * shared
            output = output + shared
        self._tell(routing, logits, real, kept, context)
        return output

    def _tell(
        self,
        routing: Routing,
        logits: Float[Tensor, "N E"],
        real: Bool[Tensor, " N"] | None,
        kept: Bool[Tensor, "N _"] | None,
        context: Context | None,
    ) -> None:
        """Record loads for the balancing bias, and losses and measures if requested."""
        spec = self.spec
        auxiliary = None if context is None else context.auxiliary
        learning = self.training and torch.is_grad_enabled() and self._balances()
        if auxiliary is None and not learning:
            return
        candidates = None if real is None else real.unsqueeze(-1)
        loads = expert_loads(routing.experts, spec.num_experts, candidates)
        if learning:
            self._pending_load = loads + (0 if self._pending_load is None else self._pending_load)
        if auxiliary is None:
            return
        if spec.balance_loss:
            loss = balance_loss(routing.probabilities, loads, real)
            auxiliary.add_loss("balance_loss", spec.balance_loss * loss)
        if spec.z_loss:
            auxiliary.add_loss("router_z_loss", spec.z_loss * z_loss(logits, real))
        with torch.no_grad():
            chosen = loads.sum().clamp(min=1)
            served = chosen if kept is None else kept.expand_as(routing.experts).sum()
            entropies = torch.special.entr(routing.probabilities).sum(-1)
            if real is not None:
                entropies = entropies * real
            auxiliary.add_measure("expert_load", loads)
            auxiliary.add_measure("router_entropy", entropies.sum() * spec.top_k / chosen)
            auxiliary.add_measure("dropped_share", 1 - served / chosen)

    def _balances(self) -> bool:
        """Whether the balancing bias is updated; also true if the layer's own weights are frozen."""
        own = (*self.parameters(recurse=False), *self.router.parameters(recurse=False))
        return self.balance_bias is not None and any(p.requires_grad for p in own)

    @torch.no_grad()
    def after_step(self, group: Group, *, taken: bool) -> None:
        """Update the balancing bias: increase it by the rate for experts with a load below the
        mean, decrease it for those above.

        The loads are those of all micro-batches since the last call, over all ranks; those of a
        skipped step (`taken` is False) are discarded. Source: arXiv:2408.15664, algorithm 1.
        """
        if self.balance_bias is None or not self._balances():
            self._pending_load = None
            return
        loads: Int[Tensor, " E"] | None = self._pending_load
        self._pending_load = None
        if not taken:
            return
        if loads is None:
            size = self.spec.num_experts
            loads = torch.zeros(size, dtype=torch.long, device=self.balance_bias.device)
        loads = group.sum_(loads).double()
        step = self.spec.balance_rate * torch.sign(loads.mean() - loads)
        self.balance_bias.add_(step.to(self.balance_bias.dtype))


def _real_tokens(hidden: Float[Tensor, "B T D"], context: Context | None) -> Tensor | None:
    """(N,), which tokens are not padding; None if there is no padding."""
    if context is None:
        return None
    if context.documents is not None:
        return (context.documents >= 0).reshape(-1)
    if context.lengths is None:
        return None
    places = torch.arange(hidden.shape[1], device=hidden.device)
    return (places < context.lengths.unsqueeze(-1)).reshape(-1)
