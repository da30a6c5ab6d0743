"""A model is data: the specs of its blocks, in order, and what stands around them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.block_mixture import BlockMixture
from glassbox.layers.delta_net import DeltaNet, GatedDelta
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import Perceptron
from glassbox.layers.gated_attention_unit import GatedAttentionUnit
from glassbox.layers.latent import Latent
from glassbox.layers.lightning import Lightning
from glassbox.layers.mamba import Mamba
from glassbox.layers.mamba2 import Mamba2
from glassbox.layers.native_sparse import NativeSparse
from glassbox.layers.norms import Norm, RmsNorm
from glassbox.layers.python_layer import PythonFeedForward, PythonMixer
from glassbox.layers.retention import Retention
from glassbox.layers.rwkv import RwkvChannel, RwkvTime
from glassbox.layers.rwkv7 import Rwkv7Channel, Rwkv7Time

# a new mixer or feed-forward is its own file and a line here
Mixer = Annotated[
    GroupedQuery
    | Latent
    | NativeSparse
    | BlockMixture
    | GatedAttentionUnit
    | Lightning
    | Retention
    | DeltaNet
    | GatedDelta
    | Mamba
    | Mamba2
    | RwkvTime
    | Rwkv7Time
    | PythonMixer,
    Field(discriminator="kind"),
]
FeedForward = Annotated[
    Perceptron | MixtureOfExperts | RwkvChannel | Rwkv7Channel | PythonFeedForward,
    Field(discriminator="kind"),
]


class BlockSpec(Spec):
    """One block: a mixer over time, then a feed-forward over channels, each on the residual stream.

    residual, with f a branch and n its norm (the second one for sandwich):
    pre x + f(n(x)); post x + n(f(x)); sandwich x + n2(f(n(x)));
    parallel x + mixer(n(x)) + ffn(n2(x)), or of one shared norm with `shared_norm`;
    normed s n(x) + f(n(x)), the stream itself normed before each branch, s = `skip_scale`.
    """

    mixer: Mixer
    ffn: FeedForward | None
    norm: Norm = RmsNorm()
    residual: Literal["pre", "post", "sandwich", "parallel", "normed"] = "pre"
    shared_norm: bool = Field(False, description="parallel only: both branches read one norm")
    residual_scale: float = Field(1.0, gt=0, description="times each branch before it is added")
    skip_scale: float = Field(1.0, gt=0, description="normed only: times what a branch is added to")
    float32_residual: bool = Field(
        False, description="keep the stream in float32 where the weights are narrower, as Mamba"
    )

    @model_validator(mode="after")
    def _norms_fit(self) -> BlockSpec:
        if self.shared_norm and self.residual != "parallel":
            raise ValueError(f"shared_norm needs residual = parallel, not '{self.residual}'")
        if self.skip_scale != 1.0 and self.residual != "normed":
            raise ValueError(f"skip_scale needs residual = normed, not '{self.residual}'")
        return self


class Repeat(Spec):
    """The same block, `times` times in a row."""

    block: BlockSpec
    times: int = Field(1, gt=0)


class Initialization(Spec):
    """How fresh weights are drawn: N(0, std), the projections into the residual stream narrower.

    Source: GPT-2 (Radford et al. 2019, section 2.3): those are scaled by 1/sqrt(2 * layers).
    """

    std: float = Field(0.02, gt=0)
    scale_residual: bool = True
    embedding_std: float | None = Field(None, gt=0, description="of the embeddings; None: std")


class MultiTokenPrediction(Spec):
    """Modules behind the model that learn later tokens than the next; generation leaves them aside.

    The loss gains weight / depth times the sum of their cross-entropies.
    Source: DeepSeek-V3, arXiv:2412.19437, section 2.2 (there depth 1, weight 0.3, later 0.1).
    """

    depth: int = Field(1, gt=0, description="how many tokens beyond the next one")
    weight: float = Field(0.3, gt=0, description="lambda")
    block: BlockSpec | None = Field(None, description="of each module; None: as the last layer")


class ModelBody(Spec):
    """All of a model but its vocabulary, which the tokenizer decides.

    Raises UserError (through `core.config.parse`) for unknown keys or sizes that do not fit.
    """

    hidden_size: int = Field(gt=0)
    context_length: int = Field(gt=0, description="the longest sequence it is made for")
    blocks: tuple[Repeat, ...] = Field(min_length=1)
    learned_positions: bool = Field(
        False, description="add a trained vector per position to the embedding, as GPT-2"
    )
    sinusoidal_positions: bool = Field(
        False, description="add a fixed vector of waves per position to the embedding"
    )
    final_norm: Norm = RmsNorm()
    tie_embeddings: bool = True
    embedding_norm: Norm | None = Field(None, description="on the embedding, as BLOOM")
    embedding_scale: float = Field(1.0, gt=0, description="times the token embedding")
    logit_scale: float = Field(1.0, gt=0, description="times the logits")
    logit_softcap: float | None = Field(None, gt=0, description="c: logits become c tanh(logits/c)")
    head_bias: bool = Field(False, description="a bias on the logits; not with tied embeddings")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the embedding and each residual branch")
    init: Initialization = Initialization()
    mtp: MultiTokenPrediction | None = None
    score_head: bool = Field(
        False, description="a number of each hidden state beside the logits: rewards or values"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> ModelBody:
        for repeat in self.blocks:
            repeat.block.mixer.resolve(self.hidden_size)
        if self.mtp is not None and self.mtp.block is not None:
            self.mtp.block.mixer.resolve(self.hidden_size)
        if self.learned_positions and self.sinusoidal_positions:
            raise ValueError("learned_positions and sinusoidal_positions are both true; choose one")
        if self.head_bias and self.tie_embeddings:
            raise ValueError("head_bias = true needs tie_embeddings = false")
        return self

    def layers(self) -> list[BlockSpec]:
        """One spec a layer, repeats written out."""
        return [repeat.block for repeat in self.blocks for _ in range(repeat.times)]

    @property
    def num_layers(self) -> int:
        """How many blocks a token passes."""
        return sum(repeat.times for repeat in self.blocks)


class ModelConfig(ModelBody):
    """Everything that decides a model's shape. Equal configs make equal modules."""

    vocab_size: int = Field(gt=0)
