"""The families known, one file and one row each, and the conversions that walk them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.models.config import ModelConfig
from glassbox.models.families.bloom import BLOOM
from glassbox.models.families.cohere2 import COHERE2
from glassbox.models.families.deepseek_v2 import DEEPSEEK_V2
from glassbox.models.families.deepseek_v3 import DEEPSEEK_V3
from glassbox.models.families.deepseek_v32 import DEEPSEEK_V32
from glassbox.models.families.gemma2 import GEMMA2
from glassbox.models.families.gemma3 import GEMMA3
from glassbox.models.families.glm4_moe import GLM4_MOE
from glassbox.models.families.gpt2 import GPT2
from glassbox.models.families.gpt_neox import GPT_NEOX
from glassbox.models.families.gpt_oss import GPT_OSS
from glassbox.models.families.granite import GRANITE
from glassbox.models.families.jamba import JAMBA
from glassbox.models.families.llama import LLAMA
from glassbox.models.families.mamba import MAMBA
from glassbox.models.families.mamba2 import MAMBA2
from glassbox.models.families.minimax import MINIMAX
from glassbox.models.families.minimax_m2 import MINIMAX_M2
from glassbox.models.families.mistral import MISTRAL
from glassbox.models.families.mixtral import MIXTRAL
from glassbox.models.families.olmo2 import OLMO2
from glassbox.models.families.olmo3 import OLMO3
from glassbox.models.families.phi3 import PHI3
from glassbox.models.families.qwen2 import QWEN2
from glassbox.models.families.qwen2_moe import QWEN2_MOE
from glassbox.models.families.qwen3 import QWEN3
from glassbox.models.families.qwen3_moe import QWEN3_MOE
from glassbox.models.families.qwen3_next import QWEN3_NEXT
from glassbox.models.families.rwkv import RWKV
from glassbox.models.families.smollm3 import SMOLLM3
from glassbox.models.family import Family, HfConfig, WeightRule

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    GPT2,
    GPT_NEOX,
    BLOOM,
    GEMMA2,
    GEMMA3,
    MISTRAL,
    OLMO2,
    OLMO3,
    PHI3,
    QWEN2,
    QWEN3,
    SMOLLM3,
    GRANITE,
    COHERE2,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    GPT_OSS,
    DEEPSEEK_V3,
    DEEPSEEK_V2,
    DEEPSEEK_V32,
    MAMBA,
    MAMBA2,
    RWKV,
    QWEN3_NEXT,
    MINIMAX,
    GLM4_MOE,
    MINIMAX_M2,
    JAMBA,
)


SAME_AS: Mapping[str, str] = MappingProxyType({"kimi_k2": "deepseek_v3"})
"""A `model_type` of files whose model is another family's, key by key and name by name."""


def presets() -> dict[str, ModelConfig]:
    """Every named config of every family."""
    return {name: config for family in FAMILIES for name, config in family.presets.items()}


def family_of(config: ModelConfig) -> Family | None:
    """The first family whose words suffice for this config, decided by its specs; None where none's do.

    The plainest stands first: a Mistral without windows is a Llama, and is written as one.
    """
    return next((family for family in FAMILIES if family.to_hf_config(config) is not None), None)


def family_named(model_type: str, *, where: str = "config.json") -> Family:
    """The family of a `model_type`. Raises UserError that lists the known ones."""
    name = SAME_AS.get(model_type, model_type)
    for family in FAMILIES:
        if family.model_type == name:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise UserError(f"{where}: 'model_type' = {model_type!r} is not known; known: {known}")


def to_hf_config(
    config: ModelConfig,
    *,
    bos_token_id: int | None = None,
    eos_token_id: int | list[int] | None = None,
    pad_token_id: int | None = None,
) -> dict[str, Any] | None:
    """Hugging Face's config of the same model, or None where no family of theirs can express it."""
    family = family_of(config)
    if family is None:
        return None
    words = family.to_hf_config(config)
    assert words is not None
    architecture = family.architecture
    if config.score_head:
        architecture = architecture.replace("ForCausalLM", "ForSequenceClassification")
        words |= {"id2label": {"0": "score"}, "label2id": {"score": 0}}
    return {
        "architectures": [architecture],
        "model_type": family.model_type,
        **words,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
    }


def from_hf_config(raw: Mapping[str, Any], *, where: str = "config.json") -> ModelConfig:
    """Our config of a Hugging Face one. Raises UserError naming the key that cannot be followed."""
    reader = HfConfig(raw, where)
    family = family_named(reader.get("model_type", str), where=where)
    try:
        return family.read(reader)
    except ValidationError as error:  # each number is one, but together they fit no model
        faults = [
            f"{'.'.join(map(str, f['loc']))} = {f['input']!r}: {f['msg']}" for f in error.errors()
        ]
        raise UserError(
            f"{where} describes no model that can be built: {'; '.join(faults)}"
        ) from None
    except ZeroDivisionError:
        raise UserError(f"{where} has a 0 among its sizes, as of num_attention_heads") from None


def to_hf_weights(
    config: ModelConfig, state: Mapping[str, Tensor], *, family: Family | None = None
) -> dict[str, Tensor]:
    """Tensors under their names from tensors under ours: views where the rules allow it.

    `family` is the one whose names are wanted, `family_of` the config unless given. Linear, so that
    it maps gradients too. Raises UserError where no family expresses the config.
    """
    theirs: dict[str, Tensor] = {}
    for rule in weight_rules(family or _family(config), config):
        theirs |= rule.split(state[rule.ours])
    return theirs


def from_hf_weights(
    config: ModelConfig, state: Mapping[str, Tensor], *, family: Family | None = None
) -> dict[str, Tensor]:
    """Tensors under our names from tensors under theirs; the inverse of `to_hf_weights`."""
    return {
        rule.ours: rule.join([state[name] for name in rule.theirs])
        for rule in weight_rules(family or _family(config), config)
    }


def weight_rules(family: Family, config: ModelConfig) -> list[WeightRule]:
    """The family's rules, and that of a scalar head, which has the same name everywhere."""
    head = [WeightRule("score.weight", ("score.weight",))] if config.score_head else []
    return [*family.rules(config), *head]


def _family(config: ModelConfig) -> Family:
    family = family_of(config)
    if family is None:
        raise UserError("no Hugging Face family can express this config; export it under our names")
    return family
