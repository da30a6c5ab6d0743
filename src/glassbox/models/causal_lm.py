"""The model class: embedding, blocks, final norm and output projection."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.layers.context import Auxiliary, Context
from glassbox.layers.initialization import Draw, Initializes
from glassbox.layers.linear import Embedding, Linear
from glassbox.layers.pages import Pages
from glassbox.layers.quantized_linear import CodedMatrix
from glassbox.models.block import Block, BlockState
from glassbox.models.config import ModelConfig
from glassbox.models.heads import ScalarHead
from glassbox.models.mtp import FutureModule, ahead
from glassbox.ops.activations import soft_cap
from glassbox.ops.cross_entropy import linear_cross_entropy_parts, linear_token_log_probs
from glassbox.ops.sinusoidal import sinusoidal


class CausalLM(nn.Module):
    """A causal language model: predicts each token of a sequence from the tokens before it.

    One class for all architectures; a `ModelConfig` specifies its blocks.
    Tested against: transformers GPT-2 and Llama, logits and gradients, on random weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embedding = Embedding(config.vocab_size, size)
        self.position_embedding = (
            Embedding(config.context_length, size) if config.learned_positions else None
        )
        self.embedding_norm = (
            None if config.embedding_norm is None else config.embedding_norm.build(size)
        )
        self.blocks = nn.ModuleList(Block(spec, size, config.dropout) for spec in config.layers())
        self.final_norm = config.final_norm.build(size)
        self.head = (
            None
            if config.tie_embeddings
            else Linear(size, config.vocab_size, bias=config.head_bias)
        )
        depth = 0 if config.mtp is None else config.mtp.depth
        self.mtp = nn.ModuleList(FutureModule(config) for _ in range(depth))
        self.score = ScalarHead(size) if config.score_head else None
        if self.device.type != "meta":  # there is nothing to draw, and torch is slow to say so
            self.initialize()

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights as `config.init` specifies, layer by layer (see
        docs/design/initialization.md).

        generator: random generator on the device of the weights.
        """
        draw = self.initial_draw(generator)
        for module in self.modules():
            if module is not self and isinstance(module, Initializes):
                module.initialize(draw)

    def initial_draw(self, generator: torch.Generator | None = None) -> Draw:
        """The standard deviations that layers are initialized with."""
        init = self.config.init
        branches = sum(2 - (spec.ffn is None) for spec in self.config.layers())
        residual_std = init.std / math.sqrt(branches) if init.scale_residual else init.std
        embedding_std = init.std if init.embedding_std is None else init.embedding_std
        return Draw(init.std, residual_std, embedding_std, generator)

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The (V, D) output projection; the embedding's weight if they are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    @property
    def output_bias(self) -> Float[Tensor, " V"] | None:
        """The bias of the output projection, or None."""
        return None if self.head is None else self.head.bias

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """What the embedding looks rows up in: that of the hidden states."""
        return self.embedding.dtype

    @property
    def num_parameters(self) -> int:
        """Number of trainable and frozen parameters, tied ones counted once."""
        coded = (m.rows * m.columns for m in self.modules() if isinstance(m, CodedMatrix))
        return sum(parameter.numel() for parameter in self.parameters()) + sum(coded)

    def init_state(
        self, batch_size: int, max_length: int, dtype: torch.dtype | None = None
    ) -> list[BlockState]:
        """Create an empty state for each layer, for up to `max_length` tokens in each of
        `batch_size` rows.
        """
        dtype = self.dtype if dtype is None else dtype
        return [
            block.init_state(batch_size, max_length, device=self.device, dtype=dtype)  # type: ignore[operator]
            for block in self.blocks
        ]

    def hidden_states(
        self,
        ids: Int[Tensor, "B T"],
        *,
        positions: Int[Tensor, "#B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
        lengths: Int[Tensor, " B"] | None = None,
        state: list[BlockState] | None = None,
        key_length: int | None = None,
        pages: Pages | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Compute the final norm's output times `logit_scale`, the input of `logits` and of the
        fused losses.

        ids: (B, T) token ids.
        positions: counted from the start of each document (by default 0, 1, 2, ...). With `state`
            they are also cache slots.
        documents: document index of each token, for several documents packed in a row; attention
            and states do not cross documents.
        state: the layers' caches; the pass writes into them and attends to the first `key_length`
            slots.
        pages: page tables of the layers whose state is paged.
        Returns (B, T, D). Raises UserError for a sequence longer than the learned positions.
        """
        longest = 0
        if positions is None:
            if documents is not None:
                positions = positions_in_documents(documents)
            else:
                longest = ids.shape[1]
                positions = torch.arange(longest, device=ids.device).unsqueeze(0)
        if state is not None:
            key_length = int(positions.max()) + 1 if key_length is None else key_length
            longest = key_length
        if self.position_embedding is not None and longest > self.config.context_length:
            raise UserError(
                f"a sequence of {longest} tokens, but context_length = {self.config.context_length} "
                "and the model's learned positions end there; shorten it"
            )
        context = Context(
            positions=positions,
            documents=documents,
            lengths=lengths,
            key_length=None if state is None else key_length,
            pages=pages,
            auxiliary=auxiliary,
        )
        hidden = self.embed(ids, positions)
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, context, None if state is None else state[index])
        return self.finish(hidden)

    def embed(
        self, ids: Int[Tensor, "B T"], positions: Int[Tensor, "#B T"]
    ) -> Float[Tensor, "B T D"]:
        """Embed token ids: the input of the first block."""
        hidden = self.embedding(ids)
        if self.config.embedding_scale != 1.0:
            hidden = hidden * self.config.embedding_scale
        if self.position_embedding is not None:
            hidden = hidden + self.position_embedding(positions)
        if self.config.sinusoidal_positions:
            hidden = hidden + sinusoidal(positions, self.config.hidden_size).to(hidden.dtype)
        if self.embedding_norm is not None:
            hidden = self.embedding_norm(hidden)
        if self.config.dropout and self.training:
            hidden = F.dropout(hidden, self.config.dropout)
        return hidden

    def finish(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply the final norm and `logit_scale` to the last block's output."""
        # as narrow as the weights again, where a stream in float32 passed bfloat16 blocks
        hidden = self.final_norm(hidden).to(self.dtype)
        return hidden if self.config.logit_scale == 1.0 else hidden * self.config.logit_scale

    def logits(self, hidden: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape V"]:
        """Compute the logits over the vocabulary from the output of `hidden_states`."""
        return self.cap(self.project(hidden))

    def project(self, hidden: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape V"]:
        """Compute output_weight hidden + output_bias, the logits before the soft cap."""
        scores: Tensor = self.embedding.project(hidden) if self.head is None else self.head(hidden)
        return scores

    def cap(self, logits: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape V"]:
        """Apply the soft cap to logits, if the model has one."""
        cap = self.config.logit_softcap
        return logits if cap is None else soft_cap(logits, cap)

    def scores(self, hidden: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape"]:
        """Compute the scalar head's output at every position from the output of `hidden_states`.

        Raises UserError for a model without a scalar head.
        """
        if self.score is None:
            raise UserError(
                "this model has no scalar head (its config says score_head = false); "
                "train one with `stage: reward`, or add it with add_score_head"
            )
        return self.score(hidden)

    def cross_entropy(
        self,
        hidden: Float[Tensor, "*shape D"],
        targets: Int[Tensor, "*shape"],
        weights: Float[Tensor, "*shape"] | None = None,
        *,
        z_loss: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Sum of -w log p(target), computed from the output of `hidden_states` in chunks, so that
        the logits are never held in memory all at once.

        z_loss: coefficient of the added term w (log sum exp logits)^2.
        """
        return self.cross_entropy_parts(hidden, targets, weights, z_loss=z_loss)[0]

    def cross_entropy_parts(
        self,
        hidden: Float[Tensor, "*shape D"],
        targets: Int[Tensor, "*shape"],
        weights: Float[Tensor, "*shape"] | None = None,
        *,
        z_loss: float = 0.0,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """`cross_entropy`, and the part of it that is the z-loss, detached."""
        return linear_cross_entropy_parts(
            hidden,
            self.output_weight,
            targets,
            weights,
            bias=self.output_bias,
            softcap=self.config.logit_softcap,
            z_loss=z_loss,
        )

    def future_loss(
        self,
        hidden: Float[Tensor, "B T D"],
        ids: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> Float[Tensor, ""] | None:
        """The multi-token prediction loss: weight / depth times the sum over k of the summed -log
        p_k(the token k places after the target).

        hidden: the output of `hidden_states` for `ids`. Targets beyond the end of a document are
            ignored. Like the main loss it is to be divided by the number of targets. Returns None
            if `config.mtp` is None.
        Source: arXiv:2412.19437, equations 24 and 25. Tested against: the equations as loops.
        """
        config = self.config.mtp
        if config is None:
            return None
        if documents is None:
            positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        else:
            positions = positions_in_documents(documents)
        context = Context(positions=positions, documents=documents, auxiliary=auxiliary)
        losses = []
        for depth, module in enumerate(self.mtp, start=1):
            # where the token lies beyond the document, so does the target, and any id will do
            embedding = self.embedding(ahead(ids, depth, documents, beyond=0))
            hidden = module(hidden, embedding, context)
            if self.config.logit_scale != 1.0:
                hidden = hidden * self.config.logit_scale
            losses.append(self.cross_entropy(hidden, ahead(targets, depth, documents)))
        return torch.stack(losses).sum() * (config.weight / config.depth)

    def token_log_probs(
        self,
        hidden: Float[Tensor, "*shape D"],
        targets: Int[Tensor, "*shape"],
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "*shape"]:
        """log p(target) at each position from the output of `hidden_states`; zero where the target
        is IGNORE.
        """
        return linear_token_log_probs(
            hidden,
            self.output_weight,
            targets,
            bias=self.output_bias,
            softcap=self.config.logit_softcap,
            temperature=temperature,
        )

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        *,
        positions: Int[Tensor, "#B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
        lengths: Int[Tensor, " B"] | None = None,
        state: list[BlockState] | None = None,
        key_length: int | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Compute the logits of the next token at every position; the arguments are those of
        `hidden_states`.
        """
        return self.logits(
            self.hidden_states(
                ids,
                positions=positions,
                documents=documents,
                lengths=lengths,
                state=state,
                key_length=key_length,
            )
        )


def positions_in_documents(documents: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Position of each token counted from the start of its packed document.

    >>> positions_in_documents(torch.tensor([[0, 0, 0, 1, 1]])).tolist()
    [[0, 1, 2, 0, 1]]
    """
    order = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    first = torch.where(starts, order, torch.zeros_like(order)).cummax(dim=1).values
    return order - first
