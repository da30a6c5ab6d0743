"""DeepSeek-V3.2: DeepSeek-V3 whose attention looks only at tokens that a lightning indexer chooses.

The indexer's Hadamard rotation, which turns queries and keys alike and changes no score, is left
out, as in transformers; so is the layer that predicts a second token, as in `deepseek_v3`.
Source: DeepSeek-V3.2, arXiv:2512.02556; sizes as in the models' config.json on the Hub.
Tested against: transformers DeepseekV32ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.core.errors import UserError
from glassbox.layers.indexer import Indexer
from glassbox.models.config import ModelConfig
from glassbox.models.families._deepseek import (
    IGNORED,
    SECOND_TOKEN,
    deepseek_keys,
    deepseek_parts,
    deepseek_rules,
    read_deepseek,
    read_latent,
)
from glassbox.models.families._rope import read_rotary
from glassbox.models.families.deepseek_v3 import TINY, published, sigmoid_experts
from glassbox.models.family import Family, HfConfig

DENSE, EXPERTS = "dense", "sparse"
"""Their types of feed-forward."""


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """DeepseekV32Config's keys. transformers knows no queries without a latent."""
    parts = deepseek_parts(config)
    if parts is None or parts.mixer.indexer is None or parts.mixer.q_rank is None:
        return None
    indexer, num_experts = parts.mixer.indexer, config.num_layers - parts.num_dense
    words = {
        **deepseek_keys(config, parts),
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "num_nextn_predict_layers": 0,
        "mlp_layer_types": [DENSE] * parts.num_dense + [EXPERTS] * num_experts,
        "index_n_heads": indexer.num_heads,
        "index_head_dim": indexer.head_dim,
        "index_topk": indexer.top_k,
    }
    if parts.experts is not None:
        words |= {"n_group": parts.experts.num_groups, "topk_group": parts.experts.top_groups}
    return words


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from DeepseekV32Config's keys.

    Raises UserError where layers of experts stand before dense ones.
    """
    num_layers = raw.get("num_hidden_layers", int)
    num_dense = min(raw.get("first_k_dense_replace", int, 3), num_layers)
    types = raw.find_list("mlp_layer_types", str)
    if types is not None:
        num_dense = types.count(DENSE)
        if types != [DENSE] * num_dense + [EXPERTS] * (num_layers - num_dense):
            raise UserError(
                f"{raw.where}: 'mlp_layer_types' = {types} is not supported; known: '{DENSE}' for "
                f"the first layers and '{EXPERTS}' for the rest of the {num_layers}"
            )
    indexer = Indexer(
        num_heads=raw.get("index_n_heads", int, 64),
        head_dim=raw.get("index_head_dim", int, 128),
        top_k=raw.get("index_topk", int, 2048),
    )
    rotary = read_rotary(raw).model_copy(update={"layout": "interleaved"})
    mixer = read_latent(raw, positions=rotary, indexer=indexer)
    raw = HfConfig({**raw.raw, "first_k_dense_replace": num_dense}, raw.where)
    return read_deepseek(raw, mixer, sigmoid_experts(raw), num_dense=3, context_length=163840)


DEEPSEEK_V32 = Family(
    model_type="deepseek_v32",
    architecture="DeepseekV32ForCausalLM",
    prefix="model.",
    ignored=IGNORED,
    left_out=SECOND_TOKEN,
    presets={
        "deepseek-v3.2-tiny": read(
            HfConfig(published(**TINY, index_n_heads=4, index_head_dim=16, index_topk=32))
        ),
        "deepseek-v3.2": read(
            HfConfig(published(index_n_heads=64, index_head_dim=128, index_topk=2048))
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=deepseek_rules,
)
