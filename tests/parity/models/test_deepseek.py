"""What DeepSeek's files have beside the common cases: older words, wider biases, a layer too many."""

from __future__ import annotations

import pytest

from glassbox.core.errors import UserError
from glassbox.models.families import family_named, from_hf_config, presets
from glassbox.models.family import canonical
from support.families import all_cases

CASES = all_cases()


def test_the_words_of_published_files():
    """As in config.json of DeepSeek-V2-Lite, written by transformers 4."""
    words = {
        "model_type": "deepseek_v2",
        "architectures": ["DeepseekV2ForCausalLM"],
        "attention_bias": False,
        "aux_loss_alpha": 0.001,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "pretraining_tp": 1,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "seq_aux": True,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "greedy",
        "v_head_dim": 128,
        "vocab_size": 102400,
    }
    config = from_hf_config(words)
    assert canonical(config) == canonical(presets()["deepseek-v2-lite"])
    # 1/sqrt(192) times (0.1 * 0.707 ln 40 + 1)^2, as its code computes
    assert config.layers()[0].mixer.scale == pytest.approx(0.11472138679292611, rel=1e-6)


def test_the_layer_that_predicts_a_second_token_is_passed_over():
    for name in ("deepseek_v3", "deepseek_v32"):
        family = family_named(name)
        assert family.is_ignored("model.layers.61.eh_proj.weight")
        assert not family.is_ignored("model.layers.60.self_attn.o_proj.weight")
        assert not family.is_ignored("model.layers.6.self_attn.o_proj.weight")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deepseek v2", {"num_key_value_heads": 2}),
        ("deepseek v2", {"topk_method": "noaux_tc"}),
        ("deepseek v2", {"norm_topk_prob": True}),
        ("deepseek v3", {"scoring_func": "softmax"}),
        ("deepseek v3", {"moe_layer_freq": 2}),
        ("deepseek v3", {"qk_rope_head_dim": 3}),
        ("deepseek v32", {"mlp_layer_types": ["sparse", "dense"]}),
        ("deepseek v32", {"index_head_dim": 2}),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(name, words):
    case = CASES[name]
    message = next(iter(words)).removeprefix("qk_").removeprefix("index_")
    message = {"rope_head_dim": "rope_dim"}.get(message, message)
    with pytest.raises(UserError, match=message):
        from_hf_config({"model_type": case.model_type, **case.words, **words})
