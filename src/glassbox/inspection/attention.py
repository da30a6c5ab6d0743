"""What heads look at: attention patterns, and scores that say what a head does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.evaluating import evaluating
from glassbox.inspection.recording import HasModel, inspect, the_model
from glassbox.inspection.sites import names
from glassbox.layers.attention import GroupedQueryAttention
from glassbox.models.causal_lm import CausalLM


def attention_patterns(
    model: CausalLM | HasModel, ids: Int[Tensor, "B T"], *, layers: list[int] | None = None
) -> dict[int, Float[Tensor, "B H T T"]]:
    """Layer -> the weight of each token's value in each head's output at each token.

    Softmax attention computes no such matrix with a fast kernel; it is recomputed from the queries
    and keys of the same pass. Of linear attention and recurrences it is the matrix that they are
    equal to (arXiv:2403.01590, section 3, for Mamba): rows need not sum to 1, a head is a channel
    where channels decay apart. Layers whose mixer has no such matrix are left out.
    Raises UserError where no layer that is asked for has one.
    Tested against: the derivative of the kernel's output by its values; TransformerLens.
    """
    model = the_model(model)
    known = names(model)
    wanted = range(len(model.blocks)) if layers is None else layers
    paths = {layer: f"blocks.{layer}.mixer.attention" for layer in wanted}
    paths = {layer: path for layer, path in paths.items() if path in known}
    if not paths:
        raise UserError("layers: no mixer of these has attention patterns; choose others")
    with evaluating(model), torch.no_grad(), inspect(model, list(paths.values())) as run:
        model.hidden_states(ids.to(model.device))
    return {layer: run[path] for layer, path in paths.items()}


@dataclass(frozen=True)
class HeadScores:
    """Attention patterns of heads on repeated random tokens, each (L, H), from 0 to 1.

    induction: weight on the token after the previous occurrence of this token.
    previous: weight on the token before. duplicate: weight on the previous occurrence of this
        token.
    """

    induction: Float[Tensor, "L H"]
    previous: Float[Tensor, "L H"]
    duplicate: Float[Tensor, "L H"]


def head_scores(
    model: CausalLM | HasModel, *, length: int = 50, batch: int = 4, seed: int = 0
) -> HeadScores:
    """Mean attention to particular earlier tokens, on `length` random tokens that come twice.

    Every mixer must have the same number of heads. Raises UserError where they have not, or the
    context is shorter than 2 length.
    Source: Olsson et al., arXiv:2209.11895, section "induction heads" (prefix matching score).
    Tested against: TransformerLens.
    """
    model = the_model(model)
    if 2 * length > model.config.context_length:
        raise UserError(
            f"length = {length}: it comes twice, and the model's context is "
            f"{model.config.context_length}; give at most {model.config.context_length // 2}"
        )
    generator = torch.Generator().manual_seed(seed)
    once = torch.randint(model.config.vocab_size, (batch, length), generator=generator)
    patterns = attention_patterns(model, torch.cat((once, once), 1))
    sizes = {pattern.shape[1] for pattern in patterns.values()}
    if len(sizes) > 1:
        raise UserError(f"layers have {sorted(sizes)} heads; use attention_patterns layer by layer")
    weights = torch.stack([patterns[layer].mean(0) for layer in sorted(patterns)])  # (L, H, T, T)

    return HeadScores(
        induction=weights.diagonal(1 - length, -2, -1).mean(-1),
        previous=weights.diagonal(-1, -2, -1).mean(-1),
        duplicate=weights.diagonal(-length, -2, -1).mean(-1),
    )


def copying_scores(model: CausalLM | HasModel) -> Float[Tensor, "L H"]:
    """Of each head sum(eigenvalue) / sum |eigenvalue| of its map from tokens to logits, W_U W_O W_V W_E.

    1 where seeing a token makes the same token likelier, -1 where less likely. Positive eigenvalues
    are copying. The map has rank Dh, so its eigenvalues are those of (W_V W_E) (W_U W_O), Dh by Dh;
    norms are left aside but for their factors.
    Raises UserError for a model with layers other than grouped-query attention.
    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", section "copying".
    Tested against: the eigenvalues of the whole (V, V) matrix.
    """
    model = the_model(model)
    scores = []
    for number, block in enumerate(model.blocks):
        mixer = block.mixer
        if not isinstance(mixer, GroupedQueryAttention):
            raise UserError(f"layer {number} is no grouped-query attention; it has no such scores")
        queries, size = mixer.num_heads * mixer.head_dim, mixer.head_dim
        keys = mixer.num_kv_heads * size
        values = mixer.qkv.weight[queries + keys : queries + 2 * keys].detach().double()
        read = (
            values * _gain(block.mixer_norm)
        ) @ model.embedding.weight.detach().double().T  # (K Dh, V)
        read = read.unflatten(0, (mixer.num_kv_heads, size))
        output = mixer.output.weight.detach().double().unflatten(1, (mixer.num_heads, size))
        head = model.output_weight.detach().double() * _gain(model.final_norm)  # (V, D)
        row = []
        for number_of_head in range(mixer.num_heads):
            shared = number_of_head // (mixer.num_heads // mixer.num_kv_heads)
            small = read[shared] @ (head @ output[:, number_of_head])  # (Dh, Dh)
            values_of = torch.linalg.eigvals(small)
            row.append(values_of.real.sum() / values_of.abs().sum())
        scores.append(torch.stack(row))
    return torch.stack(scores)


def _gain(norm: Any) -> Tensor | float:
    """The factors of a norm; 1 where there is none."""
    return 1.0 if norm is None else norm.gain.detach().double()


@dataclass(frozen=True)
class ReceptiveField:
    """How far back a layer's heads reach, from the absolute weights of `attention_patterns`.

    by_distance: (H, T), share of all weight on tokens that many back; each head's sum to 1.
    mean_distance: (H,), its mean. reach: (H,), the least distance within which `share` of it lies.
    """

    by_distance: Float[Tensor, "H T"]
    mean_distance: Float[Tensor, " H"]
    reach: Int[Tensor, " H"]


def receptive_field(
    model: CausalLM | HasModel, ids: Int[Tensor, "B T"], layer: int, *, share: float = 0.9
) -> ReceptiveField:
    """How far back one layer looks on these texts, for attention, linear attention and recurrences alike.

    Distance d weighs the mean over tokens t >= d of |weight of token t - d at t|, so that early tokens,
    which have a short past, bias it little. Source: Luo et al., arXiv:1701.04128, section 2 (the
    derivative of an output by each input; here that of a mixer by its values).
    Tested against: the closed form of a fixed decay, share gamma^d (1 - gamma).
    """
    if not 0 < share <= 1:
        raise UserError(f"share = {share}: give more than 0 and at most 1")
    weights = attention_patterns(model, ids, layers=[layer])[layer].abs().mean(0)  # (H, T, T)
    length = weights.shape[-1]
    means = torch.stack([weights.diagonal(-d, -2, -1).mean(-1) for d in range(length)], -1)
    by_distance = means / means.sum(-1, keepdim=True).clamp(min=torch.finfo(means.dtype).tiny)
    distance = torch.arange(length, device=means.device, dtype=means.dtype)
    reach = (by_distance.cumsum(-1) < share - 1e-9).sum(-1).clamp(max=length - 1)
    return ReceptiveField(by_distance, by_distance @ distance, reach)
