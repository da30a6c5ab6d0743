"""Files of mixed dtypes, as families have them: read as they are, computed with, written as they were."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from glassbox.core.errors import UserError
from glassbox.formats.convert import convert
from glassbox.formats.huggingface import load_pretrained, load_pretrained_into, save_pretrained
from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import FAMILIES, family_of, from_hf_config
from support.families import Case, all_cases
from support.parity import difference, ids_of, ours_from, reference

CASES = all_cases()
HALF = {"bf16": torch.bfloat16, "f16": torch.float16}


# half a unit in the last place of 1.0. A logit has been rounded some ten times a layer, each time
# independently: 16 of these stand for 256 roundings
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def typical_difference(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The median token's |found - exact| / |exact|: where a choice of experts flips, a token is far off."""
    wrong = (found.float() - exact.float()).norm(dim=-1) / exact.float().norm(dim=-1)
    return float(wrong.median())


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def same_files(found: Path, expected: Path) -> None:
    """Each tensor that was written has the dtype and the bits that it was read with."""
    before = tensors_of(expected)
    for name, tensor in tensors_of(found).items():
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor, before[name]), name


def named(family: str) -> str:
    """A case that is written in the family's own words, not in a plainer family's."""
    mine = (name for name, case in CASES.items() if case.model_type == family)
    return next(name for name in mine if written_as(CASES[name]) == family)


def written_as(case: Case) -> str | None:
    found = family_of(from_hf_config({"model_type": case.model_type, **case.words}))
    return None if found is None else found.model_type


@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF.keys())
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_what_transformers_writes_in_half_precision_comes_back_to_the_bit(family, dtype, tmp_path):
    """It keeps in float32 what its classes name (`_keep_in_fp32_modules`), another set each release."""
    case = CASES[named(family.model_type)]
    reference(case).save_pretrained(tmp_path / "whole")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")
    save_pretrained(ours, tmp_path / "ours")
    same_files(tmp_path / "ours", tmp_path / "theirs")
    # and once more through transformers, which keeps our key in config.json
    through = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    through.save_pretrained(tmp_path / "through")
    again = load_pretrained(tmp_path / "through")
    for name, tensor in ours.state_dict().items():
        assert again.state_dict()[name].dtype == tensor.dtype, name
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("name", ["deepseek v3", "deepseek v32"])
def test_routers_and_their_biases_are_float32_beside_bfloat16(name, tmp_path):
    """Ours in bfloat16 throughout; transformers then widens what it keeps in float32."""
    case = CASES[name]
    case = replace(case, words={**case.words, "moe_intermediate_size": 16})
    ours = ours_from(reference(case)).to(torch.bfloat16)
    save_pretrained(ours, tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_pretrained(tmp_path / "theirs")
    stored = tensors_of(tmp_path / "theirs")  # routers since transformers 5.24
    routers = {t.dtype for name, t in stored.items() if name.endswith("mlp.gate.weight")}
    kept = "router|balance_bias" if routers == {torch.float32} else "balance_bias"
    wide = {key for key, tensor in again.state_dict().items() if tensor.dtype == torch.float32}
    assert wide == {key for key in ours.state_dict() if re.search(kept, key)}
    for key, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor.to(again.state_dict()[key].dtype)), key
    narrow = ours_from(reference(case)).to(torch.bfloat16)
    load_pretrained_into(narrow, tmp_path / "theirs")  # the model's own dtypes stay
    assert {tensor.dtype for tensor in narrow.state_dict().values()} == {torch.bfloat16}
    ids = ids_of(case)
    with torch.no_grad():  # both are rounded, each in its own places
        found, expected = again(ids), theirs(ids).logits
        assert typical_difference(found, expected) <= 2 * 16 * ROUNDING[torch.bfloat16]


