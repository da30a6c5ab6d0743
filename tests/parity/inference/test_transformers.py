"""Greedy generation against transformers on a random Llama."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from glassbox.inference.engine import Engine
from glassbox.inference.sampling.params import SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

VOCAB, CONTEXT = 61, 48


@pytest.fixture(scope="module")
def llamas() -> tuple[LlamaForCausalLM, CausalLM]:
    """The same random weights in theirs and ours, float64: no tie is broken by rounding."""
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    theirs = theirs.double().eval()
    mixer = GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary(base=10000.0))
    norm = RmsNorm(eps=theirs.config.rms_norm_eps)
    ours = CausalLM(
        ModelConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            context_length=CONTEXT,
            blocks=[Repeat(block=BlockSpec(mixer=mixer, ffn=SwiGlu(size=48), norm=norm), times=2)],
            final_norm=norm,
            tie_embeddings=False,
        )
    ).double()
    weights = {"embedding.weight": theirs.model.embed_tokens.weight}
    weights["head.weight"] = theirs.lm_head.weight
    weights["final_norm.weight"] = theirs.model.norm.weight
    for i, layer in enumerate(theirs.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        weights |= {
            f"blocks.{i}.mixer_norm.weight": layer.input_layernorm.weight,
            f"blocks.{i}.ffn_norm.weight": layer.post_attention_layernorm.weight,
            f"blocks.{i}.mixer.qkv.weight": torch.cat(
                [p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
            ),
            f"blocks.{i}.mixer.output.weight": attention.o_proj.weight,
            f"blocks.{i}.ffn.gate_up.weight": torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)),
            f"blocks.{i}.ffn.down.weight": mlp.down_proj.weight,
        }
    ours.load_state_dict(weights)
    return theirs, ours


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("prompt", [[5], [1, 2, 3, 4, 5, 6, 7], list(range(30))])
def test_greedy_generation(llamas, prompt, penalty):
    theirs, ours = llamas
    ids = torch.tensor([prompt])
    expected = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=18,
        do_sample=False,
        repetition_penalty=penalty,
    )[0, len(prompt) :]
    params = SamplingParams(temperature=0, max_tokens=18, repetition_penalty=penalty)
    # in company of other lengths, so that padding on the right and positions are tried as well
    completions = Engine(ours).generate([[9, 9], prompt, [8] * 25], params)
    assert completions[1].token_ids == expected.tolist()
    assert len(set(expected.tolist())) > 3  # a constant answer would prove little


def test_log_probs_are_transformers_scores(llamas):
    theirs, ours = llamas
    prompt = torch.tensor([[3, 1, 4, 1, 5]])
    reference = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=10,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    params = SamplingParams(temperature=0, max_tokens=10, logprobs=True)
    (completion,) = Engine(ours).generate(prompt.tolist(), params)
    logits = torch.stack(reference.logits, dim=1)[0].double()
    chosen = torch.tensor(completion.token_ids).unsqueeze(1)
    expected = logits.log_softmax(-1).gather(1, chosen).squeeze(1)
    # transformers hands its logits out in float32
    found = torch.tensor(completion.log_probs, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
