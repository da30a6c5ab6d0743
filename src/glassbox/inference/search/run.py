"""Beam search and contrastive search with an engine's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.inference.detokenizer import decode
from glassbox.inference.engine import Engine
from glassbox.inference.evaluating import reading_with
from glassbox.inference.requests import make_request
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.search.beam import BeamParams, beam_search
from glassbox.inference.search.contrastive import ContrastiveParams, contrastive_search


@dataclass(frozen=True)
class SearchResult:
    """One result of a search.

    text: without the stop token; None without a tokenizer.
    score: log-probability / length ** length_penalty; None for contrastive search.
    """

    token_ids: list[int]
    text: str | None
    finish_reason: Literal["stop", "length"]
    score: float | None


def search(
    engine: Engine,
    prompt: Sequence[int],
    how: BeamParams | ContrastiveParams,
    params: SamplingParams | None = None,
    *,
    truncate_prompt: bool = False,
    adapter: str | None = None,
) -> list[SearchResult]:
    """Run a beam search or a contrastive search; return the texts, best first.

    One prompt at a time, independent of the engine's other requests; end-of-text and
    `params.stop_token_ids` end a text.
    adapter: the name of a loaded adapter. Raises UserError for settings that do not fit the model
        or the search.
    """
    model, tokenizer = engine.model, engine.tokenizer
    request = make_request(
        prompt,
        SamplingParams() if params is None else params,
        context_length=engine.context_length,
        vocab_size=model.config.vocab_size,
        tokenizer=tokenizer,
        truncate=truncate_prompt,
    )
    found: list[tuple[list[int], float | None]]
    with reading_with(model, adapter):
        prompt, params, stops = request.prompt, request.params, request.stop_ids
        if isinstance(how, BeamParams):
            texts = beam_search(model, prompt, how, params, stop_ids=stops, dtype=engine.dtype)
            found = [(one.token_ids, one.score) for one in texts]
        else:
            ids = contrastive_search(model, prompt, how, params, stop_ids=stops, dtype=engine.dtype)
            found = [(ids, None)]
    results = []
    for ids, score in found:
        stopped = bool(ids) and ids[-1] in request.stop_ids
        text = None if tokenizer is None else decode(tokenizer, ids[:-1] if stopped else ids)
        results.append(SearchResult(ids, text, "stop" if stopped else "length", score))
    return results


def search_params(
    sampling: dict[str, Any], *, penalty_alpha: float | None, num_beams: int, **beams: Any
) -> BeamParams | ContrastiveParams | None:
    """The search that a command's options select, if any; contrastive search takes its top_k from
    them.

    Raises UserError for options that belong to another search than the selected one.
    """
    plain = BeamParams()
    if "early_stopping" in beams:
        word = str(beams["early_stopping"]).lower()
        beams["early_stopping"] = {"true": True, "false": False}.get(word, word)
    if penalty_alpha is None and num_beams != 1:
        return parse(BeamParams, {"num_beams": num_beams, **beams}, where="beam search")
    for name, value in {"num_beams": num_beams, **beams}.items():
        if value != (1 if name == "num_beams" else getattr(plain, name)):
            words = "--" + name.replace("_", "-")
            raise UserError(
                f"{words} {value} is of beam search: give --num-beams, no --penalty-alpha"
            )
    if penalty_alpha is None:
        return None
    raw = {"penalty_alpha": penalty_alpha}
    if "top_k" in sampling:
        raw["top_k"] = sampling.pop("top_k")
    return parse(ContrastiveParams, raw, where="contrastive search")
