"""Glassbox: every part of a large language model, written by hand in PyTorch.

The names below are the public interface: documented, typed and stable. They are imported when they
are first used, so that `import glassbox` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from glassbox.core.version import __version__

if TYPE_CHECKING:
    from glassbox.api.adapters import attach_adapter, merge_adapter
    from glassbox.api.evaluation import evaluate
    from glassbox.api.llm import LLM
    from glassbox.api.loaded import Loaded, convert, load, save
    from glassbox.api.recipes import RunResult, run_recipe
    from glassbox.core.data_parallel import DataParallel
    from glassbox.core.errors import UserError
    from glassbox.formats.module_files import load_module, save_module
    from glassbox.inference.engine import Completion, Engine, TokenEvent
    from glassbox.inference.sampling.params import SamplingParams
    from glassbox.inspection.recording import Inspection, inspect
    from glassbox.models.causal_lm import CausalLM
    from glassbox.models.config import ModelConfig
    from glassbox.models.shapes import GPT2Shape, LlamaShape
    from glassbox.ops.attention import dot_product_attention
    from glassbox.ops.cross_entropy import cross_entropy
    from glassbox.ops.masked import masked_mean
    from glassbox.ops.softmax import entropy, log_softmax, softmax
    from glassbox.optim.adamw import AdamW
    from glassbox.optim.muon import Muon
    from glassbox.optim.torch_interface import TorchInterface
    from glassbox.tokenizers import Tokenizer, train_tokenizer
    from glassbox.training.config import TrainConfig
    from glassbox.training.loop import Trainer
    from glassbox.training.next_token import NextToken
    from glassbox.tuning.policy.grpo import Grpo
    from glassbox.tuning.preference.dpo import Dpo

_HOME = {
    "AdamW": "optim.adamw",
    "CausalLM": "models.causal_lm",
    "Completion": "inference.engine",
    "DataParallel": "core.data_parallel",
    "Dpo": "tuning.preference.dpo",
    "Engine": "inference.engine",
    "GPT2Shape": "models.shapes",
    "Grpo": "tuning.policy.grpo",
    "Inspection": "inspection.recording",
    "LLM": "api.llm",
    "LlamaShape": "models.shapes",
    "Loaded": "api.loaded",
    "ModelConfig": "models.config",
    "Muon": "optim.muon",
    "NextToken": "training.next_token",
    "RunResult": "api.recipes",
    "SamplingParams": "inference.sampling.params",
    "TokenEvent": "inference.engine",
    "Tokenizer": "tokenizers",
    "TorchInterface": "optim.torch_interface",
    "TrainConfig": "training.config",
    "Trainer": "training.loop",
    "UserError": "core.errors",
    "attach_adapter": "api.adapters",
    "convert": "api.loaded",
    "cross_entropy": "ops.cross_entropy",
    "dot_product_attention": "ops.attention",
    "entropy": "ops.softmax",
    "evaluate": "api.evaluation",
    "inspect": "inspection.recording",
    "load": "api.loaded",
    "load_module": "formats.module_files",
    "log_softmax": "ops.softmax",
    "masked_mean": "ops.masked",
    "merge_adapter": "api.adapters",
    "run_recipe": "api.recipes",
    "save": "api.loaded",
    "save_module": "formats.module_files",
    "softmax": "ops.softmax",
    "train_tokenizer": "tokenizers",
}
"""Public name -> the module below `glassbox` that defines it."""

__all__ = [
    "LLM",
    "AdamW",
    "CausalLM",
    "Completion",
    "DataParallel",
    "Dpo",
    "Engine",
    "GPT2Shape",
    "Grpo",
    "Inspection",
    "LlamaShape",
    "Loaded",
    "ModelConfig",
    "Muon",
    "NextToken",
    "RunResult",
    "SamplingParams",
    "TokenEvent",
    "Tokenizer",
    "TorchInterface",
    "TrainConfig",
    "Trainer",
    "UserError",
    "__version__",
    "attach_adapter",
    "convert",
    "cross_entropy",
    "dot_product_attention",
    "entropy",
    "evaluate",
    "inspect",
    "load",
    "load_module",
    "log_softmax",
    "masked_mean",
    "merge_adapter",
    "run_recipe",
    "save",
    "save_module",
    "softmax",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'glassbox' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"glassbox.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
