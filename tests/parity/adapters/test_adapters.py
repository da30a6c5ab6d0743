"""Adapters against peft: outputs, gradients, and files read by each other.

Tolerance 1e-5 of the largest number: float32 sums of tiny models in another order.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch

from glassbox.adapters.attach import bake
from glassbox.core.errors import UserError
from glassbox.formats.peft import load_adapter, save_adapter
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from support.families import Case, all_cases
from support.parity import difference, ids_of, ours_from, reference

TOLERANCE = 1e-5


CASES = all_cases()


def first(family: str) -> Case:
    return next(case for case in CASES.values() if case.model_type == family)


def biased(case: Case) -> Case:
    return dataclasses.replace(case, words={**case.words, "attention_bias": True})


LLAMA = CASES["llama grouped"]
LORA: dict[str, tuple[Case, dict[str, Any]]] = {
    "llama all": (LLAMA, {"target_modules": "all-linear"}),
    "llama q v": (LLAMA, {"target_modules": ["q_proj", "v_proj"], "r": 3, "lora_alpha": 5}),
    "llama k alone": (LLAMA, {"target_modules": ["k_proj", "up_proj"]}),
    "llama rslora": (LLAMA, {"target_modules": "all-linear", "use_rslora": True}),
    "llama dora": (LLAMA, {"target_modules": ["q_proj", "k_proj", "down_proj"], "use_dora": True}),
    "llama dora biased": (biased(LLAMA), {"target_modules": "all-linear", "use_dora": True}),
    "llama all biases": (biased(LLAMA), {"target_modules": ["q_proj"], "bias": "all"}),
    "llama own biases": (biased(LLAMA), {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"}),
    "llama one layer": (LLAMA, {"target_modules": r".*layers\.1\..*(k|down)_proj"}),
    "qwen2": (first("qwen2"), {"target_modules": ["q_proj", "k_proj", "gate_proj"]}),
    "gemma2": (first("gemma2"), {"target_modules": "all-linear"}),
    "phi3": (first("phi3"), {"target_modules": ["qkv_proj", "gate_up_proj"], "use_dora": True}),
    "gpt2": (first("gpt2"), {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "gpt_neox": (first("gpt_neox"), {"target_modules": "all-linear"}),
    "gpt_neox dora": (first("gpt_neox"), {"target_modules": ["query_key_value"], "use_dora": True}),
}  # fmt: skip


def randomized(model: peft.PeftModel) -> peft.PeftModel:
    """Every trained number random, lengths near what they were."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = 0.1 * torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise) if "magnitude" in name else parameter.copy_(noise)
    return model.eval()


def loss_of(model: CausalLM, ids: torch.Tensor) -> torch.Tensor:
    targets = torch.cat((ids[:, 1:], torch.full((len(ids), 1), IGNORE)), 1)
    return model.cross_entropy(model.hidden_states(ids), targets) / (targets != IGNORE).sum()


def gradients_in_file(save: Any, model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """What a library would save if every trained number were its gradient: names and cuts included."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None
                parameter.copy_(parameter.grad)
    save(folder)
    return safetensors.torch.load_file(folder / "adapter_model.safetensors")


def check(case: Case, config: peft.PeftConfig, folder: Path) -> None:
    theirs = randomized(peft.get_peft_model(reference(case), config))
    ours = ours_from(reference(case))
    theirs.save_pretrained(folder / "theirs")
    load_adapter(ours, folder / "theirs")
    ids = ids_of(case)
    expected, found = theirs(input_ids=ids, labels=ids), ours(ids)
    virtual = expected.logits.shape[1] - ids.shape[1]
    assert difference(found, expected.logits[:, virtual:]) < TOLERANCE

    save_adapter(ours, folder / "ours")
    again = peft.PeftModel.from_pretrained(reference(case), str(folder / "ours"))
    with torch.no_grad():
        assert difference(again(input_ids=ids).logits, expected.logits) < TOLERANCE

    loss = loss_of(ours, ids)
    if virtual:  # their loss shifts over the prompt as well
        logits = expected.logits[:, virtual:-1]
        reference_loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten()
        )
    else:
        reference_loss = expected.loss
    torch.testing.assert_close(loss, reference_loss, rtol=1e-5, atol=1e-6)
    loss.backward()
    reference_loss.backward()
    mine = gradients_in_file(lambda path: save_adapter(ours, path), ours, folder / "grads")
    wanted = gradients_in_file(theirs.save_pretrained, theirs, folder / "their_grads")
    assert mine.keys() == wanted.keys()
    for name, gradient in wanted.items():
        # a bias of the keys has an exact gradient of zero: hence the floor
        assert difference(mine[name], gradient, floor=1e-2) < TOLERANCE, name


@pytest.mark.parametrize("name", LORA)
def test_lora_is_theirs(name: str, tmp_path: Path) -> None:
    case, words = LORA[name]
    check(case, peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 4, **words}), tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("kind", [peft.PrefixTuningConfig, peft.PromptTuningConfig])
def test_virtual_tokens_are_theirs(family: str, kind: Any, tmp_path: Path) -> None:
    check(first(family), kind(task_type="CAUSAL_LM", num_virtual_tokens=5), tmp_path)


@pytest.mark.parametrize("dora", [False, True])
def test_merged_is_theirs_merged(dora: bool) -> None:
    words = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], "use_dora": dora}
    theirs = randomized(peft.get_peft_model(reference(LLAMA), peft.LoraConfig(**words)))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = ours_from(reference(LLAMA))
        load_adapter(ours, folder)
    ids = ids_of(LLAMA)
    with torch.no_grad():
        before = ours(ids)
        merged = theirs.merge_and_unload()
        wanted = ours_from(merged).state_dict()
        found = bake(ours).state_dict()
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert difference(found[name], tensor) < TOLERANCE, name
        assert difference(ours(ids), before) < TOLERANCE


def test_what_of_theirs_is_not_built_is_refused_by_name(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], rank_pattern={"q_proj": 2})
    peft.get_peft_model(reference(LLAMA), config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"'rank_pattern' = .* is not supported"):
        load_adapter(ours_from(reference(LLAMA)), tmp_path)
