"""Gemma 3, its text model: Gemma 2 with norms on queries and keys instead of caps, five windows to
one layer that sees all, and a base of rotary positions for each of the two.

Source: Gemma team, arXiv:2503.19786, and the models' config.json on the Hub. Tested against:
transformers Gemma3ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.rotary import Rotary
from glassbox.models.config import ModelConfig
from glassbox.models.families._rope import read_rotary, rotary_keys
from glassbox.models.families._shared import (
    FULL,
    SLIDING,
    llama_rules,
    mixers,
    read_windows,
)
from glassbox.models.families.gemma2 import gemma_block, gemma_keys, gemma_model, gemma_norm
from glassbox.models.family import Family, HfConfig

GLOBAL_BASE, LOCAL_BASE = 1e6, 1e4


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Gemma3TextConfig's keys."""
    words = gemma_keys(config)
    if words is None:
        return None
    used = {False: Rotary(base=GLOBAL_BASE), True: Rotary(base=LOCAL_BASE)}  # has a window: its own
    for mixer in mixers(config):
        if not isinstance(mixer.positions, Rotary):
            return None
        used[mixer.window is not None] = mixer.positions
    full, local = rotary_keys(used[False]), rotary_keys(used[True])
    words.pop("rope_scaling", None)
    return {
        **words,
        **full,
        "rope_local_base_freq": used[True].base,  # as transformers 4 wants it
        "rope_parameters": {FULL: full["rope_parameters"], SLIDING: local["rope_parameters"]},
        "attn_logit_softcapping": None,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Gemma3TextConfig's keys, of transformers 4 and 5.

    Without `layer_types` every sixth layer sees all. Raises UserError for caps on the scores, which
    transformers' own code of Gemma 3 passes over.
    """
    raw.refuse_unless("attn_logit_softcapping", ())
    num_layers = raw.get("num_hidden_layers", int)
    every = raw.get("sliding_window_pattern", int, 6)
    usual = [(number + 1) % every != 0 for number in range(num_layers)]
    window = raw.find("sliding_window", int, 4096)
    rotary = {False: _rotary(raw, windowed=False), True: _rotary(raw, windowed=True)}
    norm = gemma_norm(raw)
    layers = [
        gemma_block(raw, window=width, positions=rotary[width is not None], qk_norm=norm)
        for width in read_windows(raw, window, usual)
    ]
    return gemma_model(raw, layers, context_length=131072, logit_softcap=None)


def _rotary(raw: HfConfig, *, windowed: bool) -> Rotary:
    """The positions of layers with a window or of the others; only the latter are ever rescaled."""
    parameters = raw.inner("rope_parameters")
    nested = None if parameters is None else parameters.inner(SLIDING if windowed else FULL)
    if windowed:
        base = raw.get("rope_local_base_freq", float, LOCAL_BASE)
        theta = (nested or HfConfig({})).get("rope_theta", float, base)
        inner = {**(nested.raw if nested else {}), "rope_theta": theta}
    else:
        scaling = raw.inner("rope_scaling")
        inner = {**(nested.raw if nested else {}), **(scaling.raw if scaling else {})}
    return read_rotary(raw, base=GLOBAL_BASE, nested=HfConfig(inner, raw.where))


def _published(hidden_size: int, num_layers: int, size: int, **words: Any) -> ModelConfig:
    common = {
        "vocab_size": 262144,
        "hidden_size": hidden_size,
        "intermediate_size": size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32768,
        "sliding_window": 512,
    }
    return read(HfConfig(common | words))


GEMMA3 = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "gemma3-tiny": _published(
            64,
            6,
            192,
            vocab_size=512,
            head_dim=16,
            query_pre_attn_scalar=16,
            max_position_embeddings=256,
            sliding_window=32,
        ),
        "gemma-3-270m": _published(640, 18, 2048),
        "gemma-3-1b": _published(1152, 26, 6912),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
