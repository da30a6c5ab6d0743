"""Short forms of a `ModelConfig` for recipes: common architectures with few settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import Gelu, SwiGlu
from glassbox.layers.norms import LayerNorm, RmsNorm
from glassbox.models.config import (
    BlockSpec,
    Initialization,
    ModelBody,
    ModelConfig,
    MultiTokenPrediction,
    Repeat,
)


class LlamaShape(Spec):
    """The Llama architecture: RMSNorm, grouped-query attention with rotary positions, SwiGLU."""

    kind: Literal["llama"] = "llama"
    hidden_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    num_kv_heads: int | None = Field(None, gt=0)
    head_dim: int | None = Field(None, gt=0)
    ffn_size: int = Field(gt=0)
    context_length: int = Field(gt=0)
    rope_base: float = Field(10000.0, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    tie_embeddings: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    init: Initialization = Initialization()
    mtp: MultiTokenPrediction | None = None

    def config(self, vocab_size: int) -> ModelConfig:
        """Return the `ModelConfig` for a vocabulary size."""
        norm = RmsNorm(eps=self.norm_eps)
        block = BlockSpec(
            mixer=GroupedQuery(
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                head_dim=self.head_dim,
                positions=Rotary(base=self.rope_base),
            ),
            ffn=SwiGlu(size=self.ffn_size),
            norm=norm,
        )
        return ModelConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            context_length=self.context_length,
            blocks=(Repeat(block=block, times=self.num_layers),),
            final_norm=norm,
            tie_embeddings=self.tie_embeddings,
            dropout=self.dropout,
            init=self.init,
            mtp=self.mtp,
        )


class GPT2Shape(Spec):
    """The GPT-2 architecture: LayerNorm, multi-head attention with biases, learned positions, GELU."""

    kind: Literal["gpt2"] = "gpt2"
    hidden_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    context_length: int = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    init: Initialization = Initialization()

    def config(self, vocab_size: int) -> ModelConfig:
        """Return the `ModelConfig` for a vocabulary size; the feed-forward is four times as wide as
        the model.
        """
        block = BlockSpec(
            mixer=GroupedQuery(num_heads=self.num_heads, qkv_bias=True, output_bias=True),
            ffn=Gelu(size=4 * self.hidden_size),
            norm=LayerNorm(),
        )
        return ModelConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            context_length=self.context_length,
            blocks=(Repeat(block=block, times=self.num_layers),),
            learned_positions=True,
            final_norm=LayerNorm(),
            tie_embeddings=True,
            dropout=self.dropout,
            init=self.init,
        )


class BlocksShape(ModelBody):
    """Any architecture, specified block by block."""

    kind: Literal["blocks"] = "blocks"

    def config(self, vocab_size: int) -> ModelConfig:
        """Return the `ModelConfig` for a vocabulary size."""
        fields = {name: getattr(self, name) for name in ModelBody.model_fields}
        return ModelConfig(vocab_size=vocab_size, **fields)


Shape = Annotated[LlamaShape | GPT2Shape | BlocksShape, Field(discriminator="kind")]
