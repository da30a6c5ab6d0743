"""RWKV-4: time mixing and channel mixing, both with a shift by one token.

Source: Peng et al., "RWKV: Reinventing RNNs for the Transformer Era", arXiv:2305.13048, section 3.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw
from glassbox.layers.inside import Channels
from glassbox.layers.linear import Linear
from glassbox.layers.state import TensorState
from glassbox.ops.activations import relu2
from glassbox.ops.token_shift import token_shift
from glassbox.ops.wkv import WkvState, wkv, wkv_state


class RwkvTime(Spec):
    """RWKV-4's time mixing: o = W_o (sigmoid(r) * wkv(k, v)), where r, k, v mix this token with the
    previous one.
    """

    kind: Literal["rwkv_time"] = "rwkv_time"
    size: int | None = Field(None, gt=0, description="channels of wkv; hidden_size unless given")

    def resolve(self, hidden_size: int) -> RwkvTime:
        """Return the spec with all defaults filled in."""
        return self.model_copy(update={"size": self.size or hidden_size})

    def build(self, hidden_size: int) -> RwkvTimeLayer:
        """Return the module; its weights are not yet initialized."""
        return RwkvTimeLayer(self, hidden_size)


class RwkvChannel(Spec):
    """RWKV-4's channel mixing: sigmoid(W_r x_r) * W_v relu(W_k x_k)^2, where x_r, x_k mix this
    token with the previous one.
    """

    kind: Literal["rwkv_channel"] = "rwkv_channel"
    size: int = Field(gt=0, description="F, intermediate size")

    def build(self, hidden_size: int) -> RwkvChannelLayer:
        """Return the module; its weights are not yet initialized."""
        return RwkvChannelLayer(self, hidden_size)


def mixed(
    hidden: Float[Tensor, "B T D"], shifted: Float[Tensor, "B T D"], share: Float[Tensor, " D"]
) -> Float[Tensor, "B T D"]:
    """Interpolate per channel: share * hidden + (1 - share) * shifted."""
    return torch.lerp(shifted, hidden, share.to(hidden.dtype))


def ramp(size: int, power: float) -> Float[Tensor, " D"]:
    """(i / size)^power for channel i."""
    return (torch.arange(size, dtype=torch.float64) / size) ** power


class RwkvTimeLayer(nn.Module):
    """The module of `RwkvTime`.

    `decay` is the logarithm of -w, `bonus` is u. Tested against: transformers RwkvForCausalLM.
    """

    attend = staticmethod(wkv)
    inside = Channels(key="key", value="value")

    wide_weights: ClassVar[tuple[str, ...]] = ("decay", "bonus")

    no_decay: ClassVar[tuple[str, ...]] = (
        "mix_key",
        "mix_value",
        "mix_receptance",
        "decay",
        "bonus",
    )

    def __init__(self, spec: RwkvTime, hidden_size: int) -> None:
        super().__init__()
        size = spec.size or hidden_size
        self.mix_key = nn.Parameter(torch.empty(hidden_size))
        self.mix_value = nn.Parameter(torch.empty(hidden_size))
        self.mix_receptance = nn.Parameter(torch.empty(hidden_size))
        self.decay = nn.Parameter(torch.empty(size))
        self.bonus = nn.Parameter(torch.empty(size))
        self.key = Linear(hidden_size, size)
        self.value = Linear(hidden_size, size)
        self.receptance = Linear(hidden_size, size)
        self.output = Linear(size, hidden_size, into_residual=True)

    @torch.no_grad()
    def initialize(self, draw: Draw) -> None:
        """Initialize with the published values of a middle layer: decays over a range of rates,
        shares increasing by channel.
        """
        hidden_size, size = len(self.mix_key), len(self.decay)
        steps = torch.arange(size, dtype=torch.float64)
        self.decay.copy_(-5 + 8 * (steps / max(size - 1, 1)) ** 1.35)
        self.bonus.copy_(math.log(0.3) + 0.5 * ((steps + 1) % 3 - 1))
        self.mix_key.copy_(ramp(hidden_size, 0.5))
        self.mix_value.copy_(ramp(hidden_size, 0.5) + 0.15)
        self.mix_receptance.copy_(ramp(hidden_size, 0.25))

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty state: the last token and two sums per channel, whatever the length."""
        last = torch.zeros(batch_size, len(self.mix_key), device=device, dtype=dtype)
        wide = torch.promote_types(dtype, torch.float32)
        sums = torch.zeros(batch_size, len(self.decay), device=device, dtype=wide)
        return TensorState(last=last, **wkv_state(sums)._asdict())

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: TensorState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier tokens of its document, and of the cached past if `state`
        is given.
        """
        where = {"documents": context.documents, "lengths": context.lengths}
        shifted, last = token_shift(hidden, None if state is None else state["last"], **where)
        key = self.key(mixed(hidden, shifted, self.mix_key))
        value = self.value(mixed(hidden, shifted, self.mix_value))
        receptance = self.receptance(mixed(hidden, shifted, self.mix_receptance))
        past = None
        if state is not None:
            past = WkvState(*(state[name] for name in WkvState._fields))
        average, past = self.attend(-torch.exp(self.decay), self.bonus, key, value, past, **where)
        if state is not None:
            state["last"] = last
            for name, tensor in past._asdict().items():
                state[name] = tensor
        return self.output(torch.sigmoid(receptance) * average)


class RwkvChannelLayer(nn.Module):
    """The module of `RwkvChannel`. Tested against: transformers RwkvForCausalLM."""

    no_decay: ClassVar[tuple[str, ...]] = ("mix_key", "mix_receptance")

    def __init__(self, spec: RwkvChannel, hidden_size: int) -> None:
        super().__init__()
        self.mix_key = nn.Parameter(torch.empty(hidden_size))
        self.mix_receptance = nn.Parameter(torch.empty(hidden_size))
        self.key = Linear(hidden_size, spec.size)
        self.receptance = Linear(hidden_size, hidden_size)
        self.value = Linear(spec.size, hidden_size, into_residual=True)

    @torch.no_grad()
    def initialize(self, draw: Draw) -> None:
        """Initialize shares increasing by channel, as in the time mixing."""
        self.mix_key.copy_(ramp(len(self.mix_key), 0.5))
        self.mix_receptance.copy_(ramp(len(self.mix_key), 0.5))

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty state: the last token."""
        shape = (batch_size, len(self.mix_key))
        return TensorState(last=torch.zeros(shape, device=device, dtype=dtype))

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: TensorState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix with the previous token, project up, square, project down, gate."""
        shifted, last = token_shift(
            hidden,
            None if state is None else state["last"],
            documents=context.documents,
            lengths=context.lengths,
        )
        if state is not None:
            state["last"] = last
        middle = relu2(self.key(mixed(hidden, shifted, self.mix_key)))
        gate = torch.sigmoid(self.receptance(mixed(hidden, shifted, self.mix_receptance)))
        return gate * self.value(middle)
