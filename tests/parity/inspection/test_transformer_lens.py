"""Inner values and what is computed from them, against TransformerLens on equal weights.

`tests/support/record_transformer_lens.py` says what was recorded, and with which version. Both compute
in float32: sums of a few dozen numbers near one, in another order, differ by some 1e-6.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from glassbox.inspection import (
    ablation_effects,
    activation_patching,
    attention_patterns,
    direct_logit_attribution,
    inspect,
    logit_lens,
)
from glassbox.models.causal_lm import CausalLM
from support.record_transformer_lens import CONFIGS, FILE, HEADS, INSIDE, LAYERS

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module", params=list(CONFIGS))
def recorded(request: pytest.FixtureRequest) -> tuple[CausalLM, dict[str, Tensor]]:
    """A model with the recorded weights, and what TransformerLens made of it."""
    assert Path(FILE).exists()
    name = request.param
    found = {
        key.removeprefix(f"{name}."): value
        for key, value in load_file(str(FILE)).items()
        if key.startswith(f"{name}.")
    }
    model = CausalLM(CONFIGS[name]).eval()
    weights = {k.removeprefix("weights."): v for k, v in found.items() if k.startswith("weights.")}
    model.load_state_dict(weights)
    return model, found


def metric_of(found: dict[str, Tensor]):
    last = found["targets"][:, -1:]
    return lambda logits: logits[:, -1].log_softmax(-1).gather(-1, last).squeeze(-1)


def test_inner_values(recorded: tuple[CausalLM, dict[str, Tensor]]) -> None:
    model, found = recorded
    with inspect(model, "*") as run, torch.no_grad():
        logits = model(found["ids"])
    torch.testing.assert_close(logits, found["logits"], **CLOSE)
    for layer in range(LAYERS):
        for ours in (*INSIDE.values(), "mixer.query", "mixer.key"):
            value, theirs = run[f"blocks.{layer}.{ours}"], found[f"blocks.{layer}.{ours}"]
            torch.testing.assert_close(value, theirs, **CLOSE)
    patterns = attention_patterns(model, found["ids"])
    torch.testing.assert_close(patterns[1], found["blocks.1.mixer.attention"], **CLOSE)


def test_logit_lens(recorded: tuple[CausalLM, dict[str, Tensor]]) -> None:
    model, found = recorded
    torch.testing.assert_close(logit_lens(model, found["ids"]), found["lens"], **CLOSE)


def test_direct_logit_attribution(recorded: tuple[CausalLM, dict[str, Tensor]]) -> None:
    model, found = recorded
    ids, targets, against = found["ids"], found["targets"], found["against"]
    ours = direct_logit_attribution(model, ids, targets, against=against)
    theirs = found["layer_parts"]  # the embedding, its positions, then mixers and feed-forwards
    embeddings = len(theirs) - 2 * LAYERS
    expected = torch.cat((theirs[:embeddings].sum(0, keepdim=True), theirs[embeddings:]))
    torch.testing.assert_close(ours.values[:-1], expected, **CLOSE)
    ours = direct_logit_attribution(model, ids, targets, against=against, by="head")
    heads = [number for number, name in enumerate(ours.parts) if ".head." in name]
    torch.testing.assert_close(ours.values[heads], found["head_parts"], **CLOSE)
    logits = found["logits"]
    difference = logits.gather(-1, targets[..., None]) - logits.gather(-1, against[..., None])
    torch.testing.assert_close(ours.total, difference.squeeze(-1), **CLOSE)
    torch.testing.assert_close(ours.values.sum(0), ours.total, **CLOSE)


def test_ablation_of_each_head(recorded: tuple[CausalLM, dict[str, Tensor]]) -> None:
    model, found = recorded
    effects = ablation_effects(model, found["ids"], metric_of(found))
    assert effects.shape == (LAYERS, HEADS)
    torch.testing.assert_close(effects, found["ablation"], **CLOSE)


@pytest.mark.parametrize(
    ("at", "key"),
    [
        ("residual_pre", "patch_residual"),
        ("mixer.output", "patch_mixer"),
        ("mixer.heads", "patch_heads"),
    ],
)
def test_activation_patching(
    recorded: tuple[CausalLM, dict[str, Tensor]], at: str, key: str
) -> None:
    model, found = recorded
    ours = activation_patching(model, found["ids"], found["corrupted"], metric_of(found), at=at)
    torch.testing.assert_close(ours, found[key], **CLOSE)


def test_induction_scores(recorded: tuple[CausalLM, dict[str, Tensor]]) -> None:
    model, found = recorded
    twice = torch.cat((found["repeated"], found["repeated"]), 1)
    patterns = attention_patterns(model, twice)
    ours = torch.stack([patterns[n].diagonal(1 - 12, -2, -1).mean((0, -1)) for n in range(LAYERS)])
    torch.testing.assert_close(ours, found["induction"], **CLOSE)
