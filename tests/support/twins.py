"""A tiny model of ours and the same in transformers, for comparing losses and gradients.

Against formulas written out in a test the tolerance is EXACT, two orders above what another order
of summation changes. Against transformers' models it is ROUNDED: their norms and rotary tables pass
through float32 whatever the weights' type.
"""

from __future__ import annotations

import torch
import transformers
from torch import Tensor

from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.training.protocols import Number

EXACT = 1e-9
ROUNDED = 1e-5
VOCAB = 37


def tiny(seed: int, vocab_size: int = VOCAB) -> CausalLM:
    block = BlockSpec(
        mixer=GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary()), ffn=SwiGlu(size=24)
    )
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        context_length=96,
        blocks=[Repeat(block=block, times=2)],
    )
    model = CausalLM(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=generator)
    return model


def pieces(model: CausalLM, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights (or gradients) under transformers' Llama names, q, k and v taken apart."""
    named = {
        "model.embed_tokens.weight": tensors["embedding.weight"],
        "model.norm.weight": tensors["final_norm.weight"],
    }
    if "score.weight" in tensors:
        named["score.weight"] = tensors["score.weight"]
    for i in range(len(model.blocks)):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        qkv = tensors[ours + "mixer.qkv.weight"].split((16, 8, 8))
        for name, part in zip("qkv", qkv, strict=True):
            named[f"{theirs}self_attn.{name}_proj.weight"] = part
        named[theirs + "self_attn.o_proj.weight"] = tensors[ours + "mixer.output.weight"]
        named[theirs + "input_layernorm.weight"] = tensors[ours + "mixer_norm.weight"]
        named[theirs + "post_attention_layernorm.weight"] = tensors[ours + "ffn_norm.weight"]
        gate_up = tensors.get(ours + "ffn.gate_up.weight")
        gate, up = (
            (tensors[ours + "ffn.gate.weight"], tensors[ours + "ffn.up.weight"])
            if gate_up is None
            else gate_up.chunk(2)
        )
        named[theirs + "mlp.gate_proj.weight"] = gate
        named[theirs + "mlp.up_proj.weight"] = up
        named[theirs + "mlp.down_proj.weight"] = tensors[ours + "ffn.down.weight"]
    return named


def to_llama(model: CausalLM) -> torch.nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=model.config.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=model.config.final_norm.eps,
        rope_theta=10000.0,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        pad_token_id=0,
    )
    config.num_labels = 1
    scorer = model.config.score_head
    kind = transformers.LlamaForSequenceClassification if scorer else transformers.LlamaForCausalLM
    llama = kind(config).double()
    missing, unexpected = llama.load_state_dict(
        pieces(model, dict(model.state_dict())), strict=False
    )
    assert missing in ([], ["lm_head.weight"])
    assert not unexpected
    llama.tie_weights()
    return llama


def same_gradients(model: CausalLM, llama: torch.nn.Module) -> bool:
    ours = pieces(model, {name: p.grad for name, p in model.named_parameters()})
    theirs = {name: p.grad for name, p in llama.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in ours.values())
    assert largest > 0
    return all(
        torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=ROUNDED * largest) for name in ours
    )


def differs(ours: float, theirs: float, tolerance: float = ROUNDED) -> bool:
    return abs(ours - theirs) > tolerance * max(1.0, abs(theirs))


def share(pair: tuple[Number, Number]) -> float:
    return float(pair[0]) / float(pair[1])


class Accelerator:
    """As much of accelerate as one process needs."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True
    is_main_process = False

    def gather(self, x: Tensor) -> Tensor:
        return x

    gather_for_metrics = gather

    def reduce(self, x: Tensor, reduction: str = "sum") -> Tensor:
        return x

    def autocast(self):  # type: ignore[no-untyped-def]
        return torch.autocast("cpu", enabled=False)
