"""User-defined mixers and feed-forwards: `kind: python, path: my.py:Thing`.

A mixer is a module that is called as `mixer(hidden)` with hidden states (B, T, D) of one document a
row, and returns (B, T, D), where position t depends on positions up to t alone. That is enough: packed
documents are taken apart for it, and while a text is generated its past is computed again at every
step. One that is to be fast has `init_state` and the call of `layers.state.Stateful`, as ours have.

A feed-forward is a module called as `ffn(hidden)` that treats each position alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec
from glassbox.layers.context import Context
from glassbox.layers.state import RowState

_GUIDE = "see docs/extending.md"


class PythonMixer(PythonSpec):
    """A user-defined mixer: a callable (hidden_size, **options) that returns the module."""

    def resolve(self, hidden_size: int) -> PythonMixer:
        """Itself: its defaults are its own."""
        return self

    def build(self, hidden_size: int) -> nn.Module:
        """The user's module; one without `init_state` within a `StatelessMixer`.

        Raises UserError where `path` names no module.
        """
        module = _module(self, "mixer", hidden_size)
        return module if hasattr(module, "init_state") else StatelessMixer(module, hidden_size)


class PythonFeedForward(PythonSpec):
    """A user-defined feed-forward: a callable (hidden_size, **options) that returns the module."""

    def build(self, hidden_size: int) -> nn.Module:
        """The user's module. Raises UserError where `path` names none."""
        return PlainFeedForward(_module(self, "feed-forward", hidden_size))


class PlainFeedForward(nn.Module):
    """A module of one argument, called as a block calls its feed-forward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Float[Tensor, "B T D"], context: Context) -> Float[Tensor, "B T D"]:
        """The module's output. Raises UserError where its shape is another."""
        return _same_shape(self.inner(hidden), hidden, "feed-forward")


class PastState(RowState):
    """The hidden states of all tokens so far, (B, L, D)."""

    kept = ("hidden",)

    def __init__(self, hidden: Float[Tensor, "B L D"]) -> None:
        self.hidden = hidden


class StatelessMixer(nn.Module):
    """Gives a causal function of hidden states documents and a cache: the past is computed again.

    Tested against: the same module on each document alone.
    """

    def __init__(self, inner: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.inner = inner
        self.hidden_size = hidden_size

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> PastState:
        """Room for `max_length` hidden states a row."""
        shape = (batch_size, max_length, self.hidden_size)
        return PastState(torch.zeros(shape, device=device, dtype=dtype))

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: PastState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Each document by itself, or, with a state, the whole of each row's past again."""
        if state is not None:
            return self._continue(hidden, context, state)
        if context.documents is None:
            return _same_shape(self.inner(hidden), hidden, "mixer")
        mixed = torch.zeros_like(hidden)
        for row, starts in enumerate(_starts(context.documents)):
            for first, last in zip(starts, [*starts[1:], hidden.shape[1]], strict=True):
                part = hidden[row : row + 1, first:last]
                mixed[row : row + 1, first:last] = _same_shape(self.inner(part), part, "mixer")
        return mixed

    def _continue(self, hidden: Tensor, context: Context, state: PastState) -> Tensor:
        assert context.key_length is not None
        batch, length, size = hidden.shape
        positions = context.positions.expand(batch, length)
        real = torch.ones_like(positions, dtype=torch.bool)
        if context.lengths is not None:
            real = torch.arange(length, device=hidden.device) < context.lengths.unsqueeze(1)
        index = positions.unsqueeze(-1).expand(batch, length, size)
        before = state.hidden.gather(1, index)
        new = torch.where(real.unsqueeze(-1), hidden.to(before.dtype), before)
        state.hidden.scatter_(1, index, new)
        past = state.hidden[:, : context.key_length].to(hidden.dtype)
        return _same_shape(self.inner(past), past, "mixer").gather(1, index)


def _starts(documents: Int[Tensor, "B T"]) -> list[list[int]]:
    """Of each row, where its documents begin."""
    changes = documents[:, 1:] != documents[:, :-1]
    return [[0, *(row.nonzero().squeeze(-1) + 1).tolist()] for row in changes]


def _module(spec: PythonSpec, what: str, hidden_size: int) -> nn.Module:
    module = spec.make(what, hidden_size)
    if not isinstance(module, nn.Module):
        raise UserError(
            f"{what}: '{spec.path}' gave a {type(module).__name__}, not a torch.nn.Module; {_GUIDE}"
        )
    return module


def _same_shape(output: Tensor, hidden: Tensor, what: str) -> Tensor:
    if not isinstance(output, Tensor) or output.shape != hidden.shape:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"{what} of kind 'python': got {found} for hidden states of shape "
            f"{tuple(hidden.shape)}; it must give the same shape; {_GUIDE}"
        )
    return output
