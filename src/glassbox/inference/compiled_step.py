"""Compiled decoding of a single sequence: a few torch.compile graphs for the whole model.

An eager step of a small model makes thousands of calls into torch, whose overhead and cache misses
dominate. The compiled step is the same model under torch.compile. The slots of the KV cache are an
input of dynamic length, so that it is compiled once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassbox.adapters.base import adapters_of
from glassbox.core.errors import UserError
from glassbox.inference.plan import Chunk, Plan
from glassbox.layers.context import Context
from glassbox.layers.linear import Linear
from glassbox.layers.paged_state import PagedKeyValue
from glassbox.layers.pages import Pages
from glassbox.layers.quantized_linear import CodedMatrix
from glassbox.models.block import BlockState
from glassbox.models.causal_lm import CausalLM
from glassbox.models.layout import lay_out_in_rows
from glassbox.ops.single_row import is_single_row, single_row_linear

# blocks in a piece: pieces of like blocks share their code, and each call of one costs some 0.1 ms
_BLOCKS = 6


class CompiledStep:
    """Computes the logits of plans that feed one token of one request; returns None for all other
    plans.

    For float32 or wider on a CPU, and models whose layers all have paged keys and values, without
    adapters or virtual tokens. The first plan waits for the compiler: some 10 s for SmolLM2, or 3 s
    with torch's cache on disk; a C++ compiler is required. If compilation fails, a warning is
    issued once and the eager step is used. Matrices are stored by rows.
    Raises UserError for unsupported models. Tested against: the eager step.
    """

    def __init__(self, model: CausalLM, block_size: int, states: Sequence[BlockState]) -> None:
        paged = all(isinstance(x.mixer, PagedKeyValue) and x.ffn is None for x in states)
        wide = model.dtype in (torch.float32, torch.float64)
        if not (paged and wide and model.device.type == "cpu"):
            raise UserError(
                "compiled = True: compiled steps are for models in float32 on a CPU whose layers all "
                "keep keys and values of every token; leave it out for this model"
            )
        self.model = model
        self.num_steps = 0  # steps taken compiled
        self._works = True
        self._slots = torch.arange(block_size)
        blocks = list(model.blocks)
        self._pieces = [slice(i, i + _BLOCKS) for i in range(0, len(blocks), _BLOCKS)]
        self._blocks = [blocks[piece] for piece in self._pieces]
        self._through = torch.compile(_through, dynamic=True, fullgraph=True)
        self._end = torch.compile(_end, dynamic=True, fullgraph=True)
        self._linears = [module for module in model.blocks.modules() if type(module) is Linear]
        lay_out_in_rows(model)

    def logits(self, plan: Plan, states: list[BlockState]) -> Float[Tensor, "1 V"] | None:
        """The logits to sample from, after writing the plan's token."""
        if not self._takes(plan):
            return None
        try:
            with _as(SingleRowLinear, self._linears):
                logits = self._step(plan.chunks[0], states)
        except Exception as error:  # whatever it is, eager steps continue from here
            self._works = False
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"steps are not compiled from here on: {reason}", stacklevel=2)
            return None
        self.num_steps += 1
        return logits

    def _takes(self, plan: Plan) -> bool:
        model = self.model
        if not self._works or len(plan.chunks) != 1:
            return False
        (chunk,) = plan.chunks
        if "hidden_states" in vars(
            model
        ):  # somebody looks inside, whom the compiler would leave out
            return False
        alone = chunk.count == 1 and not chunk.drafted and not chunk.siblings
        goes_on = chunk.start > 0 and chunk.samples
        return alone and goes_on and adapters_of(model) is None

    def _step(self, chunk: Chunk, states: list[BlockState]) -> Tensor:
        start, sequence = chunk.start, chunk.sequence
        first = torch.tensor(sequence.blocks).unsqueeze(1) * len(self._slots)
        token_slots = (first + self._slots).flatten()[: start + 1]
        positions = torch.tensor([[start]])
        hidden = self.model.embed(torch.tensor([[sequence.tokens[start]]]), positions)
        for piece, blocks in zip(self._pieces, self._blocks, strict=True):
            hidden = self._through(hidden, positions, token_slots, blocks, states[piece])
        logits: Tensor = self._end(self.model, hidden)
        return logits


class SingleRowLinear(Linear):
    """A `Linear` in the form to be compiled: the product with a single row is a loop of its own."""

    def forward(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """Project the last axis."""
        if is_single_row(x):
            return single_row_linear(x, self.weight, self.bias)
        return super().forward(x)


@contextmanager
def _as(kind: type[Linear], linears: Sequence[Linear]) -> Iterator[None]:
    """Replace the classes of these layers inside the context; their weights are shared."""
    try:
        for linear in linears:
            linear.__class__ = kind
        yield
    finally:
        for linear in linears:
            linear.__class__ = Linear


def _through(
    hidden: Float[Tensor, "1 1 D"],
    positions: Int[Tensor, "1 1"],
    token_slots: Int[Tensor, " S"],
    blocks: Sequence[nn.Module],
    states: Sequence[BlockState],
) -> Float[Tensor, "1 1 D"]:
    """Apply some blocks of the model; the row's tokens are in the given cache slots, the last one
    to be written.
    """
    length, nothing = token_slots.shape[0], positions.new_empty(0, 0)
    pages = Pages(token_slots[-1:], nothing, positions, length, level=True, token_slots=token_slots)
    context = Context(positions=positions, key_length=length, pages=pages)
    for block, state in zip(blocks, states, strict=True):
        hidden = block(hidden, context, state)
    return hidden


def _end(model: CausalLM, hidden: Float[Tensor, "1 1 D"]) -> Float[Tensor, "1 V"]:
    """From the last block's output to the logits."""
    hidden = model.finish(hidden)[:, 0]
    output = model.embedding if model.head is None else model.head
    if isinstance(output, CodedMatrix):  # it has kernels of its own
        return model.cap(model.project(hidden))
    return model.cap(single_row_linear(hidden, model.output_weight, model.output_bias))
