"""Selects the hidden weight matrices of a model, the parameters that Muon optimizes."""

from __future__ import annotations

from glassbox.models.causal_lm import CausalLM


def hidden_matrices(model: CausalLM) -> set[str]:
    """Names of the weight matrices that layers declare as `matrices`, except those of the output heads.

    Output heads, like embeddings, are left to AdamW, as in Jordan et al. 2024.
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
