"""Prefix and prompt tuning: what a frozen model is told before every sequence.

Both come down to keys and values that stand before each attention layer's own (`layers.virtual_tokens`):
a prefix trains them, a prompt trains vectors from which the frozen layers make them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.adapters.prefix_state import Prefixed, Recorder
from glassbox.core.errors import UserError
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.context import Context
from glassbox.layers.rotary import Alibi, LongRope, Rotary
from glassbox.models.block import BlockState
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.ops.rotary import apply_rotary

Pairs = list[tuple[Tensor, Tensor]]


def attention_layers(config: ModelConfig, what: str) -> list[GroupedQuery]:
    """The attention of each layer. Raises UserError where virtual tokens have no place in a model."""
    mixers = []
    for number, layer in enumerate(config.layers()):
        mixer = layer.mixer
        if not isinstance(mixer, GroupedQuery):
            raise UserError(
                f"{what} needs attention in every layer; layer {number} is '{mixer.kind}': use lora"
            )
        scaling = mixer.positions.scaling if isinstance(mixer.positions, Rotary) else None
        if mixer.window is not None or isinstance(mixer.positions, Alibi):
            raise UserError(f"{what} does not go with windows or ALiBi (layer {number}): use lora")
        if isinstance(scaling, LongRope):
            raise UserError(f"{what} does not go with LongRoPE (layer {number}): use lora")
        mixers.append(mixer)
    if config.learned_positions or config.sinusoidal_positions:
        raise UserError(f"{what} needs rotary positions, not positions in the embedding: use lora")
    return mixers


class VirtualTokens(nn.Module):
    """What both have in common: V rows of numbers, and states that put keys and values first.

    The tokens keep their positions 0, 1, ...; the virtual tokens stand at -V .. -1. Rotary positions
    are relative, so this equals virtual tokens at 0 .. V - 1 and the tokens behind them.
    """

    def __init__(self, rows: Float[Tensor, "V N"]) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)
        self._kept: tuple[int, Tensor, Pairs] | None = None

    def pairs(self, model: CausalLM) -> Pairs:
        """Keys and values (1, K, V, Dh) of each layer."""
        raise NotImplementedError

    def states(self, model: CausalLM, state: list[BlockState] | None) -> list[BlockState]:
        """One state a layer, the given ones or none behind the virtual tokens."""
        pairs = self._pairs(model)
        inner = [None] * len(pairs) if state is None else state
        return [
            BlockState(
                Prefixed(keys, values, None if own is None else own.mixer),
                None if own is None else own.ffn,
            )
            for (keys, values), own in zip(pairs, inner, strict=True)
        ]

    def _pairs(self, model: CausalLM) -> Pairs:
        """`pairs`, computed once for all steps of generation."""
        if torch.is_grad_enabled() or self.training:
            self._kept = None
            return self.pairs(model)
        version = self.rows._version
        if self._kept is None or self._kept[0] != version or self._kept[1] is not self.rows:
            self._kept = (version, self.rows, self.pairs(model))
        return self._kept[2]


class Prefix(VirtualTokens):
    """rows: (V, 2 L K Dh): for each layer its keys, not yet turned, then its values, head by head.

    Each key stands where PEFT has it: as far before the first token as V tokens reach.
    Source: Li and Liang, arXiv:2101.00190. Tested against: peft, outputs and gradients.
    """

    def pairs(self, model: CausalLM) -> Pairs:
        """The rows, cut; keys turned."""
        mixers = attention_layers(model.config, "prefix tuning")
        count = self.rows.shape[0]
        shape = (count, 2 * len(mixers), mixers[0].kv_heads, -1)
        cut = self.rows.view(shape).permute(1, 2, 0, 3).unsqueeze(1)  # (2 L, 1, K, V, Dh)
        context = Context(torch.full((1, count), -count, device=self.rows.device))
        found = []
        for number, mixer in enumerate(mixers):
            keys, values = cut[2 * number], cut[2 * number + 1]
            rotary = mixer.positions
            if isinstance(rotary, Rotary):
                channels = rotary.num_channels(keys.shape[-1])
                tables = context.rotary(channels, rotary.base, rotary.scaling)
                turned = apply_rotary(keys.transpose(1, 2), *tables, layout=rotary.layout)
                keys = turned.transpose(1, 2)
            found.append((keys, values))
        return found


class Prompt(VirtualTokens):
    """rows: (V, D): vectors in the place of embeddings, passed through the layers once for all rows.

    No token comes before them, so what the layers make of them is the same for every sequence.
    Source: Lester et al., arXiv:2104.08691. Tested against: peft, outputs and gradients.
    """

    def pairs(self, model: CausalLM) -> Pairs:
        """The keys and values that the layers make of the rows."""
        count = self.rows.shape[0]
        positions = torch.arange(-count, 0, device=self.rows.device).unsqueeze(0)
        hidden = self.rows.unsqueeze(0).to(model.embedding.weight.dtype)
        if model.embedding_norm is not None:
            hidden = model.embedding_norm(hidden)
        context = Context(positions)
        found = []
        for block in model.blocks:
            recorder = Recorder()
            hidden = block(hidden, context, BlockState(recorder))
            assert recorder.keys is not None
            assert recorder.values is not None
            found.append((recorder.keys, recorder.values))
        return found
