"""Generation as its definition reads: no cache, no batch. The oracle of the engine.

Reading starts here; `docs/reading_order.md` says where it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glassbox.inference.sampling.filters import (
    apply_count_penalties,
    apply_repetition_penalty,
    apply_temperature,
    draw,
    min_p_filter,
    top_k_filter,
    top_p_filter,
    typical_filter,
)
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.randomness import uniforms
from glassbox.models.causal_lm import CausalLM


@torch.no_grad()
def generate_plain(
    model: CausalLM, prompt: Sequence[int], params: SamplingParams, *, sample: int = 0
) -> list[int]:
    """Run the whole sequence through the model for every token, and choose the next from its last logits.

    Stops after a stop token, after max_tokens, or where the context is full.
    """
    ids = list(prompt)
    while len(ids) - len(prompt) < params.max_tokens and len(ids) < model.config.context_length:
        logits = model(torch.tensor([ids], device=model.device))[0, -1]  # (V,)
        generated = ids[len(prompt) :]
        ids.append(choose_plain(logits, params, prompt, generated, sample=sample))
        if ids[-1] in params.stop_token_ids:
            break
    return ids[len(prompt) :]


def choose_plain(
    logits: Float[Tensor, " V"],
    params: SamplingParams,
    prompt: Sequence[int],
    generated: Sequence[int],
    *,
    sample: int = 0,
    stop_ids: Sequence[int] | None = None,
    allowed: Bool[Tensor, " V"] | None = None,
) -> int:
    """The next token of one output, all filters over the whole vocabulary. The oracle of `RowSampler`."""
    final = process_plain(logits, params, prompt, generated, stop_ids=stop_ids, allowed=allowed)
    if params.temperature == 0:
        return int(final.argmax())
    numbers = (torch.tensor([number]) for number in (params.seed or 0, sample, len(generated)))
    uniform = uniforms(*numbers)[0].to(final.device)
    return int(draw(final.unsqueeze(0), uniform))


def process_plain(
    logits: Float[Tensor, " V"],
    params: SamplingParams,
    prompt: Sequence[int],
    generated: Sequence[int],
    *,
    stop_ids: Sequence[int] | None = None,
    allowed: Bool[Tensor, " V"] | None = None,
) -> Float[Tensor, " V"]:
    """The logits that one output's next token is sampled from, in transformers' order of processors."""
    wide = logits.unsqueeze(0).clone()
    wide = wide if wide.dtype == torch.float64 else wide.float()
    counts = torch.zeros_like(wide, dtype=torch.int64)
    for token in generated:
        counts[0, token] += 1
    seen = counts > 0
    seen[0, list(prompt)] = True

    def setting(value: float) -> Tensor:
        return torch.tensor([value], dtype=torch.float64, device=wide.device)

    for token, bias in params.logit_bias.items():
        wide[0, token] += bias
    wide = apply_repetition_penalty(wide, seen, setting(params.repetition_penalty))
    frequency, presence = setting(params.frequency_penalty), setting(params.presence_penalty)
    wide = apply_count_penalties(wide, counts, frequency, presence)
    if allowed is not None:
        wide = wide.masked_fill(~allowed, -torch.inf)
    if len(generated) < params.min_tokens:
        early = wide.clone()
        early[0, list(params.stop_token_ids if stop_ids is None else stop_ids)] = -torch.inf
        wide = wide if bool((early == -torch.inf).all()) else early
    if params.temperature == 0:
        return wide[0]
    wide = apply_temperature(wide, setting(params.temperature))
    wide = top_k_filter(wide, torch.tensor([params.top_k], device=wide.device))
    wide = top_p_filter(wide, setting(params.top_p))
    wide = min_p_filter(wide, setting(params.min_p))
    return typical_filter(wide, setting(params.typical_p))[0]
