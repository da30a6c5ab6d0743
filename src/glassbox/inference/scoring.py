"""Scoring without generation: log-probabilities of prompt tokens, embeddings of texts.

Both are iterators that yield between batches, so that a server can interleave other work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.evaluating import reading_with
from glassbox.inference.sampling.logprobs import top_log_probs
from glassbox.models.causal_lm import CausalLM

BATCH_TOKENS = 2048
_ROWS_OF_LOGITS = 256


@dataclass(frozen=True)
class PromptScores:
    """log p of each prompt token given those before it, and of the most likely tokens at its position.

    log_probs: nats, float32 or wider; the first token, which nothing predicts, has None.
    top: (token, log-probability) greatest first; None for the first token.
    """

    index: int
    log_probs: list[float | None]
    top: list[list[tuple[int, float]] | None]


def score_prompts(
    model: CausalLM, prompts: Sequence[Sequence[int]], *, top: int = 0, adapter: str | None = None
) -> Iterator[PromptScores | None]:
    """Score each prompt, in order; yields None between batches.

    adapter: the name of a loaded adapter; None for the base model.
    Raises UserError for a prompt that is empty or longer than the model's context.
    Tested against: transformers' logits.
    """
    for index, prompt in enumerate(prompts):
        _check(model, index, prompt)
        with torch.inference_mode(), reading_with(model, adapter):
            ids = torch.tensor([prompt], device=model.device)
            hidden = model.hidden_states(ids)[0, :-1]  # (T - 1, D)
        yield None
        chosen: list[float | None] = [None]
        likeliest: list[list[tuple[int, float]] | None] = [None]
        for start in range(0, len(hidden), _ROWS_OF_LOGITS):
            with torch.inference_mode(), reading_with(model, adapter):
                part = hidden[start : start + _ROWS_OF_LOGITS]
                logits = model.logits(part)
                wide = logits if logits.dtype == torch.float64 else logits.float()
                targets = ids[0, start + 1 : start + 1 + len(part), None]
                total = wide.logsumexp(dim=-1)
                chosen += (wide.gather(-1, targets).squeeze(-1) - total).tolist()
                if top:
                    values, numbers = top_log_probs(wide, top)
                    pairs = zip(numbers.tolist(), values.tolist(), strict=True)
                    likeliest += [list(zip(*pair, strict=True)) for pair in pairs]
                else:
                    likeliest += [[] for _ in part]
            yield None
        yield PromptScores(index, chosen, likeliest)


def embed(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    adapter: str | None = None,
) -> Iterator[tuple[list[int], Float[Tensor, "B D"]]]:
    """Embed texts: the mean of a text's final hidden states, normalized to unit length (L2).

    Yields batches of texts of similar length: their indices, and their vectors in float32.
    adapter: the name of a loaded adapter; None for the base model.
    Raises UserError for a text that is empty or longer than the model's context.
    """
    for index, prompt in enumerate(prompts):
        _check(model, index, prompt)
    ordered = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    while ordered:
        size = max(1, batch_tokens // len(prompts[ordered[0]]))
        batch, ordered = ordered[:size], ordered[size:]
        longest = len(prompts[batch[0]])
        ids = torch.zeros((len(batch), longest), dtype=torch.int64)
        for row, index in enumerate(batch):
            ids[row, : len(prompts[index])] = torch.as_tensor(prompts[index])
        with torch.inference_mode(), reading_with(model, adapter):
            lengths = torch.tensor([len(prompts[i]) for i in batch], device=model.device)
            ragged = None if bool((lengths == longest).all()) else lengths
            hidden = model.hidden_states(ids.to(model.device), lengths=ragged)  # (B, T, D)
            real = torch.arange(longest, device=model.device) < lengths[:, None]
            total = torch.where(real.unsqueeze(-1), hidden.float(), 0.0).sum(dim=1)
            vectors = torch.nn.functional.normalize(total / lengths[:, None], dim=-1)
        yield batch, vectors.cpu()


def _check(model: CausalLM, index: int, prompt: Sequence[int]) -> None:
    if not prompt:
        raise UserError(f"text {index} is empty; give at least one token")
    if min(prompt) < 0 or max(prompt) >= model.config.vocab_size:
        raise UserError(
            f"text {index} has token ids from {min(prompt)} to {max(prompt)}; this model knows "
            f"0 to {model.config.vocab_size - 1}: is it another model's tokenizer?"
        )
    if len(prompt) > model.config.context_length:
        raise UserError(
            f"text {index} has {len(prompt)} tokens; the model's context is "
            f"{model.config.context_length}: shorten it"
        )
