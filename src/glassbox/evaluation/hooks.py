"""What training looks at now and then: the loss on held-out documents, and what the model writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from glassbox.data.shards import Shard
from glassbox.evaluation.scoring import token_log_probs
from glassbox.evaluation.stats import ratio
from glassbox.inference import Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers import Tokenizer


class LossHook:
    """Loss in nats a token on the first documents of a shard, whole, with its standard error.

    Only what the shard's mask trains is scored, so fine-tuning is judged on answers alone.
    """

    def __init__(
        self, shard: Shard, *, every: int, documents: int = 64, name: str = "heldout_loss"
    ) -> None:
        self.every = every
        self.name = name
        self._ids: list[list[int]] = []
        self._trained: list[np.ndarray] = []
        for start, end in zip(shard.offsets[:-1], shard.offsets[1:], strict=True):
            mask = np.ones(end - start) if shard.mask is None else shard.mask[start:end]
            trained = np.asarray(mask[1:], dtype=np.float64)
            if trained.any():
                self._ids.append(shard.ids[start:end].tolist())
                self._trained.append(trained)
            if len(self._ids) == documents:
                break

    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """{name: loss, name_error: standard error over documents}; empty where nothing is scored."""
        if not self._ids:
            return {}
        scores = token_log_probs(model, self._ids)
        nats = [-float(s @ trained) for s, trained in zip(scores, self._trained, strict=True)]
        loss = ratio(nats, [float(trained.sum()) for trained in self._trained])
        values: dict[str, float | str] = {self.name: loss.value}
        if loss.standard_error is not None:
            values[f"{self.name}_error"] = loss.standard_error
        return values


class SampleHook:
    """What the model writes after each of some prompts, the same chance every time."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        *,
        every: int,
        max_tokens: int = 64,
        temperature: float = 0.8,
        seed: int = 0,
    ) -> None:
        self.every = every
        self.tokenizer = tokenizer
        self.prompts = tuple(prompts)
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
        self.params = params.spread(len(self.prompts))

    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """{"sample_0": the first prompt and what came of it, ...}."""
        ids = [[self.tokenizer.eos_id, *self.tokenizer.encode(text)] for text in self.prompts]
        completions = Engine(model, self.tokenizer).generate(ids, self.params, truncate_prompt=True)
        return {
            f"sample_{number}": prompt + (completion.text or "")
            for number, (prompt, completion) in enumerate(
                zip(self.prompts, completions, strict=True)
            )
        }
