"""OLMo 3: OLMo 2 whose layers see a window, but for every fourth, which sees all.

Only the positions of layers that see all are ever rescaled. Source: OLMo team, arXiv:2512.13961; sizes
as in the models' config.json on the Hub. Tested against: transformers Olmo3ForCausalLM, logits and
gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.norms import RmsNorm
from glassbox.layers.rotary import Rotary
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._rope import read_rotary, rotary_keys
from glassbox.models.families._shared import (
    FULL,
    SLIDING,
    llama_keys,
    llama_parts,
    llama_rules,
    mixers,
    read_attention,
    read_model,
    read_swiglu,
    read_windows,
    window_keys,
)
from glassbox.models.family import Family, HfConfig

BASE = 500000.0
"""The base of rotary positions that a config without one means."""


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Olmo3Config's keys, as transformers 4 and 5 want them."""
    parts = llama_parts(config)
    if parts is None or config.hidden_size % parts.mixer.num_heads:
        return None
    base = parts.rotary.base
    used = {False: Rotary(base=base), True: Rotary(base=base)}  # has a window: its own
    for mixer in mixers(config):
        if not isinstance(mixer.positions, Rotary):
            return None
        used[mixer.window is not None] = mixer.positions
    full, local = rotary_keys(used[False]), rotary_keys(used[True])
    words = {**llama_keys(config, parts), **window_keys(config)}
    words.pop("rope_scaling", None)
    return {
        **words,
        **full,
        "rope_parameters": {FULL: full["rope_parameters"], SLIDING: local["rope_parameters"]},
        "attention_bias": parts.mixer.qkv_bias,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Olmo3Config's keys, of transformers 4 and 5."""
    num_layers = raw.get("num_hidden_layers", int)
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-5))
    bias = raw.get("attention_bias", bool, False)
    usual = [(number + 1) % 4 != 0 for number in range(num_layers)]
    rotary = {windowed: _rotary(raw, windowed=windowed) for windowed in (False, True)}
    ffn = read_swiglu(raw)
    layers = [
        BlockSpec(
            mixer=read_attention(
                raw,
                positions=rotary[width is not None],
                qk_norm=norm,
                qk_norm_over="all",
                qkv_bias=bias,
                output_bias=bias,
                window=width,
            ),
            ffn=ffn,
            norm=norm,
            residual="post",
        )
        for width in read_windows(raw, raw.find("sliding_window", int, 4096), usual)
    ]
    return read_model(raw, layers, norm)


def _rotary(raw: HfConfig, *, windowed: bool) -> Rotary:
    """The positions of layers with a window or of the others, whose words stand apart or, in older
    files, once for both."""
    base = raw.get("rope_theta", float, BASE)
    parameters = raw.inner("rope_parameters")
    nested = parameters
    if parameters is not None and (FULL in parameters.raw or SLIDING in parameters.raw):
        nested = parameters.inner(SLIDING if windowed else FULL)
    elif parameters is not None and windowed:
        nested = HfConfig({"rope_theta": parameters.get("rope_theta", float, base)}, raw.where)
    scaling = None if windowed else raw.inner("rope_scaling")
    words = {**(nested.raw if nested else {}), **(scaling.raw if scaling else {})}
    return read_rotary(raw, base=base, nested=HfConfig(words, raw.where))


def _published(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, size: int, **words: Any
) -> ModelConfig:
    yarn = {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "attention_factor": 1.2079441541679836,
    }
    common = {
        "vocab_size": 100278,
        "hidden_size": hidden_size,
        "intermediate_size": size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": 65536,
        "sliding_window": 4096,
        "rope_theta": BASE,
        "rope_scaling": yarn,
        "rms_norm_eps": 1e-6,
    }
    return read(HfConfig(common | words))


OLMO3 = Family(
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\..*inv_freq",
    presets={
        "olmo3-tiny": _published(
            64,
            4,
            4,
            2,
            192,
            vocab_size=512,
            max_position_embeddings=256,
            sliding_window=32,
            rope_scaling=None,
        ),
        "olmo3-7b": _published(4096, 32, 32, 32, 11008),
        "olmo3-32b": _published(5120, 64, 40, 8, 27648),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
