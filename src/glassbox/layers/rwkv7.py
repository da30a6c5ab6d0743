"""RWKV-7: time mixing with a matrix state updated by a generalized delta rule, and channel mixing.

Source: Peng et al., "RWKV-7 Goose with Expressive Dynamic State Evolution", arXiv:2503.14456,
section 4 and the appendix with the pseudocode; ranks from the authors' published code.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw
from glassbox.layers.inside import LinearHeads
from glassbox.layers.linear import Linear
from glassbox.layers.rwkv import ramp
from glassbox.layers.state import TensorState
from glassbox.ops.activations import relu2
from glassbox.ops.chunks import wide
from glassbox.ops.generalized_delta import generalized_delta
from glassbox.ops.token_shift import token_shift

LEAD = "rwkv7_value"
"""Key of `Context.shared` under which the first layer's values are passed to later layers."""


class Rwkv7Time(Spec):
    """RWKV-7's time mixing: heads with a (Dk, Dk) state each, vector-valued decay and learning
    rate.

    values: `own` uses the layer's own values; `lead` also passes them to later layers; `follow`
        interpolates between its own and the lead's by a learned gate. In the paper the first layer
        leads and all others follow.
    """

    kind: Literal["rwkv7_time"] = "rwkv7_time"
    head_dim: int = Field(64, gt=0)
    values: Literal["own", "lead", "follow"] = "own"
    decay_rank: int | None = Field(None, gt=0, description="1.8 sqrt(D), in steps of 32")
    rate_rank: int | None = Field(None, gt=0, description="1.8 sqrt(D), in steps of 32")
    value_rank: int | None = Field(
        None, gt=0, description="1.3 sqrt(D), in steps of 32; follow only"
    )
    gate_rank: int | None = Field(None, gt=0, description="0.6 D^0.8, in steps of 32")

    def resolve(self, hidden_size: int) -> Rwkv7Time:
        """Return the spec with all defaults filled in. Raises ValueError if the heads do not divide
        the sizes.
        """
        if hidden_size % self.head_dim:
            raise ValueError(
                f"hidden_size = {hidden_size} is no multiple of head_dim = {self.head_dim}"
            )
        return self.model_copy(update=self.ranks(hidden_size))

    def ranks(self, hidden_size: int) -> dict[str, int]:
        """The four ranks by name, with the authors' defaults."""

        def steps(size: float) -> int:
            return max(32, round(size / 32) * 32)

        root = math.sqrt(hidden_size)
        return {
            "decay_rank": self.decay_rank or steps(1.8 * root),
            "rate_rank": self.rate_rank or steps(1.8 * root),
            "value_rank": self.value_rank or steps(1.3 * root),
            "gate_rank": self.gate_rank or steps(0.6 * hidden_size**0.8),
        }

    def build(self, hidden_size: int) -> Rwkv7TimeLayer:
        """Return the module; its weights are not yet initialized."""
        return Rwkv7TimeLayer(self, hidden_size)


class Rwkv7Channel(Spec):
    """RWKV-7's channel mixing: W_v relu(W_k x)^2, where x mixes this token with the previous one."""

    kind: Literal["rwkv7_channel"] = "rwkv7_channel"
    size: int = Field(gt=0, description="F, intermediate size")

    def build(self, hidden_size: int) -> Rwkv7ChannelLayer:
        """Return the module; its weights are not yet initialized."""
        return Rwkv7ChannelLayer(self, hidden_size)


