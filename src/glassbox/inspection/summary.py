"""A text as a model reads it, token by token: what it expected, how sure it was, at which depth it knew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glassbox.core.errors import UserError
from glassbox.inspection.lenses import residual_stream, unembed
from glassbox.inspection.recording import HasModel, the_model
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers.prefix import text_prefix
from glassbox.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenSummary:
    """One token of a text, and what the model says of its successor.

    log_prob: of this token given those before, in nats; None for one that nothing stands before.
    entropy: of the next token's distribution, in nats. likeliest: its tokens with their probabilities.
    depth: the layer from which the logit lens has the same likeliest token to the end; 0 is the
        embedding, the number of layers is the model itself.
    """

    text: str
    id: int
    log_prob: float | None
    entropy: float
    likeliest: list[tuple[str, float]]
    depth: int

    def to_json(self) -> Mapping[str, Any]:
        """The fields as JSON values."""
        return vars(self)


def token_summary(
    model: CausalLM | HasModel, tokenizer: Tokenizer, text: str, *, top: int = 3
) -> list[TokenSummary]:
    """Every token of a text with its log-probability, and the prediction behind it.

    The text is read behind the prefix that prompts have. Raises UserError for an empty text, and one
    beyond the model's context. Tested against: the model's logits and `logit_lens`.
    """
    model = the_model(model)
    prefix, ids = text_prefix(tokenizer, "auto"), tokenizer.encode(text)
    if not ids:
        raise UserError("the text is empty; give at least one token")
    if len(prefix) + len(ids) > model.config.context_length:
        raise UserError(
            f"the text has {len(prefix) + len(ids)} tokens, the model's context "
            f"{model.config.context_length}; give a shorter one"
        )
    stream = residual_stream(model, torch.tensor([[*prefix, *ids]]))[:, 0]
    with torch.no_grad():
        log_probs = unembed(model, stream[-1]).double().log_softmax(-1).cpu()
        tops = torch.stack([unembed(model, layer).argmax(-1) for layer in stream]).cpu()  # (L+1, T)
    same = (tops == tops[-1]).int().flip(0).cumprod(0).sum(0)  # layers at the end that agree
    best = log_probs.topk(min(top, log_probs.shape[-1]), -1)
    found = []
    for place, token in enumerate(ids):
        at = len(prefix) + place
        row = log_probs[at]
        found.append(
            TokenSummary(
                text=tokenizer.decode([token]),
                id=token,
                log_prob=float(log_probs[at - 1, token]) if at else None,
                entropy=float(-(row.exp() * row).sum()),
                likeliest=[
                    (tokenizer.decode([int(other)]), float(value.exp()))
                    for value, other in zip(best.values[at], best.indices[at], strict=True)
                ],
                depth=len(stream) - int(same[at]),
            )
        )
    return found
