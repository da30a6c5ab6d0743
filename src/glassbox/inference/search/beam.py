"""Beam search: keep the most probable continuations at every length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.inference.sampling.logprobs import likeliest
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import RowSampler, SamplingRow
from glassbox.inference.search.branches import Branches, reject_sampling
from glassbox.models.causal_lm import CausalLM


class BeamParams(Spec):
    """The number of beams of a beam search, and when it stops."""

    num_beams: int = Field(4, gt=0, description="number of beams")
    length_penalty: float = Field(
        1.0,
        description="exponent of the length in the score, log-probability / length ** length_penalty;"
        " above 0 favours long texts",
    )
    early_stopping: bool | Literal["never"] = Field(
        False,
        description="when to stop: true: with num_beams finished texts; false: when no running text "
        "of this length scores better; never: when none of the maximum length could",
    )
    num_return_sequences: int = Field(1, gt=0, description="number of texts returned, best first")

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> BeamParams:
        if self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences = {self.num_return_sequences} is above num_beams = "
                f"{self.num_beams}; raise num_beams"
            )
        return self


@dataclass(frozen=True)
class Hypothesis:
    """A finished sequence.

    score: sum of log-probabilities / len(token_ids) ** length_penalty; a stop token counts.
    """

    token_ids: list[int]
    score: float
    finish_reason: Literal["stop", "length"]


@torch.inference_mode()
def beam_search(
    model: CausalLM,
    prompt: Sequence[int],
    beams: BeamParams,
    params: SamplingParams | None = None,
    *,
    stop_ids: Iterable[int] = (),
    dtype: torch.dtype | None = None,
) -> list[Hypothesis]:
    """Return the best sequences found, best first.

    Of `params`, max_tokens, the penalties, logit_bias and min_tokens apply, to log-probabilities; a
    sequence ends at one of `stop_ids` or at the end of the model's context. At each length the (1 +
    stop tokens) * num_beams most probable continuations are considered: those among the first
    num_beams that end are finished; the first num_beams that do not end are continued. Ties are
    broken by sequence, then by id.
    Raises UserError for sampling settings. The model must be in eval mode.
    Source: Graves, arXiv:1211.3711, section 3; Wu et al., arXiv:1609.08144, section 7, for the
    length penalty in its simple form. Tested against: transformers' generate(num_beams=...).
    """
    params = SamplingParams() if params is None else params
    reject_sampling(params, "beam search")
    stops = set(stop_ids) | set(params.stop_token_ids)
    max_new = min(params.max_tokens, model.config.context_length - len(prompt))
    width = beams.num_beams
    branches = Branches(model, prompt, max_new, dtype=dtype)
    row = SamplingRow(params, 0, prompt=prompt, stop_ids=tuple(stops))
    sampler = RowSampler.of([row], model.config.vocab_size, model.device)
    logits = branches.logits
    running: list[list[int]] = [[]]
    scores = torch.zeros(1, dtype=logits.dtype, device=logits.device)
    finished: list[Hypothesis] = []
    for length in range(1, max_new + 1):
        steps = torch.full((len(running),), length - 1, device=logits.device)
        log_probs = sampler.adjusted(logits.log_softmax(dim=-1), steps)
        totals = (scores.unsqueeze(1) + log_probs).flatten()
        looked_at = max(2, 1 + len(stops)) * width
        values, positions = (x[0] for x in likeliest(totals.unsqueeze(0), looked_at))
        parents = (positions // logits.shape[-1]).tolist()
        tokens = (positions % logits.shape[-1]).tolist()
        going: list[int] = []
        last = length == max_new
        for rank, (value, parent, token) in enumerate(
            zip(values.tolist(), parents, tokens, strict=True)
        ):
            ended = token in stops
            if value == -math.inf or not (ended or last):
                going += [rank] if value > -math.inf and len(going) < width else []
            elif rank < width:
                score = value / length**beams.length_penalty
                reason: Literal["stop", "length"] = "stop" if ended else "length"
                finished.append(Hypothesis([*running[parent], token], score, reason))
        finished = sorted(finished, key=lambda one: -one.score)[:width]
        if last or not going or _enough(finished, float(values[going[0]]), length, max_new, beams):
            break
        running = [[*running[parents[rank]], tokens[rank]] for rank in going]
        kept = torch.tensor([parents[rank] for rank in going], device=logits.device)
        fed = torch.tensor([tokens[rank] for rank in going], device=logits.device)
        scores = values[going]
        branches.keep(kept)
        sampler = sampler.select(kept)
        sampler.accept(fed)
        _, logits = branches.advance(fed)
    return finished[: beams.num_return_sequences]


def _enough(
    finished: Sequence[Hypothesis], best: float, length: int, max_new: int, beams: BeamParams
) -> bool:
    """Whether no running sequence, the best having log-probability `best`, needs to be continued."""
    if len(finished) < beams.num_beams:
        return False
    if beams.early_stopping is True:
        return True
    longest = beams.early_stopping == "never" and beams.length_penalty > 0
    hoped = best / (max_new if longest else length) ** beams.length_penalty
    return hoped <= finished[-1].score
