"""Model configurations: the specs of a model's blocks, in order, and of its embedding, output and
norms.
"""

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


MAX_LAYERS = 4096
"""Maximum number of blocks. Published models have up to 126; the deepest in the literature
(DeepNet, arXiv:2203.00555) 1,000.
"""
MAX_EXPERTS = 1 << 13
"""Maximum number of experts in a layer; published models have up to 512."""
MAX_ALL_EXPERTS = 1 << 17
"""Maximum number of experts in all layers together; published models have up to 29,696."""
MAX_SIZE = 2**31 - 1
"""Maximum of any integer in a config, such as the context length."""
MAX_WIDTH = 1 << 24
"""Maximum width, number of heads or vocabulary size."""
_LONG = ("length", "window", "position", "context", "chunk")


class BlockSpec(Spec):
    """A block: a mixer over positions and a feed-forward over channels, each added to the residual
    stream.

    residual, where f is the mixer or the feed-forward and n its norm (n2 the second norm):
    - pre: x + f(n(x))
    - post: x + n(f(x))
    - sandwich: x + n2(f(n(x)))
    - parallel: x + mixer(n(x)) + ffn(n2(x)), with a single norm if `shared_norm`
    - normed: s n(x) + f(n(x)), s = `skip_scale`
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
    """A block repeated `times` times."""

    block: BlockSpec
    times: int = Field(1, gt=0, le=MAX_LAYERS)


class Initialization(Spec):
    """How weights are initialized: N(0, std), with a smaller std for projections into the residual
    stream.

    Source: GPT-2 (Radford et al. 2019, section 2.3): those are scaled by 1/sqrt(2 * layers).
    """

    std: float = Field(0.02, gt=0)
    scale_residual: bool = True
    embedding_std: float | None = Field(None, gt=0, description="of the embeddings; None: std")


class MultiTokenPrediction(Spec):
    """Modules that predict tokens beyond the next one, as an auxiliary loss; generation does not
    use them.

    The loss increases by weight / depth times the sum of their cross-entropies.
    Source: DeepSeek-V3, arXiv:2412.19437, section 2.2 (there depth 1, weight 0.3, later 0.1).
    """

    depth: int = Field(1, gt=0, le=64, description="how many tokens beyond the next one")
    weight: float = Field(0.3, gt=0, description="lambda")
    block: BlockSpec | None = Field(None, description="of each module; None: as the last layer")


class ModelBody(Spec):
    """A model's configuration without the vocabulary size, which the tokenizer determines.

    Raises UserError (through `core.config.parse`) for unknown keys and inconsistent sizes.
    """

    hidden_size: int = Field(gt=0, le=MAX_WIDTH)
    context_length: int = Field(
        gt=0, le=MAX_SIZE, description="the longest sequence it is made for"
    )
    blocks: tuple[Repeat, ...] = Field(min_length=1, max_length=MAX_LAYERS)
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
        if self.num_layers > MAX_LAYERS:
            raise ValueError(f"blocks are {self.num_layers} layers; use {MAX_LAYERS} or fewer")
        experts = 0
        for place, repeat in enumerate(self.blocks):
            _refuse_beyond(repeat.block, f"blocks.{place}.block")
            if isinstance(repeat.block.ffn, MixtureOfExperts):
                experts += repeat.times * repeat.block.ffn.num_experts
        if experts > MAX_ALL_EXPERTS:
            raise ValueError(f"blocks have {experts} experts; use {MAX_ALL_EXPERTS} or fewer")
        if self.mtp is not None and self.mtp.block is not None:
            _refuse_beyond(self.mtp.block, "mtp.block")
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
        """One spec for each layer, with repeats expanded."""
        return [repeat.block for repeat in self.blocks for _ in range(repeat.times)]

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return sum(repeat.times for repeat in self.blocks)


def _refuse_beyond(spec: Spec, where: str) -> None:
    """Check every integer in a spec against the bounds of models, before anything is built from it."""
    for key, value in spec:
        path = f"{where}.{key}"
        if isinstance(value, Spec):
            _refuse_beyond(value, path)
        elif isinstance(value, int) and not isinstance(value, bool):
            most = MAX_SIZE if any(word in key for word in _LONG) else MAX_WIDTH
            most = MAX_EXPERTS if key == "num_experts" else most
            if abs(value) > most:
                raise ValueError(f"{path} = {value}: use {most} or less")


class ModelConfig(ModelBody):
    """The configuration of a model. Equal configurations build equal modules.

    The numbers of layers and experts and every width are bounded (MAX_LAYERS and the like), since a
    model is built from its config before any weight file is read.
    """

    vocab_size: int = Field(gt=0, le=MAX_WIDTH)
