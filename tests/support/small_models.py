"""Small models with random weights whose outputs depend on every layer, for tests of compression."""

from __future__ import annotations

import torch

from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

VOCAB, SIZE = 320, 128


def small_model(*, tied: bool = True, bias: bool = False, seed: int = 0, **config) -> CausalLM:
    """Two Llama blocks of sizes that the packed kernels take, drawn wide enough to matter."""
    mixer = GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary(), qkv_bias=bias)
    block = config.pop("block", None) or BlockSpec(mixer=mixer, ffn=SwiGlu(size=256))
    model = CausalLM(
        ModelConfig(
            vocab_size=VOCAB,
            hidden_size=SIZE,
            context_length=64,
            blocks=(Repeat(block=block, times=2),),
            tie_embeddings=tied,
            **config,
        )
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return model


def some_ids(rows: int = 2, length: int = 20, seed: int = 0) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))
