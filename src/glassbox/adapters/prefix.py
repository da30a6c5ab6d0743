"""Prefix tuning: trained keys and values. Source: Li and Liang, arXiv:2101.00190."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from glassbox.adapters.base import Adapters
from glassbox.adapters.virtual_tokens import (
    Pairs,
    VirtualTokens,
    VirtualTokensSpec,
    attention_layers,
    trained_dtype,
)
from glassbox.core.errors import UserError
from glassbox.layers.context import Context
from glassbox.layers.rotary import Rotary
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.rotary import apply_rotary


class PrefixTuning(VirtualTokensSpec):
    """Prefix tuning: trained keys and values before every sequence, in every layer."""

    peft_type: ClassVar[str] = "PREFIX_TUNING"
    kind: Literal["prefix"] = "prefix"

    def attach(self, adapters: Adapters, name: str, generator: torch.Generator) -> None:
        """Drawn from a normal distribution, as PEFT's."""
        model = adapters.model
        mixers = attention_layers(model.config, "prefix tuning")
        sizes = {m.kv_heads * m.resolved_head_dim(model.config.hidden_size) for m in mixers}
        if len(sizes) > 1:
            raise UserError(
                "prefix tuning needs keys of one size in all layers; use lora or prompt"
            )
        shape = (self.tokens, 2 * len(mixers) * sizes.pop())
        rows = torch.randn(shape, generator=generator).to(model.device, trained_dtype(model))
        Prefix(rows).put_before(adapters)

    def peft_config(self, adapters: Adapters, name: str) -> dict[str, Any]:
        """PEFT's config: its heads are the key/value heads, its width that of a token's keys."""
        config = adapters.model.config
        mixer = attention_layers(config, "prefix tuning")[0]
        size = mixer.kv_heads * mixer.resolved_head_dim(config.hidden_size)
        return super().peft_config(adapters, name) | {
            "num_attention_heads": mixer.kv_heads,
            "token_dim": size,
            "encoder_hidden_size": size,
            "prefix_projection": False,
        }


class Prefix(VirtualTokens):
    """Trained prefixes: rows (V, 2 L K Dh), for each layer the unrotated keys, then the values,
    head by head.

    The keys have the positions before the first token, as in PEFT.
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
