"""Which parameters are matrices between layers: Muon's share of a model."""

from __future__ import annotations

from glassbox.models.causal_lm import CausalLM


def hidden_matrices(model: CausalLM) -> set[str]:
    """The names of what a model's layers declare as `matrices`, without the head's and the scalar head's.

    These map to tokens and to numbers; Jordan et al. 2024 leave them, like embeddings, to AdamW.
    """
    outputs = [head for head in (model.head, model.score) if head is not None]
    outside = {id(module) for head in outputs for module in head.modules()}
    found = set()
    for prefix, module in model.named_modules():
        wanted = getattr(module, "matrices", ())
        if wanted and id(module) not in outside:
            found |= {
                f"{prefix}.{name}"
                for name, _ in module.named_parameters()
                if name.partition(".")[0] in wanted
            }
    return found
