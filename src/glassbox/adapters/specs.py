"""The kinds of adapter, as data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from glassbox.core.config import Spec


class AdapterSpec(Spec):
    """What all adapters share: how the frozen base is kept."""

    quantize: Literal["nf4"] | None = Field(
        None, description="keep the base's matrices in 4 bits (QLoRA)"
    )
    compute: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="in which the products with 4-bit matrices are taken"
    )
    also: tuple[str, ...] = Field(
        (), description="patterns of parameters that are trained whole, as score.* or *norm*"
    )


class Lora(AdapterSpec):
    """Low-rank updates of linear layers; with `dora` of direction and length apart.

    targets: names of linear layers, ours or Hugging Face's, whole (`blocks.0.mixer.qkv`), their ends
    (`q_proj`, `mixer.output`) or patterns (`*.3.mlp.*`); `all-linear` is every one within the blocks.
    """

    kind: Literal["lora"] = "lora"
    targets: tuple[str, ...] = ("all-linear",)
    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0, description="the update is times alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="on what enters the update")
    rank_stabilized: bool = Field(False, description="times alpha / sqrt(rank) instead (rsLoRA)")
    dora: bool = False
    bias: Literal["none", "all", "lora_only"] = Field(
        "none", description="which biases of the base are trained along"
    )


class BottleneckAdapter(AdapterSpec):
    """A small perceptron behind each branch of each block (Houlsby)."""

    kind: Literal["bottleneck"] = "bottleneck"
    size: int = Field(16, gt=0, description="width of its middle")
    activation: Literal["relu", "gelu"] = "relu"


class PrefixTuning(AdapterSpec):
    """Trained keys and values before every sequence, in every layer."""

    kind: Literal["prefix"] = "prefix"
    tokens: int = Field(16, gt=0, description="how many there are")


class PromptTuning(AdapterSpec):
    """Trained vectors in the place of the first tokens' embeddings."""

    kind: Literal["prompt"] = "prompt"
    tokens: int = Field(16, gt=0, description="how many there are")


AnyAdapter = Annotated[
    Lora | BottleneckAdapter | PrefixTuning | PromptTuning, Field(discriminator="kind")
]