class LowRank(nn.Module):
    """A bias plus a low-rank function of the token: base + up(bend(down(x)))."""

    no_decay: ClassVar[tuple[str, ...]] = ("down.weight", "up.weight", "base")

    def __init__(
        self,
        hidden_size: int,
        rank: int,
        bend: Literal["tanh", "sigmoid"] | None = None,
        *,
        base: bool = True,
    ) -> None:
        super().__init__()
        self.bend = bend
        self.down = Linear(hidden_size, rank)
        self.up = Linear(rank, hidden_size)
        self.base = nn.Parameter(torch.empty(hidden_size)) if base else None

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return one vector per token."""
        low = self.down(x)
        if self.bend is not None:
            low = torch.tanh(low) if self.bend == "tanh" else torch.sigmoid(low)
        out = self.up(low)
        return out if self.base is None else out + self.base


MIXES = ("receptance", "decay", "key", "value", "rate", "gate")
"""The projections that each have their own token-shift shares."""


class Rwkv7TimeLayer(nn.Module):
    """The module of `Rwkv7Time`.

    The mixed token is projected to r, k, v, a learning rate a in (0, 1), a decay w in (e^{-0.607},
    1) and a gate g. With k^ = unit(k * removal) per head, and k~ = k * (1 + (a - 1) * replacement),

        S_t = S_{t-1} (diag(w) - k^ (a * k^)^T) + v k~^T
        o = W_o (g * (norm(S r) + (sum of r * k~ * bonus) v))

    Tested against: the paper's equations, token by token with explicit matrices.
    """

    attend = staticmethod(generalized_delta)
    inside = LinearHeads()

    no_decay: ClassVar[tuple[str, ...]] = ("mix", "removal", "replacement", "bonus")

    def __init__(self, spec: Rwkv7Time, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        ranks = spec.ranks(hidden_size)
        self.num_heads = hidden_size // spec.head_dim
        self.mix = nn.Parameter(torch.empty(len(MIXES), hidden_size))
        self.receptance = Linear(hidden_size, hidden_size)
        self.key = Linear(hidden_size, hidden_size)
        self.value = Linear(hidden_size, hidden_size)
        self.decay = LowRank(hidden_size, ranks["decay_rank"], "tanh")
        self.rate = LowRank(hidden_size, ranks["rate_rank"])
        self.gate = LowRank(hidden_size, ranks["gate_rank"], "sigmoid", base=False)
        self.follow = LowRank(hidden_size, ranks["value_rank"]) if spec.values == "follow" else None
        self.removal = nn.Parameter(torch.empty(hidden_size))
        self.replacement = nn.Parameter(torch.empty(hidden_size))
        self.bonus = nn.Parameter(torch.empty(self.num_heads, spec.head_dim))
        self.norm_weight = nn.Parameter(torch.empty(hidden_size))
        self.norm_bias = nn.Parameter(torch.empty(hidden_size))
        self.output = Linear(hidden_size, hidden_size, into_residual=True)

    @torch.no_grad()
    def initialize(self, draw: Draw) -> None:
        """Initialize with the published values of a middle layer: decays over a range of rates,
        shares decreasing by channel.
        """
        size = len(self.removal)
        powers = {"receptance": 0.1, "decay": 0.45, "key": 0.35, "value": 0.35, "rate": 0.45, "gate": 0.1}  # fmt: skip
        for row, name in zip(self.mix, MIXES, strict=True):
            row.copy_(1 - ramp(size, powers[name]))
        bases = [(self.decay, -6.5 + 5 * ramp(size, 1.5)), (self.rate, torch.zeros(size))]
        if self.follow is not None:
            bases.append((self.follow, torch.ones(size)))
        for module, value in bases:
            assert module.base is not None
            module.base.copy_(value)
        nn.init.constant_(self.removal, 0.85)
        nn.init.ones_(self.replacement)
        nn.init.zeros_(self.bonus)
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty state: the last token and a zero matrix per head, whatever the length."""
        last = torch.zeros(batch_size, len(self.removal), device=device, dtype=dtype)
        shape = (batch_size, self.num_heads, self.spec.head_dim, self.spec.head_dim)
        accumulator = torch.promote_types(dtype, torch.float32)
        return TensorState(last=last, memory=torch.zeros(shape, device=device, dtype=accumulator))

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: TensorState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier tokens of its document, and of the cached past if `state`
        is given.
        """
        where = {"documents": context.documents, "lengths": context.lengths}
        shifted, last = token_shift(hidden, None if state is None else state["last"], **where)
        shift = shifted - hidden
        r, w, k, v, a, g = (
            torch.addcmul(hidden, shift, share) for share in self.mix.to(hidden.dtype)
        )
        r, k, value = self.receptance(r), self.key(k), self.value(v)
        value = self._values(value, v, context)
        rate = torch.sigmoid(self.rate(a))
        log_decay = -math.exp(-0.5) * torch.sigmoid(wide(self.decay(w)))
        heads = (self.num_heads, self.spec.head_dim)
        removed = F.normalize(wide(k * self.removal).unflatten(-1, heads), dim=-1)
        k = k * torch.lerp(torch.ones_like(rate), rate, self.replacement.to(rate.dtype))
        r, k, value, rate, log_decay = (
            part.unflatten(-1, heads) for part in (r, k, value, rate, log_decay)
        )  # (B, T, H, Dk)
        read, memory = self.attend(
            r,
            k,
            value,
            log_decay,
            -removed,
            removed * rate,
            None if state is None else state["memory"],
            **where,
        )
        if state is not None:
            state["last"], state["memory"] = last, memory
        now = (r * k * self.bonus).sum(-1, keepdim=True) * value
        return self.output((self._norm(read) + now.flatten(2)) * self.gate(g))

    def _values(self, value: Tensor, source: Tensor, context: Context) -> Tensor:
        if self.spec.values == "lead":
            context.shared[LEAD] = value
        if self.follow is None:
            return value
        if LEAD not in context.shared:
            raise UserError(
                "values = 'follow' needs an earlier layer with values = 'lead'; make the first block one"
            )
        return torch.lerp(value, context.shared[LEAD], torch.sigmoid(self.follow(source)))

    def _norm(self, read: Float[Tensor, "B T H Dk"]) -> Float[Tensor, "B T D"]:
        """Normalize each head by its own mean and variance, then apply the per-channel weight and
        bias.
        """
        flat = wide(read).flatten(0, 1).flatten(1)
        weight, bias = self.norm_weight.to(flat.dtype), self.norm_bias.to(flat.dtype)
        eps = 1e-5 * self.spec.head_dim
        normal = F.group_norm(flat, self.num_heads, weight, bias, eps)
        return normal.unflatten(0, read.shape[:2]).to(read.dtype)


class Rwkv7ChannelLayer(nn.Module):
    """The module of `Rwkv7Channel`. Tested against: the paper's equations."""

    no_decay: ClassVar[tuple[str, ...]] = ("mix",)

    def __init__(self, spec: Rwkv7Channel, hidden_size: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.empty(hidden_size))
        self.key = Linear(hidden_size, spec.size)
        self.value = Linear(spec.size, hidden_size, into_residual=True)

    @torch.no_grad()
    def initialize(self, draw: Draw) -> None:
        """Initialize shares of the previous token, decreasing by channel."""
        self.mix.copy_(1 - ramp(len(self.mix), 0.25))

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty state: the last token."""
        return TensorState(last=torch.zeros(batch_size, len(self.mix), device=device, dtype=dtype))

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: TensorState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix with the previous token, project up, square, project down."""
        shifted, last = token_shift(
            hidden,
            None if state is None else state["last"],
            documents=context.documents,
            lengths=context.lengths,
        )
        if state is not None:
            state["last"] = last
        source = torch.addcmul(hidden, shifted - hidden, self.mix.to(hidden.dtype))
        return self.value(relu2(self.key(source)))
