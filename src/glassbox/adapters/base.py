"""Base class of adapter specs, and the collection of adapters attached to a model."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from glassbox.adapters.layers import AdaptedLinear, Base, Selection
from glassbox.adapters.linear_parts import Part
from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.models.causal_lm import CausalLM

DEFAULT = "default"
PEFT_PREFIX = "base_model.model."
"""Prefix of every tensor name in PEFT's files."""


class AdapterSpec(Spec):
    """Base class of adapter specs: how the frozen base is stored, and how the adapter attaches to it."""

    mergeable: ClassVar[bool] = False
    """Whether the adapter is an update of weight matrices and can be merged into them."""
    stands_alone: ClassVar[bool] = False
    """Whether it excludes other adapters on the same model."""
    peft_type: ClassVar[str]
    """The `peft_type` in adapter_config.json."""
    width: ClassVar[str]
    """The config key of a dimension of its tensors, checked against the tensors of a file."""
    kind: str

    quantize: Literal["nf4"] | None = Field(
        None, description="keep the base's matrices in 4 bits (QLoRA)"
    )
    compute: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="dtype of matrix products with 4-bit weights"
    )
    also: tuple[str, ...] = Field(
        (), description="patterns of further parameters to train in full, such as score.* or *norm*"
    )

    @property
    def trains_base(self) -> bool:
        """Whether parameters of the base are trained as well."""
        return bool(self.also)

    def trains(self, path: str, adapted: Collection[str]) -> bool:
        """Whether the base's parameter of this name is, where the layers `adapted` have this adapter."""
        return any(fnmatchcase(path, pattern) for pattern in self.also)

    def trained_rows(self, path: str, parts: Sequence[Part]) -> list[tuple[int, int]] | None:
        """The trained rows of such a parameter as ranges; None: all."""
        return None

    def attach(self, adapters: Adapters, name: str, generator: torch.Generator) -> None:
        """Insert the adapter's modules into the model under this name.

        Raises UserError if the model does not support this kind of adapter.
        """
        raise NotImplementedError

    @property
    def only_adapted_biases(self) -> bool:
        """Whether a file has only those base biases that belong to adapted layers."""
        return False

    def slots(self, adapters: Adapters, name: str) -> dict[str, Slot]:
        """Maps each tensor of an adapter's file to its place in the model; trained base parameters
        are excluded.

        Kinds that PEFT supports override it with PEFT's names; the default is our names with PEFT's
        prefix.
        """
        state = adapters.state(name)
        return {
            PEFT_PREFIX + key: Slot(tensor, ...)
            for key, tensor in state.items()
            if key not in adapters.extra
        }

    def peft_config(self, adapters: Adapters, name: str) -> dict[str, Any]:
        """The entries of adapter_config.json for this kind, other than its name."""
        return {}

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any] | None:
        """The settings that PEFT's config and the names of its tensors say; None: PEFT has no such kind."""
        return None


@dataclass(frozen=True)
class Slot:
    """A tensor of the model, and the part of it that one tensor of a file is."""

    tensor: Tensor
    index: Any

    def read(self) -> Tensor:
        """The values, detached."""
        return self.tensor.detach()[self.index]

    def write(self, values: Tensor) -> None:
        """Copy `values` in, converted to the tensor's dtype and device."""
        with torch.no_grad():
            self.tensor[self.index] = values.to(self.tensor)


@dataclass(frozen=True)
class BaseModel:
    """The base model of an adapter: its name, its path, and the hash of its weights."""

    name: str | None = None
    path: str | None = None
    fingerprint: str = ""


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of all weights by name, dtype and bytes, independent of the file format."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy())
    return digest.hexdigest()


