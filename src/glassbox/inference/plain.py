"""Generation without cache and batch: the reference that the engine is tested against.

`docs/design/reading_order.md` starts here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glassbox.inference.sampling.filters import (
    apply_count_penalties,
    apply_repetition_penalty,
    apply_temperature,
    draw,
    epsilon_filter,
    eta_filter,
    min_p_filter,
    top_h_filter,
    top_k_filter,
    top_p_filter,
    typical_filter,
)
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.processors import (
    NgramBan,
    ban_bad_words,
    classifier_free_guidance,
    force_token,
    length_decay,
    sequence_bias,
    watermark,
)
from glassbox.inference.sampling.randomness import uniforms
from glassbox.models.causal_lm import CausalLM


@torch.no_grad()
def generate_plain(
    model: CausalLM, prompt: Sequence[int], params: SamplingParams, *, sample: int = 0
) -> list[int]:
    """Run the whole sequence through the model for every token, and choose the next token from its
    last logits.

    Stops after a stop token, after max_tokens, or when the context is full.
    """
    room = model.config.context_length - len(prompt)
    params = params.model_copy(update={"max_tokens": min(params.max_tokens, room)})
    ids = list(prompt)
    while len(ids) - len(prompt) < params.max_tokens:
        logits = model(torch.tensor([ids], device=model.device))[0, -1]  # (V,)
        generated = ids[len(prompt) :]
        if params.guidance_scale != 1:
            other = [*(params.negative_prompt_ids or prompt[-1:]), *generated]
            unconditional = model(torch.tensor([other], device=model.device))[0, -1]
            logits = classifier_free_guidance(logits, unconditional, params.guidance_scale)
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
    """The next token of one output, with all filters over the whole vocabulary; `RowSampler` is
    tested against it.
    """
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

    tokens = [*prompt, *generated]
    ends = tuple(params.stop_token_ids if stop_ids is None else stop_ids)
    for token, bias in params.logit_bias.items():
        wide[0, token] += bias
    wide[0] = sequence_bias(wide[0], tokens, params.sequence_bias)
    wide = apply_repetition_penalty(wide, seen, setting(params.repetition_penalty))
    frequency, presence = setting(params.frequency_penalty), setting(params.presence_penalty)
    wide = apply_count_penalties(wide, counts, frequency, presence)
    if params.no_repeat_ngram_size:
        wide[0, NgramBan(params.no_repeat_ngram_size).banned(tokens)] = -torch.inf
    wide[0] = ban_bad_words(wide[0], tokens, params.bad_words_ids, ends)
    if allowed is not None:
        wide = wide.masked_fill(~allowed, -torch.inf)
    if len(generated) < params.min_tokens:
        early = wide.clone()
        early[0, list(ends)] = -torch.inf
        wide = wide if bool((early == -torch.inf).all()) else early
    if params.forced_bos_token_id is not None and not generated:
        wide[0] = force_token(wide[0], [params.forced_bos_token_id])
    if params.forced_eos_token_id and len(generated) == params.max_tokens - 1:
        wide[0] = force_token(wide[0], params.forced_eos_token_id)
    if params.exponential_decay_length_penalty is not None:
        wide[0] = length_decay(
            wide[0], len(generated), *params.exponential_decay_length_penalty, ends
        )
    if params.temperature > 0:
        wide = _filtered(wide, params, setting)
    return wide[0] if params.watermark is None else watermark(wide[0], tokens, params.watermark)


def _filtered(
    wide: Float[Tensor, "1 V"], params: SamplingParams, setting: Callable[[float], Tensor]
) -> Float[Tensor, "1 V"]:
    """After temperature and the truncation filters."""
    wide = apply_temperature(wide, setting(params.temperature))
    wide = top_h_filter(wide, setting(params.top_h or 0))
    wide = top_k_filter(wide, torch.tensor([params.top_k], device=wide.device))
    wide = top_p_filter(wide, setting(params.top_p))
    wide = min_p_filter(wide, setting(params.min_p))
    wide = typical_filter(wide, setting(params.typical_p))
    wide = epsilon_filter(wide, setting(params.epsilon_cutoff))
    return eta_filter(wide, setting(params.eta_cutoff))
