"""Generation that reads like its definition: no cache, no batch. The oracle of the engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glassbox.inference.sampler import RowSettings, pick
from glassbox.inference.sampling import SamplingParams
from glassbox.models.causal_lm import CausalLM


@torch.no_grad()
def generate_plain(
    model: CausalLM, prompt: Sequence[int], params: SamplingParams, *, sample: int = 0
) -> list[int]:
    """Run the whole sequence through the model for every token, and choose the next from its end.

    Stops after a stop token, after max_tokens, or where the context is full.
    """
    ids = list(prompt)
    settings = RowSettings.of([params], [params.seed or 0], [sample], model.device)
    while len(ids) - len(prompt) < params.max_tokens and len(ids) < model.config.context_length:
        sequence = torch.tensor([ids], device=model.device)
        logits = model(sequence)[:, -1]  # (1, V)
        seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, sequence, True)
        uniform = settings.uniforms(len(ids) - len(prompt), 1)[0]
        ids.append(int(pick(logits, settings, uniform, seen)))
        if ids[-1] in params.stop_token_ids:
            break
    return ids[len(prompt) :]
