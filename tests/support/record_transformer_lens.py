"""Records what TransformerLens computes on two small random models, for tests/parity/inspection.

    pip install transformer_lens==2.17.0 && python tests/support/record_transformer_lens.py

The file has the models' weights under our names, what TransformerLens sees inside of them, and what its
tools for attribution, ablation and patching say. It is recorded, since TransformerLens needs packages
that exist as source archives alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import Gelu, SwiGlu
from glassbox.layers.norms import LayerNorm, RmsNorm
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

FILE = Path(__file__).parents[1] / "data" / "transformer_lens.safetensors"
LAYERS, SIZE, HEADS, HEAD, VOCAB, WIDTH, LENGTH = 2, 16, 4, 4, 29, 24, 9

CONFIGS = {
    "gpt2": ModelConfig(
        vocab_size=VOCAB,
        hidden_size=SIZE,
        context_length=24,
        learned_positions=True,
        final_norm=LayerNorm(),
        tie_embeddings=False,
        blocks=(
            Repeat(
                block=BlockSpec(
                    mixer=GroupedQuery(num_heads=HEADS, qkv_bias=True, output_bias=True),
                    ffn=Gelu(size=WIDTH),
                    norm=LayerNorm(),
                ),
                times=LAYERS,
            ),
        ),
    ),
    "llama": ModelConfig(
        vocab_size=VOCAB,
        hidden_size=SIZE,
        context_length=24,
        final_norm=RmsNorm(),
        tie_embeddings=False,
        blocks=(
            Repeat(
                block=BlockSpec(
                    mixer=GroupedQuery(num_heads=HEADS, num_kv_heads=2, positions=Rotary()),
                    ffn=SwiGlu(size=WIDTH),
                    norm=RmsNorm(),
                ),
                times=LAYERS,
            ),
        ),
    ),
}


def random_model(name: str) -> CausalLM:
    """One of the two with random weights, float32."""
    model = CausalLM(CONFIGS[name]).eval()
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)
        for key, parameter in model.named_parameters():
            if "norm.weight" in key:
                parameter.add_(1.0)
    return model


def theirs(name: str, model: CausalLM) -> Any:
    """The same model in TransformerLens, its norms folded into the matrices behind them."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    llama = name == "llama"
    extra: dict[str, Any] = (
        {
            "normalization_type": "RMS",
            "positional_embedding_type": "rotary",
            "rotary_dim": HEAD,
            "rotary_adjacent_pairs": False,
            "n_key_value_heads": 2,
            "gated_mlp": True,
            "act_fn": "silu",
            "final_rms": True,
        }
        if llama
        else {"normalization_type": "LN", "act_fn": "gelu_new"}
    )
    config = HookedTransformerConfig(
        n_layers=LAYERS,
        d_model=SIZE,
        n_ctx=24,
        d_head=HEAD,
        n_heads=HEADS,
        d_mlp=WIDTH,
        d_vocab=VOCAB,
        eps=1e-5,
        use_attn_result=True,
        device="cpu",
        **extra,
    )
    hooked = HookedTransformer(config)
    state = hooked.state_dict()

    def put(key: str, value: Tensor) -> None:
        assert state[key].shape == value.shape, (key, state[key].shape, value.shape)
        state[key] = value.detach().clone()

    put("embed.W_E", model.embedding.weight)
    if not llama:
        assert model.position_embedding is not None
        put("pos_embed.W_pos", model.position_embedding.weight)
    kv = 2 if llama else HEADS
    for n, block in enumerate(model.blocks):
        at, mixer, ffn = f"blocks.{n}.", block.mixer, block.ffn
        for norm, ours in (("ln1", block.mixer_norm), ("ln2", block.ffn_norm)):
            put(f"{at}{norm}.w", ours.weight)
            if not llama:
                put(f"{at}{norm}.b", ours.bias)
        rows = mixer.qkv.weight.split((HEADS * HEAD, kv * HEAD, kv * HEAD))
        biases = None if llama else mixer.qkv.bias.split(HEADS * HEAD)
        for index, (letter, weight) in enumerate(zip("QKV", rows, strict=True)):
            mark = "_" if llama and letter != "Q" else ""
            put(f"{at}attn.{mark}W_{letter}", weight.unflatten(0, (-1, HEAD)).mT)
            if biases is not None:
                put(f"{at}attn.b_{letter}", biases[index].unflatten(0, (-1, HEAD)))
        put(f"{at}attn.W_O", mixer.output.weight.T.unflatten(0, (HEADS, HEAD)))
        if not llama:
            put(f"{at}attn.b_O", mixer.output.bias)
            put(f"{at}mlp.W_in", ffn.up.weight.T)
            put(f"{at}mlp.b_in", ffn.up.bias)
            put(f"{at}mlp.b_out", ffn.down.bias)
        else:
            gate, up = ffn.gate_up.weight.chunk(2)
            put(f"{at}mlp.W_gate", gate.T)
            put(f"{at}mlp.W_in", up.T)
        put(f"{at}mlp.W_out", ffn.down.weight.T)
    put("ln_final.w", model.final_norm.weight)
    if not llama:
        put("ln_final.b", model.final_norm.bias)
    put("unembed.W_U", model.head.weight.T)
    hooked.load_and_process_state_dict(
        state, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return hooked.eval()


INSIDE = {
    "hook_resid_pre": "residual_pre",
    "hook_resid_mid": "residual_mid",
    "hook_resid_post": "residual_post",
    "hook_attn_out": "mixer.output",
    "hook_mlp_out": "ffn.output",
    "attn.hook_pattern": "mixer.attention",
    "attn.hook_z": "mixer.heads",
    "attn.hook_v": "mixer.value",
    "mlp.hook_post": "ffn.hidden",
}
"""TransformerLens's name of a value -> ours."""


def record(name: str) -> dict[str, Tensor]:
    """All that is kept of one model."""
    from transformer_lens import patching

    model = random_model(name)
    hooked = theirs(name, model)
    found = {f"weights.{key}": value for key, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(VOCAB, (2, LENGTH), generator=generator)
    corrupted = ids.clone()
    corrupted[:, 2] = (corrupted[:, 2] + 5) % VOCAB
    targets = torch.randint(VOCAB, (2, LENGTH), generator=generator)
    against = (targets + 3) % VOCAB
    found |= {"ids": ids, "corrupted": corrupted, "targets": targets, "against": against}

    def metric(logits: Tensor) -> Tensor:
        last = logits[:, -1].log_softmax(-1)
        return last.gather(-1, targets[:, -1:]).mean()

    with torch.no_grad():
        logits, cache = hooked.run_with_cache(ids)
        found["logits"] = logits
        for n in range(LAYERS):
            for key, ours in INSIDE.items():
                found[f"blocks.{n}.{ours}"] = cache[f"blocks.{n}.{key}"]
            rotated = "attn.hook_rot_" if name == "llama" else "attn.hook_"
            for letter, ours in (("q", "query"), ("k", "key")):
                found[f"blocks.{n}.mixer.{ours}"] = cache[f"blocks.{n}.{rotated}{letter}"]
        stack = cache.accumulated_resid(layer=-1, incl_mid=False)
        found["lens"] = torch.stack([hooked.unembed(hooked.ln_final(part)) for part in stack])
        parts = cache.decompose_resid(layer=-1, mode="all")
        found["layer_parts"] = cache.logit_attrs(parts, targets, incorrect_tokens=against)
        heads = cache.stack_head_results(layer=-1)
        found["head_parts"] = cache.logit_attrs(heads, targets, incorrect_tokens=against)
        effects = torch.zeros(LAYERS, HEADS)
        for layer in range(LAYERS):
            for head in range(HEADS):

                def hook(value: Tensor, hook: Any, head: int = head) -> Tensor:
                    value[:, :, head] = 0
                    return value

                without = hooked.run_with_hooks(
                    ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)]
                )
                effects[layer, head] = metric(without) - metric(logits)
        found["ablation"] = effects
        found["patch_residual"] = patching.get_act_patch_resid_pre(hooked, corrupted, cache, metric)
        found["patch_mixer"] = patching.get_act_patch_attn_out(hooked, corrupted, cache, metric)
        found["patch_heads"] = patching.get_act_patch_attn_head_out_all_pos(
            hooked, corrupted, cache, metric
        )
        once = torch.randint(VOCAB, (3, 12), generator=generator)
        found["repeated"] = once
        _, cache = hooked.run_with_cache(torch.cat((once, once), 1))
        found["induction"] = torch.stack(
            [cache["pattern", n].diagonal(1 - 12, -2, -1).mean((0, -1)) for n in range(LAYERS)]
        )
    return {key: value.detach().contiguous().clone() for key, value in found.items()}


if __name__ == "__main__":
    tensors = {f"{n}.{key}": value for n in CONFIGS for key, value in record(n).items()}
    save_file(tensors, str(FILE))
    print(f"{FILE}: {len(tensors)} tensors, {FILE.stat().st_size} bytes", file=sys.stderr)
