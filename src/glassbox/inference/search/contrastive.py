"""Contrastive search: a probable next token whose hidden state is unlike those before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.inference.sampling.logprobs import likeliest
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import RowSampler, SamplingRow
from glassbox.inference.search.branches import Branches, reject_sampling
from glassbox.models.causal_lm import CausalLM


class ContrastiveParams(Spec):
    """The number of candidates, and the weight of the penalty for similarity."""

    penalty_alpha: float = Field(
        0.6, ge=0, le=1, description="weight of the similarity penalty; 0 is greedy decoding"
    )
    top_k: int = Field(4, gt=0, description="number of candidates per token")


@torch.inference_mode()
def contrastive_search(
    model: CausalLM,
    prompt: Sequence[int],
    contrast: ContrastiveParams,
    params: SamplingParams | None = None,
    *,
    stop_ids: Iterable[int] = (),
    dtype: torch.dtype | None = None,
) -> list[int]:
    """Return the tokens of the answer, including a stop token if one ended it.

    x_t = argmax over the top_k most probable v of (1 - alpha) p(v | x_<t) - alpha max_j cos(h_v,
    h_{x_j}), with h the final hidden states and j over prompt and answer; each candidate is run
    through the model to obtain its hidden state. Of `params`, max_tokens, the penalties, logit_bias
    and min_tokens apply. Ties are broken by id.
    Raises UserError for sampling settings. The model must be in eval mode.
    Source: Su et al., arXiv:2202.06417, equation 5. Tested against: the equation as loops,
    uncached.
    """
    params = SamplingParams() if params is None else params
    reject_sampling(params, "contrastive search")
    stops = set(stop_ids) | set(params.stop_token_ids)
    max_new = min(params.max_tokens, model.config.context_length - len(prompt))
    alpha = contrast.penalty_alpha
    branches = Branches(model, prompt, max_new, dtype=dtype)
    row = SamplingRow(params, 0, prompt=prompt, stop_ids=tuple(stops))
    sampler = RowSampler.of([row], model.config.vocab_size, model.device)
    said = _directions(branches.hidden)  # (T, D)
    logits = branches.logits  # (1, V)
    parent = torch.zeros(1, dtype=torch.int64, device=logits.device)
    answer: list[int] = []
    while len(answer) < max_new:
        steps = torch.full((1,), len(answer), device=logits.device)
        probs = sampler.adjusted(logits, steps).softmax(dim=-1)
        confidence, candidates = (x[0] for x in likeliest(probs, contrast.top_k))
        candidates, order = candidates.sort()
        confidence = confidence[order]
        branches.keep(parent.expand(len(candidates)))
        hidden, following = branches.advance(candidates)
        meaning = _directions(hidden)
        likeness = (meaning @ said.T).amax(dim=-1)
        parent = ((1 - alpha) * confidence - alpha * likeness).argmax().reshape(1)
        token = candidates[parent]
        answer.append(int(token))
        if answer[-1] in stops:
            break
        sampler.accept(token)
        said = torch.cat((said, meaning[parent]))
        logits = following[parent]
    return answer


def _directions(hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Vectors normalized to unit length, in float32 or wider."""
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    return F.normalize(wide, dim=-1)
