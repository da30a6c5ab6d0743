"""A random model with a tokenizer that knows chats, small enough to be served in a test."""

from __future__ import annotations

import torch

from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.tokenizers import Tokenizer, train_bpe

SENTENCES = [
    "The fox found a red ball under the old tree.",
    "A girl asked the fox where the ball was, and the fox told her the truth.",
    "They played until the sun went down; then they walked home together.",
]


def tiny_tokenizer() -> Tokenizer:
    """Bytes, a few merges, and our four special tokens with their chat template."""
    return train_bpe(SENTENCES, 300)


def tiny_chat_model(tokenizer: Tokenizer, *, context_length: int = 128) -> CausalLM:
    """Weights large enough that its choices vary."""
    mixer = GroupedQuery(num_heads=2, num_kv_heads=1, positions=Rotary())
    block = BlockSpec(mixer=mixer, ffn=SwiGlu(size=32))
    model = CausalLM(
        ModelConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=16,
            context_length=context_length,
            blocks=(Repeat(block=block, times=2),),
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    return model.eval()
