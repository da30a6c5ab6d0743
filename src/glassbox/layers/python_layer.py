"""User-defined mixers and feed-forwards: `kind: python, path: my.py:Name`.

A mixer is a module that is called as `mixer(hidden)` with hidden states (B, T, D) of one document
per row, and returns (B, T, D), where position t depends on positions up to t only. Packed documents
are separated before the call, and generation recomputes the past at every step. For faster
generation a mixer implements `init_state` and the call of `layers.state.Stateful`, as the built-in
ones do.

A feed-forward is a module called as `ffn(hidden)` that processes each position independently.
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
        """Return the spec itself."""
        return self

    def build(self, hidden_size: int) -> nn.Module:
        """Return the user's module, wrapped in a `StatelessMixer` if it has no `init_state`.

        Raises UserError if `path` does not return a module.
        """
        module = _module(self, "mixer", hidden_size)
        return module if hasattr(module, "init_state") else StatelessMixer(module, hidden_size)


class PythonFeedForward(PythonSpec):
    """A user-defined feed-forward: a callable (hidden_size, **options) that returns the module."""

    def build(self, hidden_size: int) -> nn.Module:
        """Return the user's module. Raises UserError if `path` does not return one."""
        return PlainFeedForward(_module(self, "feed-forward", hidden_size))


class PlainFeedForward(nn.Module):
    """Adapts a module of one argument to the call of a feed-forward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Float[Tensor, "B T D"], context: Context) -> Float[Tensor, "B T D"]:
        """Return the module's output. Raises UserError if its shape differs from the input's."""
        return _same_shape(self.inner(hidden), hidden, "feed-forward")


class PastState(RowState):
    """The hidden states of all tokens so far, (B, L, D)."""

    kept = ("hidden",)

    def __init__(self, hidden: Float[Tensor, "B L D"]) -> None:
        self.hidden = hidden


class StatelessMixer(nn.Module):
    """Adds packed documents and a cache to a causal function of hidden states, by recomputing the
    past.

    Tested against: the same module on each document separately.
    """

    def __init__(self, inner: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.inner = inner
        self.hidden_size = hidden_size

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> PastState:
        """Allocate `max_length` hidden states per row."""
        shape = (batch_size, max_length, self.hidden_size)
        return PastState(torch.zeros(shape, device=device, dtype=dtype))

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: PastState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Apply the module to each document, or, with a state, to each row's past and the new
        tokens.
        """
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
    """The start positions of each row's documents."""
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
