"""Virtual tokens: keys and values prepended to every sequence of a frozen model.

Prefix tuning trains them directly; prompt tuning trains vectors from which the frozen layers
compute them. The model is not changed: a hook before each block prepends them to the block's state.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.adapters.base import Adapters, AdapterSpec, Slot
from glassbox.adapters.prefix_state import Prefixed
from glassbox.core.errors import UserError
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.context import Context
from glassbox.layers.rotary import Alibi, LongRope, Rotary
from glassbox.models.block import BlockState
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig

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


class VirtualTokensSpec(AdapterSpec):
    """Base class of the prefix and prompt tuning specs: the number of virtual tokens and their files."""

    stands_alone: ClassVar[bool] = True
    width: ClassVar[str] = "tokens"
    tokens: int = Field(16, gt=0, description="number of virtual tokens")

    def slots(self, adapters: Adapters, name: str) -> dict[str, Slot]:
        """One tensor."""
        return {"prompt_embeddings": Slot(adapters.state(name)["virtual.rows"], ...)}

    def peft_config(self, adapters: Adapters, name: str) -> dict[str, Any]:
        """Of peft.PromptLearningConfig."""
        config = adapters.model.config
        mixer = attention_layers(config, f"an adapter of kind '{self.kind}'")[0]
        return {
            "num_virtual_tokens": self.tokens,
            "num_layers": config.num_layers,
            "num_attention_heads": mixer.num_heads,
            "num_transformer_submodules": 1,
            "token_dim": config.hidden_size,
        }

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any]:
        """Their number."""
        return {"tokens": raw.get("num_virtual_tokens")}


class VirtualTokens(nn.Module):
    """Base class of both modules: V trained rows, and states that prepend their keys and values.

    The tokens keep their positions 0, 1, ...; the virtual tokens have positions -V .. -1. Rotary
    positions
    are relative, so this equals virtual tokens at 0 .. V - 1 followed by the tokens.
    """

    def __init__(self, rows: Float[Tensor, "V N"]) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)
        self._kept: tuple[int, Tensor, Pairs] | None = None
        self._pass: tuple[weakref.ref[Context], Pairs] | None = None

    def pairs(self, model: CausalLM) -> Pairs:
        """Keys and values (1, K, V, Dh) of each layer."""
        raise NotImplementedError

    def put_before(self, adapters: Adapters) -> None:
        """Let every block of the model see them, from now until the adapters' hooks are removed."""
        model = adapters.model
        adapters.virtual = self.train(model.training)
        model.add_module("virtual", self)
        adapters.hooks += [
            block.register_forward_pre_hook(_BeforeBlock(model, self, layer), with_kwargs=True)
            for layer, block in enumerate(model.blocks)
        ]

    def pairs_in_pass(self, model: CausalLM, context: Context) -> Pairs:
        """`pairs`, computed once a forward pass, and once for all steps of generation."""
        if torch.is_grad_enabled() or self.training:
            self._kept = None
            if self._pass is None or self._pass[0]() is not context:
                self._pass = (weakref.ref(context), self.pairs(model))
            return self._pass[1]
        self._pass = None
        version = self.rows._version
        if self._kept is None or self._kept[0] != version or self._kept[1] is not self.rows:
            self._kept = (version, self.rows, self.pairs(model))
        return self._kept[2]

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to a pass under way, whose graph cannot be copied."""
        return {**self.__dict__, "_pass": None}


class _BeforeBlock:
    """A hook before one block: its state, or none, behind the virtual tokens."""

    def __init__(self, model: CausalLM, virtual: VirtualTokens, layer: int) -> None:
        self.model = model
        self.virtual = virtual
        self.layer = layer

    def __call__(
        self, block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden, context, *rest = args
        state: BlockState | None = rest[0] if rest else kwargs.get("state")
        keys, values = self.virtual.pairs_in_pass(self.model, context)[self.layer]
        behind = BlockState(
            Prefixed(keys, values, None if state is None else state.mixer),
            None if state is None else state.ffn,
        )
        return (hidden, context, behind), {}


def trained_dtype(model: CausalLM) -> torch.dtype:
    """Of the rows: float32, or wider where the model is."""
    wide = model.dtype == torch.float64
    return torch.float64 if wide else torch.float32