MIXED = {
    "deepseek v2": r"mlp\.gate\.weight",
    "deepseek v3": r"mlp\.gate\..*",
    "deepseek v32": r"mlp\.gate\..*|indexer\.(weights_proj|k_norm)\..*",
    "mixtral": r"(block_sparse_moe|mlp)\.gate\.weight",
    "qwen3_moe": r"mlp\.gate\.weight",
    "gpt_oss": r".*(norm|router)\.(weight|bias)",
    "jamba": r"A_log|D|dt_proj\.bias|.*layernorm\.weight",
    "mamba": r"A_log|D|dt_proj\.bias|norm\.weight",
    "mamba2": r"A_log|D|dt_bias|norm\.weight",
    "qwen3_next": r"A_log|dt_bias|.*norm\.weight|gate\.weight",
    "rwkv": r"time_decay|time_first|ln\d\.(weight|bias)",
    "minimax": r".*norm\.weight|gate\.weight",
    "llama": r".*norm\.weight",
    "gpt2": r"ln_\w+\.(weight|bias)",
}
"""Tensors in float32 beside narrower ones: as published, or as preparing a model for QLoRA leaves it."""


def mixed_folder(name: str, pattern: str, dtype: torch.dtype, folder: Path) -> CausalLM:
    """Files with the tensors whose last names match in float32; returns the same model in float32."""
    case = CASES[name] if name in CASES else CASES[named(name)]
    reference(case).save_pretrained(folder)
    tensors = tensors_of(folder)
    wide = {n for n in tensors if re.search(rf"(^|\.)({pattern})$", n)}
    assert 0 < len(wide) < len(tensors)
    tensors = {n: t if n in wide or not t.is_floating_point() else t.to(dtype) for n, t in tensors.items()}  # fmt: skip
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    words = json.loads((folder / "config.json").read_text())
    words["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(words))
    return load_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF.keys())
@pytest.mark.parametrize(("name", "pattern"), MIXED.items(), ids=MIXED.keys())
def test_mixed_files_are_read_computed_with_and_written(name, pattern, dtype, tmp_path):
    whole = mixed_folder(name, pattern, dtype, tmp_path / "mixed")
    model = load_pretrained(tmp_path / "mixed")
    state = model.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {dtype, torch.float32}
    for key, tensor in whole.state_dict().items():  # nothing is lost
        assert torch.equal(state[key].float(), tensor), key
    for written in ("saved", "converted"):
        if written == "saved":
            save_pretrained(model, tmp_path / written)
        else:
            convert(tmp_path / "mixed", tmp_path / written)
        same_files(tmp_path / written, tmp_path / "mixed")
    ids = torch.randint(
        whole.config.vocab_size, (2, 11), generator=torch.Generator().manual_seed(1)
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        exact = whole(ids)
        case = CASES[name] if name in CASES else CASES[named(name)]
        assert difference(exact, theirs(ids).logits) <= case.tolerance
        found = model(ids)
        assert found.dtype == dtype
        cached = model.init_state(2, 11)
        steps = [
            model(ids[:, t : t + 1], positions=torch.tensor([[t]]), state=cached) for t in range(11)
        ]
    for narrow in (found, torch.cat(steps, 1)):
        assert typical_difference(narrow, exact) <= 16 * ROUNDING[dtype]
    loss = model(ids).float().pow(2).mean()
    loss.backward()
    assert all(
        parameter.grad is None or parameter.grad.dtype == parameter.dtype
        for parameter in model.parameters()
    )


def test_a_dtype_that_no_layer_keeps_is_still_refused(tmp_path):
    """Matrices of a bfloat16 model in float32 are another program's mistake, where the file is ours."""
    model = ours_from(reference(CASES[named("llama")])).to(torch.bfloat16)
    save_pretrained(model, tmp_path)
    tensors = tensors_of(tmp_path)
    name = next(n for n in tensors if n.endswith("o_proj.weight"))
    tensors[name] = tensors[name].float()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"o_proj.*expected BF16, found F32"):
        load_pretrained(tmp_path)
