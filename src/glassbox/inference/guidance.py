"""Classifier-free guidance in the engine, with the logits of a negative prompt at each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.inference.requests import SampleState
from glassbox.inference.sampling.processors import classifier_free_guidance
from glassbox.inference.side_cache import SideCache
from glassbox.models.causal_lm import CausalLM


class Guidance:
    """Keeps the negative prompt of each guided sample, followed by the sample's tokens, in a
    separate cache.

    Source: Sanchez et al., arXiv:2306.17806. Tested against: transformers'
    generate(guidance_scale=...).
    """

    def __init__(self, model: CausalLM, *, max_rows: int, dtype: torch.dtype | None) -> None:
        # the engine's own runner has prepacked copies of these weights, if any
        self._cache = SideCache(model, max_rows=max_rows, dtype=dtype, prepacked=False)

    @property
    def cache_bytes(self) -> int:
        """Memory of the negative prompts' cache, in bytes."""
        return self._cache.cache_bytes

    def guide(
        self, logits: Float[Tensor, "M V"], samples: Sequence[SampleState], rows: Sequence[int]
    ) -> Float[Tensor, "M V"]:
        """Replace the logits of guided samples; `rows` is the row of each sample."""
        guided = [
            (row, sample)
            for row, sample in zip(rows, samples, strict=True)
            if sample.request.params.guidance_scale != 1
        ]
        if not guided:
            return logits
        sequences = []
        for _, sample in guided:
            sequence = sample.sequence
            negative = sample.request.params.negative_prompt_ids or sample.request.prompt[-1:]
            tokens = [*negative, *sequence.tokens[sequence.prompt_length :]]
            state = self._cache.track(sequence.id, tokens, 0, adapter=sequence.adapter)
            sequences.append(state)
        unconditional = self._cache.prefill(sequences)
        wide = logits.clone() if logits.dtype == torch.float64 else logits.float().clone()
        for (row, sample), other in zip(guided, unconditional, strict=True):
            scale = sample.request.params.guidance_scale
            wide[row] = classifier_free_guidance(wide[row], other, scale)
        return wide

    def forget(self, number: int) -> None:
        """Free the cache of a sequence that has ended."""
        self._cache.forget(number)
