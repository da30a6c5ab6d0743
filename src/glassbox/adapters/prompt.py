"""Prompt tuning: trained vectors before the embeddings. Source: Lester et al., arXiv:2104.08691."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from glassbox.adapters.base import Adapters
from glassbox.adapters.prefix_state import Recorder
from glassbox.adapters.virtual_tokens import (
    Pairs,
    VirtualTokens,
    VirtualTokensSpec,
    attention_layers,
    trained_dtype,
)
from glassbox.layers.context import Context
from glassbox.models.block import BlockState
from glassbox.models.causal_lm import CausalLM


class PromptTuning(VirtualTokensSpec):
    """Prompt tuning: trained vectors that take the place of token embeddings before the input."""

    peft_type: ClassVar[str] = "PROMPT_TUNING"
    kind: Literal["prompt"] = "prompt"

    def attach(self, adapters: Adapters, name: str, generator: torch.Generator) -> None:
        """Begin as embeddings of tokens: a far better start than noise (Lester et al., section 3.2)."""
        model = adapters.model
        attention_layers(model.config, "prompt tuning")
        table = model.embedding.weight.detach()
        ids = torch.randint(len(table), (self.tokens,), generator=generator)
        rows = table[ids.to(table.device)].to(trained_dtype(model), copy=True)
        Prompt(rows).put_before(adapters)


class Prompt(VirtualTokens):
    """Trained vectors in place of embeddings, (V, D), passed through the layers once for all rows.

    No token precedes them, so their keys and values are the same for every sequence.
    Source: Lester et al., arXiv:2104.08691. Tested against: peft, outputs and gradients.
    """

    def pairs(self, model: CausalLM) -> Pairs:
        """The keys and values that the layers make of the rows."""
        count = self.rows.shape[0]
        positions = torch.arange(-count, 0, device=self.rows.device).unsqueeze(0)
        hidden = self.rows.unsqueeze(0).to(model.dtype)
        if model.embedding_norm is not None:
            hidden = model.embedding_norm(hidden)
        context = Context(positions)
        found = []
        for block in model.blocks:
            recorder = Recorder()
            hidden = block.forward(hidden, context, BlockState(recorder))  # past the hook
            assert recorder.keys is not None
            assert recorder.values is not None
            found.append((recorder.keys, recorder.values))
        return found
