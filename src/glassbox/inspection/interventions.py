"""What a model does without a part, or with a part of another run: ablation, patching, steering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.evaluating import evaluating
from glassbox.inspection.attribution import Metric
from glassbox.inspection.recording import HasModel, Index, Inspection, inspect, the_model
from glassbox.inspection.sites import names, num_heads
from glassbox.models.causal_lm import CausalLM

Part = tuple[int, int] | str
"""A head as (layer, head), or a branch as `blocks.3.mixer`, `blocks.3.ffn`, or a whole `blocks.3`."""


def ablate(
    model: CausalLM | HasModel,
    parts: Sequence[Part],
    *,
    by: Literal["zero", "mean"] = "zero",
    reference: Int[Tensor, "B T"] | None = None,
) -> Inspection:
    """A `with` block in which these parts write nothing, or their mean, to the residual stream.

    by: "zero"; or "mean", over all tokens of `reference`, a batch of token ids.
    Raises UserError for a part that the model has not.
    Tested against: the same model with those rows of its output matrix zeroed.

    >>> with ablate(model, [(3, 0), "blocks.5.ffn"]):  # doctest: +SKIP
    ...     model(ids)
    """
    model = the_model(model)
    places: list[tuple[str, int | None]] = []
    for part in parts:
        found_here = _places(model, part)
        if not found_here:
            raise UserError(
                f"part {part!r} is none of this model; use (layer, head), 'blocks.N', "
                "'blocks.N.mixer' or 'blocks.N.ffn'"
            )
        places += found_here
    means: dict[str, Tensor] = {}
    if by == "mean":
        if reference is None:
            raise UserError("by = mean needs reference, token ids over which the means are taken")
        wanted = sorted({name for name, _ in places})
        with evaluating(model), torch.no_grad(), inspect(model, wanted) as run:
            model.hidden_states(reference.to(model.device))
            means = {name: run[name].flatten(0, 1).mean(0) for name in wanted}
    found = Inspection(model)
    for name, head in places:
        value: Tensor | float = 0.0
        if by == "mean":
            value = means[name] if head is None else means[name][head]
        found.patch(name, value, at=(...,) if head is None else (slice(None), slice(None), head))
    return found


def _places(model: CausalLM, part: Part) -> list[tuple[str, int | None]]:
    """The values that are a part's, and which head of them; none where the model has no such part."""
    known = names(model)
    if isinstance(part, str):
        paths = (f"{part}.output", f"{part}.mixer.output", f"{part}.ffn.output")
        return [(path, None) for path in paths if path in known]
    layer, head = part
    name = f"blocks.{layer}.mixer.heads"
    if name not in known or not 0 <= head < num_heads(model.get_submodule(f"blocks.{layer}.mixer")):
        return []
    return [(name, head)]


def ablation_effects(
    model: CausalLM | HasModel,
    ids: Int[Tensor, "B T"],
    metric: Metric,
    *,
    what: Literal["heads", "mixers", "ffns", "blocks"] = "heads",
    by: Literal["zero", "mean"] = "zero",
) -> Float[Tensor, "L H"]:
    """metric without a part minus metric with all, for every head (L, H) or branch (L, 1).

    by: as in `ablate`, the mean over these ids. NaN where a layer has no such part.
    Source: Michel et al., arXiv:1905.10650, section 3 (heads one by one).
    Tested against: TransformerLens.
    """
    model = the_model(model)
    ids = ids.to(model.device)
    counts = [num_heads(block.mixer) if what == "heads" else 1 for block in model.blocks]
    effects = torch.full((len(counts), max(counts)), torch.nan, device=model.device)
    suffix = {"mixers": ".mixer", "ffns": ".ffn"}.get(what, "")
    with evaluating(model), torch.no_grad():
        whole = metric(model(ids)).mean()
        for layer, count in enumerate(counts):
            for head in range(count):
                part: Part = (layer, head) if what == "heads" else f"blocks.{layer}{suffix}"
                if not _places(model, part):
                    continue
                with ablate(model, [part], by=by, reference=ids):
                    effects[layer, head] = metric(model(ids)).mean() - whole
    return effects


def activation_patching(
    model: CausalLM | HasModel,
    clean: Int[Tensor, "B T"],
    corrupted: Int[Tensor, "B T"],
    metric: Metric,
    *,
    at: str = "residual_pre",
) -> Float[Tensor, "L T"]:
    """metric of the corrupted run with one value of the clean run put in: where the difference lies.

    at: `residual_pre`, `residual_mid`, `residual_post`, `mixer.output` or `ffn.output`, put in for one
        layer and position at a time: (L, T); or `mixer.heads`, one head at all positions: (L, H).
    Source: Meng et al., arXiv:2202.05262, section 2.1; Zhang and Nanda, arXiv:2309.16042.
    Raises UserError where the two have different shapes. Tested against: TransformerLens' patching.
    """
    model = the_model(model)
    if clean.shape != corrupted.shape:
        raise UserError(
            f"clean is {tuple(clean.shape)}, corrupted {tuple(corrupted.shape)}; give texts of one "
            "length, token by token the same but for what is changed"
        )
    clean, corrupted = clean.to(model.device), corrupted.to(model.device)
    rows = []
    with evaluating(model), torch.no_grad():
        with inspect(model, [f"blocks.*.{at}"]) as run:
            model.hidden_states(clean)
        for layer in range(len(model.blocks)):
            name = f"blocks.{layer}.{at}"
            value = run[name]
            places = range(value.shape[2] if at == "mixer.heads" else value.shape[1])
            row = []
            for place in places:
                here: Index = (slice(None), *([slice(None)] if at == "mixer.heads" else []), place)
                with inspect(model) as patched:
                    patched.patch(name, value[here], at=here)
                    row.append(metric(model(corrupted)).mean())
            rows.append(torch.stack(row))
    return torch.stack(rows)


def steering_vector(
    model: CausalLM | HasModel,
    positive: Sequence[Sequence[int]],
    negative: Sequence[Sequence[int]],
    *,
    at: str,
) -> Float[Tensor, " D"]:
    """Mean value at the last token of the positive texts minus that of the negative ones.

    at: a name with axes B T D, such as `blocks.5.residual_post`; the same name then steers:
    `inspect(model, steer={at: 4 * vector})`, in the engine as well.
    Source: Rimsky et al., arXiv:2312.06681, section 3; Turner et al., arXiv:2308.10248.
    Tested against: the means text by text.
    """
    model = the_model(model)

    def mean(texts: Sequence[Sequence[int]], what: str) -> Tensor:
        if not texts:
            raise UserError(f"{what} is empty; give at least one text")
        found = []
        for text in texts:
            with inspect(model, at) as run:
                model.hidden_states(torch.tensor([list(text)], device=model.device))
            found.append(run[at][0, -1])
        return torch.stack(found).mean(0)

    with evaluating(model), torch.no_grad():
        return mean(positive, "positive") - mean(negative, "negative")