class Adapters:
    """All adapters of one model; `adapters_of` returns them once `attach` has been called.

    use(name): use one adapter for all rows, None for the base model only.
    set_rows(names): use one adapter per row in the following calls, until `set_rows(None)`.
    rows(names): a context manager for `set_rows`.
    """

    def __init__(self, model: CausalLM, base: BaseModel) -> None:
        self.model = model
        self.base = base
        self.specs: dict[str, AdapterSpec] = {}
        self.parts: dict[str, list[Part]] = {}
        """adapter -> the parts of linear layers that it is on."""
        self.selection = Selection()
        self.extra: list[str] = []
        """Parameters of the base that are trained along: biases, and `also`."""
        self.virtual: nn.Module | None = None
        """What stands before every sequence, where an adapter is that."""
        self.merged: str | None = None
        self.hooks: list[RemovableHandle] = []
        self.trainable_before = dict.fromkeys(
            (name for name, p in model.named_parameters() if p.requires_grad), True
        )

    @property
    def names(self) -> list[str]:
        """Names of the attached adapters."""
        return list(self.specs)

    def layers(self) -> Iterator[tuple[str, AdaptedLinear]]:
        """The adapted linear layers by name."""
        for name, module in self.model.named_modules():
            if isinstance(module, AdaptedLinear):
                yield name, module

    def use(self, name: str | None) -> None:
        """Use one adapter for all rows; None for the base model only."""
        self._check(name)
        self._virtual_refused("be switched off" if name is None else "be exchanged", name)
        self.selection.active = name

    def set_rows(self, names: Sequence[str | None] | None) -> None:
        """Set one adapter per row for the following batches; None: that of `use` for all rows again.

        Raises UserError for names that are not held, and for prefix and prompt tuning.
        """
        for name in dict.fromkeys(names or ()):
            self._check(name)
        if names is not None:
            self._virtual_refused("be chosen a row", None)
        self.selection.set_rows(names, self.model.device)

    @contextlib.contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Context manager for `set_rows`."""
        self.set_rows(names)
        try:
            yield
        finally:
            self.set_rows(None)

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Context manager for `use`; restores the previous adapter on exit."""
        before = self.selection.active
        self.use(name)
        try:
            yield
        finally:
            self.selection.active = before

    def _check(self, name: str | None) -> None:
        if name is not None and name not in self.specs:
            raise UserError(f"no adapter '{name}'; there are: {', '.join(self.specs)}")
        if self.merged is not None:
            raise UserError(f"adapter '{self.merged}' is merged; unmerge it first")

    def _virtual_refused(self, what: str, name: str | None) -> None:
        if self.virtual is not None and name not in self.specs:
            kind = next(iter(self.specs.values())).kind
            raise UserError(f"an adapter of kind '{kind}' cannot {what}; detach it")

    def merge(self, name: str = DEFAULT) -> None:
        """Merge a LoRA into the base weights, for inference at full speed. Raises UserError for other kinds."""
        self._check(name)
        if not self.specs[name].mergeable:
            raise UserError(
                f"adapter '{name}' of kind '{self.specs[name].kind}' cannot be merged into matrices; "
                "keep it beside its base"
            )
        for _, layer in self.layers():
            layer.merge(name)
        self.merged = name

    def unmerge(self) -> None:
        """Undo `merge`, restoring every weight bit for bit."""
        for _, layer in self.layers():
            layer.unmerge()
        self.merged = None

    def state(self, name: str = DEFAULT) -> dict[str, Tensor]:
        """The tensors of one adapter under our names, including base parameters trained with it."""
        found: dict[str, Tensor] = {}
        if self.virtual is not None:
            found |= {f"virtual.{key}": p for key, p in self.virtual.named_parameters()}
        for path, layer in self.layers():
            if name in layer.updates:
                for key, tensor in layer.updates[name].state_dict(keep_vars=True).items():
                    found[f"{path}.{key}"] = tensor
        parameters = dict(self.model.named_parameters())
        return found | {extra: parameters[self.path_of(extra)] for extra in self.extra}

    def adapted(self, path: str) -> AdaptedLinear:
        """Return the linear layer at a path, wrapped as an `AdaptedLinear`."""
        module = self.model.get_submodule(path)
        if isinstance(module, AdaptedLinear):
            return module
        assert isinstance(module, Base)
        layer = AdaptedLinear(module, self.selection).train(module.training)
        replace_module(self.model, path, layer)
        return layer

    def path_of(self, name: str) -> str:
        """The current name of a base parameter; those of an adapted layer are one level down."""
        module, _, kind = name.rpartition(".")
        wrapped = dict(self.layers())
        return f"{module}.base.{kind}" if module in wrapped else name


def adapters_of(model: nn.Module) -> Adapters | None:
    """The adapters attached to a model; None if there are none."""
    found: Adapters | None = vars(model).get("adapters")
    return found


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at a path."""
    parent, _, child = path.rpartition(".")
    owner: Any = model.get_submodule(parent)
    setattr(owner, child, module)
