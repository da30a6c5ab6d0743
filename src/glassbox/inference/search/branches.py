"""A batch of continuations of one prompt that can be reordered, duplicated and dropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.evaluating import autocast_below
from glassbox.inference.sampling.params import SamplingParams
from glassbox.models.causal_lm import CausalLM


class Branches:
    """The states of B continuations of equal length; initially one, the prompt itself.

    hidden: (T, D), the prompt's final hidden states; logits: (1, V), of the next token.
    """

    def __init__(
        self,
        model: CausalLM,
        prompt: Sequence[int],
        max_new: int,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._model, self._dtype = model, dtype
        self._length = len(prompt)
        self._state = model.init_state(1, self._length + max_new, dtype=dtype)
        self.hidden, self.logits = self._run(torch.tensor([list(prompt)], device=model.device), 0)
        self.logits = self.logits[-1:]

    def keep(self, rows: Int[Tensor, " M"]) -> None:
        """Select rows in this order; a repeated one is duplicated."""
        for layer in self._state:
            layer.reorder(rows)

    def advance(
        self, tokens: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B V"]]:
        """Append one token to each; return its final hidden state and the logits of the next token."""
        hidden, logits = self._run(tokens.unsqueeze(1), self._length)
        self._length += 1
        return hidden, logits

    def _run(self, ids: Int[Tensor, "B T"], first: int) -> tuple[Tensor, Tensor]:
        end = first + ids.shape[1]
        positions = torch.arange(first, end, device=ids.device).unsqueeze(0)
        with autocast_below(self._model, self._dtype):
            hidden = self._model.hidden_states(
                ids, positions=positions, state=self._state, key_length=end
            ).flatten(0, 1)
            logits = self._model.logits(hidden if first else hidden[-1:])
        return hidden, logits if logits.dtype == torch.float64 else logits.float()


def reject_sampling(params: SamplingParams, what: str) -> None:
    """Raise UserError for sampling settings that a search does not support."""
    plain = SamplingParams()
    for name in (
        *("top_k", "top_p", "min_p", "typical_p", "n", "best_of", "stop", "constraint"),
        *("epsilon_cutoff", "eta_cutoff", "top_h", "guidance_scale", "watermark"),
    ):
        if getattr(params, name) != getattr(plain, name):
            raise UserError(
                f"{name} = {getattr(params, name)!r}: {what} has no use for it; leave it out"
            )
    if params.temperature not in (0, 1):
        raise UserError(f"temperature = {params.temperature}: {what} does not draw; leave it out")
