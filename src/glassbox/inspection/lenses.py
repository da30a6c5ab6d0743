"""What the model would say if it stopped at a layer: the logit lens, and the tuned lens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.inference.evaluating import evaluating
from glassbox.inspection.recording import HasModel, Index, inspect, the_model
from glassbox.models.causal_lm import CausalLM


def residual_stream(
    model: CausalLM | HasModel, ids: Int[Tensor, "B T"], *, at: Index = ...
) -> Float[Tensor, "L+1 B T D"]:
    """The stream before the first block and after each one. at: of each (B, T, D), what to keep."""
    model = the_model(model)
    count = len(model.blocks)
    wanted = ["blocks.0.residual_pre", *(f"blocks.{n}.residual_post" for n in range(count))]
    with evaluating(model), torch.no_grad(), inspect(model, wanted) as run:
        model.hidden_states(ids.to(model.device))
    return torch.stack([run[name][at].to(run[wanted[-1]].dtype) for name in wanted])


def unembed(
    model: CausalLM | HasModel, residual: Float[Tensor, "*shape D"]
) -> Float[Tensor, "*shape V"]:
    """Logits of a residual stream as if it were the last: final norm, projection, cap."""
    model = the_model(model)
    return model.logits(model.finish(residual))


def logit_lens(
    model: CausalLM | HasModel, ids: Int[Tensor, "B T"], *, at: Index = ...
) -> Float[Tensor, "L+1 B T V"]:
    """Logits after no block, after one, ... after all: the last are the model's own.

    at: which of the (B, T, D) hidden states to read, such as (0, -1) for one text's last token, since
        the logits of all layers, tokens and words together may be large.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens". Tested against: TransformerLens'
    accumulated residuals, unembedded; the model's logits.
    """
    model = the_model(model)
    with torch.no_grad():
        return unembed(model, residual_stream(model, ids, at=at))


class TunedLens(nn.Module):
    """An affine map for each layer's stream before the logit lens: unembed(h + A_l h + b_l).

    It begins as the logit lens (A = b = 0) and is trained with `fit`. The last layer has none.
    Source: Belrose et al., arXiv:2303.08112, section 2. Tested against: least squares, which the loss
    reaches where the truth is affine; its loss is no higher than the logit lens's.
    """

    def __init__(self, model: CausalLM | HasModel) -> None:
        super().__init__()
        inner = the_model(model)
        size, count = inner.config.hidden_size, len(inner.blocks)
        like = inner.embedding.weight
        self.matrix = nn.Parameter(like.new_zeros(count, size, size).float())
        self.bias = nn.Parameter(like.new_zeros(count, size).float())

    def translate(self, stream: Float[Tensor, "L+1 ... D"]) -> Float[Tensor, "L+1 ... D"]:
        """Each layer's stream as the last layer would have it."""
        layers, shape = stream[:-1], stream.shape[1:]
        flat = layers.flatten(1, -2) if layers.dim() > 2 else layers.unsqueeze(1)
        matrix, bias = self.matrix.to(flat.dtype), self.bias.to(flat.dtype).unsqueeze(1)
        moved = torch.baddbmm(bias, flat, matrix.mT) + flat
        return torch.cat((moved.view(len(layers), *shape), stream[-1:]))

    def forward(
        self, model: CausalLM | HasModel, ids: Int[Tensor, "B T"], *, at: Index = ...
    ) -> Float[Tensor, "L+1 B T V"]:
        """As `logit_lens`, through the maps."""
        return unembed(model, self.translate(residual_stream(model, ids, at=at)))

    def loss(self, model: CausalLM, stream: Float[Tensor, "L+1 B T D"]) -> Float[Tensor, " L"]:
        """Mean KL(model || lens) of each layer, in nats."""
        final = unembed(model, stream[-1]).detach().log_softmax(-1)
        losses = []
        for moved in self.translate(stream)[:-1]:
            log_probs = unembed(model, moved).log_softmax(-1)
            losses.append((final.exp() * (final - log_probs)).sum(-1).mean())
        return torch.stack(losses)


def tuned_lens(
    model: CausalLM | HasModel,
    batches: Iterable[Int[Tensor, "B T"]],
    *,
    learning_rate: float = 1e-3,
    steps: int | None = None,
) -> tuple[TunedLens, list[float]]:
    """Train a `TunedLens` of a frozen model: the lens, and the mean loss (nats) of every step.

    batches: token ids, one batch a step; with `steps`, they are gone through again and again.
    Adam, as the paper's appendix; the model's weights stay as they are.
    Raises UserError where there is no batch.
    """
    model = the_model(model)
    lens = TunedLens(model)
    optimizer = torch.optim.Adam(lens.parameters(), lr=learning_rate)
    losses: list[float] = []
    found: Sequence[Tensor] = list(batches)
    if not found:
        raise UserError("batches is empty; give at least one batch of token ids")
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for step in range(len(found) if steps is None else steps):
            stream = residual_stream(model, found[step % len(found)])
            loss = lens.loss(model, stream).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return lens.requires_grad_(False).eval(), losses
