"""Architectures of GGUF: their keys and tensor names, and Hugging Face's for the same model.

GGUF names are mapped to Hugging Face's, which the families read and write. Two things differ
besides names: llama.cpp rotates neighbouring channels where Hugging Face rotates channels half a
head apart, so that rows of q and k are permuted for Llama; and Gemma's norm weights are stored as 1
+ w. Source: the gguf package's `constants.py` and `tensor_mapping.py`,
and llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.formats.gguf import rope
from glassbox.models.config import ModelConfig
from glassbox.models.families import family_of, from_hf_config, to_hf_config
from glassbox.models.family import HfConfig, canonical

Words = dict[str, Any]

OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LLAMA_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QWEN3_BLOCK = {
    **LLAMA_BLOCK,
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
GEMMA2_BLOCK = {
    **LLAMA_BLOCK,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

KEYS: Mapping[str, tuple[str, type]] = MappingProxyType(
    {
        "block_count": ("num_hidden_layers", int),
        "context_length": ("max_position_embeddings", int),
        "embedding_length": ("hidden_size", int),
        "feed_forward_length": ("intermediate_size", int),
        "attention.head_count": ("num_attention_heads", int),
        "attention.head_count_kv": ("num_key_value_heads", int),
        "attention.key_length": ("head_dim", int),
        "attention.layer_norm_rms_epsilon": ("rms_norm_eps", float),
        "rope.freq_base": ("rope_theta", float),
    }
)
"""Keys, after the architecture's name and a dot, that all have; and Hugging Face's words for them."""

_CHECKED = ("vocab_size", "rope.dimension_count", "attention.value_length")
_ZERO = ("expert_count", "expert_used_count")  # where they are there at all


def _nothing(reader: HfConfig, prefix: str, words: Words) -> Words:
    return {}


@dataclass(frozen=True)
class Architecture:
    """One `general.architecture`.

    model_type: the family in Hugging Face's words. block: tensor names within a layer. turned: rows
    of q and k change places. norm_offset: norms are stored as 1 + w. more: words that only this
    architecture's keys decide. keys: such keys, with the word each comes from.
    """

    name: str
    model_type: str
    block: Mapping[str, str]
    turned: bool = False
    norm_offset: bool = False
    keys: Mapping[str, tuple[str, type]] = field(default_factory=dict)
    more: Callable[[HfConfig, str, Words], Words] = _nothing

    def hf_name(self, name: str) -> str | None:
        """Hugging Face's name of a tensor, or None for one that is not known.

        >>> ARCHITECTURES["llama"].hf_name("blk.3.attn_q.weight")
        'model.layers.3.self_attn.q_proj.weight'
        """
        found = re.fullmatch(r"(?:blk\.(\d{1,6})\.)?(\w+)\.(weight|bias)", name)
        if found is None:
            return None
        layer, part, kind = found.groups()
        if layer is None:
            return f"{OUTER[part]}.{kind}" if part in OUTER else None
        theirs = self.block.get(part)
        return None if theirs is None else f"model.layers.{int(layer)}.{theirs}.{kind}"

    def gguf_name(self, name: str) -> str:
        """The inverse of `hf_name`. Raises UserError for a tensor that GGUF has no name for.

        >>> ARCHITECTURES["llama"].gguf_name("model.layers.3.self_attn.q_proj.weight")
        'blk.3.attn_q.weight'
        """
        stem, _, kind = name.rpartition(".")
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
        names = {theirs: ours for ours, theirs in (self.block if layer else OUTER).items()}
        part = names.get(layer[2] if layer else stem)
        if part is None:
            raise UserError(f"GGUF's '{self.name}' has no name for the tensor '{name}'")
        return f"blk.{layer[1]}.{part}.{kind}" if layer else f"{part}.{kind}"


def _llama(reader: HfConfig, prefix: str, words: Words) -> Words:
    return {"attention_bias": words["has_qkv_bias"], "mlp_bias": words["has_ffn_bias"]}


def _gemma2(reader: HfConfig, prefix: str, words: Words) -> Words:
    # llama.cpp knows the largest of them by its layers, and scales its scores otherwise
    largest = words["num_hidden_layers"] == 46
    scale = words["hidden_size"] // words["num_attention_heads"] if largest else words["head_dim"]
    return {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": scale}


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        row.name: row
        for row in (
            Architecture("llama", "llama", LLAMA_BLOCK, turned=True, more=_llama),
            Architecture("qwen2", "qwen2", LLAMA_BLOCK),
            Architecture("qwen3", "qwen3", QWEN3_BLOCK),
            Architecture(
                "gemma2",
                "gemma2",
                GEMMA2_BLOCK,
                norm_offset=True,
                keys={
                    "attention.sliding_window": ("sliding_window", int),
                    "attn_logit_softcapping": ("attn_logit_softcapping", float),
                    "final_logit_softcapping": ("final_logit_softcapping", float),
                },
                more=_gemma2,
            ),
        )
    }
)


def read_config(
    metadata: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    where: str,
    divisors: Tensor | None = None,
) -> tuple[ModelConfig, Architecture]:
    """The config of a file, from its keys and the shapes of its tensors; divisors: see `rope`.

    Raises UserError naming a key that is missing, contradicts a tensor, or cannot be followed.
    """
    reader = HfConfig(metadata, where)
    name = reader.get("general.architecture", str)
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{where}: 'general.architecture' = {name!r} is not known; known: {known}")
    arch = ARCHITECTURES[name]
    _refuse_unknown(reader, arch)
    prefix = f"{name}."
    hidden, heads = (
        reader.get(f"{prefix}{key}", int) for key in ("embedding_length", "attention.head_count")
    )
    defaults: Words = {
        "num_key_value_heads": heads,
        "head_dim": hidden // max(1, heads),
        "rope_theta": 10000.0,
        "sliding_window": 4096,  # this and the next two: Gemma 2's
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    words: Words = {"model_type": arch.model_type}
    for key, (word, kind) in {**KEYS, **arch.keys}.items():
        value = reader.get(prefix + key, kind, defaults.get(word))
        words[word] = shortest(value) if kind is float else value
    if min(v for v in words.values() if isinstance(v, int)) < 1:
        raise UserError(f"{where}: a size in its '{prefix}' keys is not above 0")
    words["vocab_size"] = _check_shapes(words, shapes, reader, arch)
    words["tie_word_embeddings"] = "output.weight" not in shapes
    words["rope_parameters"] = rope.read_scaling(reader, prefix, words, divisors)
    words["has_qkv_bias"] = "blk.0.attn_q.bias" in shapes
    words["has_ffn_bias"] = "blk.0.ffn_up.bias" in shapes
    words |= arch.more(reader, prefix, words)
    return from_hf_config(words, where=where), arch


def config_metadata(config: ModelConfig) -> tuple[dict[str, Any], Architecture, Tensor | None]:
    """The keys of a config, its architecture, and the divisors of its frequencies (see `rope`).

    Raises UserError where no architecture here can say all of it.
    """
    family, words = family_of(config), to_hf_config(config)
    arch = next(
        (a for a in ARCHITECTURES.values() if family and a.model_type == family.model_type), None
    )
    if arch is None or words is None:
        kind = (
            "of no family that Hugging Face knows" if family is None else f"a {family.model_type}"
        )
        raise UserError(
            f"this model is {kind}; GGUF is written for {', '.join(ARCHITECTURES)}: use --to hf"
        )
    prefix = f"{arch.name}."
    metadata: dict[str, Any] = {
        "general.architecture": arch.name,
        **{prefix + key: words[word] for key, (word, _) in {**KEYS, **arch.keys}.items()},
        f"{prefix}attention.value_length": words["head_dim"],
        f"{prefix}rope.dimension_count": words["head_dim"],
        f"{prefix}vocab_size": config.vocab_size,
    }
    empty = [key for key, value in metadata.items() if value is None]
    if empty:
        raise UserError(f"GGUF's '{empty[0]}' needs a value that this model lacks; use --to hf")
    scaling, divisors = rope.scaling_metadata(words, prefix)
    metadata |= scaling
    _check_complete(config, words, metadata, arch, divisors)
    return metadata, arch, divisors


def shortest(value: float) -> float:
    """The number of fewest digits that is this one in float32.

    >>> shortest(9.999999747378752e-06)
    1e-05
    """
    single = _float32(value)
    return next(n for d in range(1, 18) if _float32(n := float(f"{value:.{d}g}")) == single)


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _check_complete(
    config: ModelConfig,
    words: Words,
    metadata: dict[str, Any],
    arch: Architecture,
    divisors: Tensor | None,
) -> None:
    """What is written reads back as the same model, but for float32's roundings."""
    size, head_dim = config.hidden_size, words["head_dim"]
    shapes = {
        "token_embd.weight": (config.vocab_size, size),
        "blk.0.attn_q.weight": (words["num_attention_heads"] * head_dim, size),
        "blk.0.attn_k.weight": (words["num_key_value_heads"] * head_dim, size),
        "blk.0.ffn_up.weight": (words["intermediate_size"], size),
        **({} if config.tie_embeddings else {"output.weight": (config.vocab_size, size)}),
        **({"blk.0.attn_q.bias": ()} if words.get("attention_bias") else {}),
        **({"blk.0.ffn_up.bias": ()} if words.get("mlp_bias") else {}),
        **{f"blk.{layer}.attn_norm.weight": (size,) for layer in range(config.num_layers)},
    }
    rounded = {k: shortest(v) if isinstance(v, float) else v for k, v in words.items()}
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(words.get(key), dict):
            inner = words[key].items()
            rounded[key] = {k: shortest(v) if isinstance(v, float) else v for k, v in inner}
    again, _ = read_config(metadata, shapes, "the GGUF file to be written", divisors)
    ours, theirs = canonical(from_hf_config(rounded)), canonical(again)
    for key in type(ours).model_fields:
        if getattr(ours, key) != getattr(theirs, key):
            raise UserError(
                f"GGUF's '{arch.name}' has no key for all of this model: its '{key}' would read back "
                "as another; use --to hf"
            )


