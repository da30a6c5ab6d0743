"""Families with experts: what their configs and files may not say, and which layers have experts."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from glassbox.core.errors import UserError
from glassbox.formats.huggingface import load_pretrained, save_pretrained
from glassbox.layers.experts import MixtureOfExperts
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import Repeat
from glassbox.models.families import family_of, from_hf_config, presets, to_hf_config
from glassbox.models.families._experts import StackedRule
from glassbox.models.families.gpt_oss import InterleavedStack, TransposedStack


def words(name: str) -> dict:
    found = to_hf_config(presets()[name])
    assert found is not None
    return found


def test_gpt_oss_without_words_for_positions_has_yarn_and_windows_by_turns():
    """What the published config means, key by key left out."""
    raw = words("gpt-oss-20b")
    for key in ("rope_scaling", "rope_parameters", "rope_theta", "layer_types"):
        raw.pop(key, None)
    assert from_hf_config(raw) == from_hf_config(words("gpt-oss-20b"))
    first, second = from_hf_config(raw).layers()[:2]
    assert (first.mixer.window, second.mixer.window) == (128, None)
    assert first.mixer.positions.scaling.factor == 32.0


def test_noise_on_the_router_is_refused():
    assert from_hf_config(words("mixtral-tiny") | {"router_jitter_noise": 0.0})
    with pytest.raises(UserError, match=r"'router_jitter_noise' = 0\.1"):
        from_hf_config(words("mixtral-tiny") | {"router_jitter_noise": 0.1})


def test_which_layers_of_qwen_have_experts():
    raw = words("qwen3-moe-tiny") | {"num_hidden_layers": 6, "intermediate_size": 24}
    config = from_hf_config(raw | {"decoder_sparse_step": 2, "mlp_only_layers": [3]})
    found = [isinstance(layer.ffn, MixtureOfExperts) for layer in config.layers()]
    assert found == [False, True, False, False, False, True]
    assert from_hf_config(to_hf_config(config)) == config


@pytest.mark.parametrize("name", ["mixtral-tiny", "qwen3-moe-tiny", "gpt-oss-tiny"])
@pytest.mark.parametrize(
    "change",
    [
        {"balance_bias": True},
        {"router": "sigmoid"},
        {"routed_scale": 2.0},
        {"num_groups": 2, "top_groups": 2},
        {"shared": 8},
    ],
    ids=str,
)
def test_routing_that_a_family_has_no_words_for_is_not_lost(name, change):
    config = presets()[name]
    block = config.blocks[0].block
    ffn = MixtureOfExperts(**{**dict(block.ffn), **change})
    other = block.model_copy(update={"ffn": ffn})
    changed = config.model_copy(update={"blocks": (Repeat(block=other, times=2),)})
    assert family_of(changed) is None


def test_what_concerns_training_alone_keeps_no_model_from_its_family():
    config = presets()["mixtral-tiny"]
    block = config.blocks[0].block
    ffn = block.ffn.model_copy(update={"z_loss": 0.1, "capacity_factor": 1.5, "balance_loss": 0.2})
    other = block.model_copy(update={"ffn": ffn})
    changed = config.model_copy(update={"blocks": (Repeat(block=other, times=2),)})
    assert to_hf_config(changed)["router_aux_loss_coef"] == 0.2


def test_a_missing_expert_is_named(tmp_path):
    save_pretrained(CausalLM(presets()["mixtral-tiny"]), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    del tensors["model.layers.1.block_sparse_moe.experts.5.w3.weight"]
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.layers\.1\.block_sparse_moe\.experts\.5\.w3"):
        load_pretrained(tmp_path)


def test_rules_of_stacks_by_hand():
    stack = torch.arange(2 * 4 * 3.0).view(2, 4, 3)
    rule = StackedRule("ours", ("e0.g", "e0.u", "e1.g", "e1.u"), (2, 2))
    parts = rule.split(stack)
    assert parts["e1.g"].tolist() == stack[1, :2].tolist()
    assert parts["e0.u"].tolist() == stack[0, 2:].tolist()
    assert parts["e0.u"].untyped_storage().data_ptr() == stack.untyped_storage().data_ptr()
    assert torch.equal(rule.join(list(parts.values())), stack)

    turns = InterleavedStack("ours", ("theirs",))
    theirs = turns.split(stack)["theirs"]
    assert theirs.shape == (2, 3, 4)
    assert theirs[1, 2].tolist() == [float(stack[1, row, 2]) for row in (0, 2, 1, 3)]
    assert torch.equal(turns.join([theirs]), stack)
    bias = torch.arange(8.0).view(2, 4)
    assert turns.split(bias)["theirs"].tolist() == [[0, 2, 1, 3], [4, 6, 5, 7]]
    assert torch.equal(turns.join([turns.split(bias)["theirs"]]), bias)

    across = TransposedStack("ours", ("theirs",))
    assert torch.equal(across.join([across.split(stack)["theirs"]]), stack)
