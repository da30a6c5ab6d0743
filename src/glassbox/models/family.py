"""What a family is: how Hugging Face writes the same model, as data.

A family names no module. It gives a config in the other's words, a config read from them, and a
list of `WeightRule`s; export, import, and the comparison of gradients all walk that one list.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.layers.experts import MixtureOfExperts
from glassbox.models.config import (
    MAX_EXPERTS,
    MAX_LAYERS,
    BlockSpec,
    Initialization,
    ModelConfig,
    Repeat,
)

Value = TypeVar("Value", bool, int, float, str)

MAX_NUMBER = 1 << 32
"""Largest whole number in a config of others; what a size may be, `ModelConfig` says."""
MAX_LIST = 1 << 16
"""Most entries of a list in a config."""
MOST: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("num_hidden_layers", "n_layer"), MAX_LAYERS),
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), MAX_EXPERTS),
    }
)
"""The largest values of keys that decide how many parts a model has; of others it is MAX_NUMBER."""


@dataclass(frozen=True)
class WeightRule:
    """One tensor of ours and the tensors of theirs that it is made of.

    Ours is cut along its first axis into `sizes` rows; each part, transposed where `transpose`,
    is one of `theirs`. The map is linear and loses nothing, so it carries gradients as well. A
    subclass maps otherwise, and says in `views` whether its parts are views of ours.
    """

    views: ClassVar[bool] = True
    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    transpose: bool = False

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The checkpoint's tensors, from ours, as views."""
        parts = tensor.split(self.sizes) if self.sizes else (tensor,)
        assert len(parts) == len(self.theirs), self
        return {
            name: part.t() if self.transpose else part
            for name, part in zip(self.theirs, parts, strict=True)
        }

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Our tensors, from the checkpoint's."""
        return torch.cat([part.t() if self.transpose else part for part in parts])


class HfConfig:
    """A config.json of others, read key by key. Raises UserError naming the key and what was wanted."""

    def __init__(self, raw: Mapping[str, Any], where: str = "config.json") -> None:
        self.raw = raw
        self.where = where

    def get(self, key: str, kind: type[Value], default: Value | None = None) -> Value:
        """The value of a key; missing or null gives the default, and where there is none an error."""
        value = self.raw.get(key)
        if value is None:
            if default is None:
                raise UserError(
                    f"{self.where} lacks '{key}'; the model's shape is unknown without it"
                )
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 1 << 63 else math.inf
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(f"{self.where}: '{key}' = {_short(value)} is no {kind.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{self.where}: '{key}' = {value!r} is no finite number")
        most = MOST.get(key, MAX_NUMBER)
        if isinstance(value, int) and not -most <= value <= most:
            raise UserError(f"{self.where}: '{key}' = {_short(value)}: use {most} or less")
        return value

    def find(self, key: str, kind: type[Value], missing: Value | None = None) -> Value | None:
        """The value of a key that may be null: None there, and `missing` where the key is not."""
        if key in self.raw and self.raw[key] is None:
            return None
        return missing if key not in self.raw else self.get(key, kind)

    def find_list(self, key: str, kind: type[Value]) -> list[Value] | None:
        """The list under a key, each entry checked; None where the key is missing or null."""
        values = self.raw.get(key)
        if values is None:
            return None
        if not isinstance(values, list | tuple):
            raise UserError(f"{self.where}: '{key}' = {_short(values)} is no list")
        if len(values) > MAX_LIST:
            raise UserError(
                f"{self.where}: '{key}' has {len(values):,} entries; it may have {MAX_LIST:,}"
            )
        entries = HfConfig({f"{key}[{i}]": v for i, v in enumerate(values)}, self.where)
        return [entries.get(entry, kind) for entry in entries.raw]

    def inner(self, key: str) -> HfConfig | None:
        """The mapping under a key, or None where it is missing, null or empty."""
        nested = self.raw.get(key)
        if nested is None or nested == {}:
            return None
        if not isinstance(nested, Mapping):
            raise UserError(f"{self.where}: '{key}' = {_short(nested)} is no mapping")
        return HfConfig(nested, f"{self.where}, '{key}'")

    def refuse_unless(self, key: str, known: Sequence[Any]) -> None:
        """Raise UserError where a key asks for something that the family does not build."""
        value = self.raw.get(key)
        if value is not None and value not in known:
            raise UserError(
                f"{self.where}: '{key}' = {_short(value)} is not supported; known: "
                + (", ".join(map(repr, known)) or "null")
            )


def _short(value: Any) -> str:
    """A repr for one line, however large the value is."""
    if isinstance(value, int) and abs(value) > 1 << 128:
        return f"a number of {value.bit_length()} bits"
    return reprlib.repr(value) if not isinstance(value, str) else repr(value[:100])


@dataclass(frozen=True)
class Family:
    """One family of models as Hugging Face stores it.

    model_type, architecture: its names there. prefix: what the names of all tensors but the head's
    begin with. ignored: pattern of tensors that files may hold and no model needs. left_out: pattern
    of further weights that theirs and ours do not read; they are told of when a model is converted.
    write_hf_config: the config in Hugging Face's keys, or None where a look at the specs rules it out.
    read: our config from theirs. rules: the weights' map.
    """

    model_type: str
    architecture: str
    prefix: str
    ignored: str
    presets: Mapping[str, ModelConfig]
    write_hf_config: Callable[[ModelConfig], dict[str, Any] | None]
    read: Callable[[HfConfig], ModelConfig]
    rules: Callable[[ModelConfig], list[WeightRule]]
    left_out: str = r"(?!)"  # none

    def to_hf_config(self, config: ModelConfig) -> dict[str, Any] | None:
        """The config in Hugging Face's keys, or None where this family cannot represent all of it.

        What is written must read back as the same model, so that a field which a spec gains later is
        never dropped silently.
        """
        raw = self.write_hf_config(config)
        if raw is None or canonical(self.read(HfConfig(raw))) != canonical(config):
            return None
        return raw

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor of theirs is none of the model's parameters."""
        return re.fullmatch(f"{self.ignored}|{self.left_out}", name) is not None

    def full_names(self, names: Sequence[str]) -> dict[str, str]:
        """Each tensor's name with the prefix, which files of the bare model lack, and its own."""
        if any(name.startswith(self.prefix) for name in names):
            return {name: name for name in names}
        heads = ("lm_head.", "score.")
        return {n if n.startswith(heads) else self.prefix + n: n for n in names}


def uniform_block(config: ModelConfig) -> BlockSpec | None:
    """The block that all layers share, or None where they differ."""
    layers = config.layers()
    return layers[0] if all(layer == layers[0] for layer in layers) else None


def canonical(config: ModelConfig) -> ModelConfig:
    """The same function of the same weights, written one way: defaults spelled out, repeats joined.

    Dropout, initialization and the losses of experts concern training alone, a scalar head leaves
    the logits as they are: all are set to their defaults.
    """
    layers = [
        layer.model_copy(
            update={
                "mixer": layer.mixer.resolve(config.hidden_size),
                "ffn": layer.ffn.untrained()
                if isinstance(layer.ffn, MixtureOfExperts)
                else layer.ffn,
            }
        )
        for layer in config.layers()
    ]
    plain = {"dropout": 0.0, "init": Initialization(), "score_head": False}
    return config.model_copy(update={"blocks": repeats(layers), **plain})


def repeats(layers: Sequence[BlockSpec]) -> tuple[Repeat, ...]:
    """The layers with equal neighbours counted instead of repeated."""
    return tuple(Repeat(block=spec, times=len(list(run))) for spec, run in groupby(layers))