def _check_shapes(
    words: Words, shapes: Mapping[str, Sequence[int]], reader: HfConfig, arch: Architecture
) -> int:
    """Hold the sizes to some tensors before anything is built of them; the size of the vocabulary."""
    where, hidden, head_dim = reader.where, words["hidden_size"], words["head_dim"]
    for name, rows, key in (
        ("token_embd", None, "embedding_length"),
        ("blk.0.attn_q", words["num_attention_heads"] * head_dim, "attention.head_count"),
        ("blk.0.attn_k", words["num_key_value_heads"] * head_dim, "attention.head_count_kv"),
        ("blk.0.ffn_up", words["intermediate_size"], "feed_forward_length"),
    ):
        shape = tuple(shapes.get(f"{name}.weight", ()))
        expected = (shape[0] if rows is None and shape else rows, hidden)
        if shape != expected:
            found = f"found {shape}" if shape else "found none of that name"
            raise UserError(
                f"{where}: tensor '{name}.weight' should be of shape {expected} by "
                f"'{arch.name}.{key}' and the like, {found}"
            )
    layers = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
    if len(layers) != words["num_hidden_layers"]:
        raise UserError(
            f"{where}: '{arch.name}.block_count' = {words['num_hidden_layers']}, but there are "
            f"tensors of {len(layers)} layers"
        )
    vocab_size = int(shapes["token_embd.weight"][0])
    reader.refuse_unless(f"{arch.name}.vocab_size", (vocab_size,))
    reader.refuse_unless(f"{arch.name}.rope.dimension_count", (head_dim,))
    reader.refuse_unless(f"{arch.name}.attention.value_length", (head_dim,))
    for key in _ZERO:
        reader.refuse_unless(f"{arch.name}.{key}", (0, 0.0))
    return vocab_size


def _refuse_unknown(reader: HfConfig, arch: Architecture) -> None:
    """An unknown key may change what the model computes, so it is not passed over."""
    scaling = [f"rope.scaling.{key}" for key in rope.KEYS]
    known = {*KEYS, *arch.keys, *_CHECKED, *_ZERO, *scaling}
    for key in reader.raw:
        if key.startswith(f"{arch.name}.") and key.removeprefix(f"{arch.name}.") not in known:
            raise UserError(f"{reader.where}: key '{key}' = {reader.raw[key]!r} is not known here")
