"""Adapters on a model: attach, choose, merge, take away. Files are `models.adapter_files`.

A model with adapters is the same model: the base is frozen, what is trained is small, and several
adapters may be held at once, one for all rows of a batch or one a row.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from glassbox.adapters.layers import AdaptedLinear, Bottleneck, LowRank, Selection
from glassbox.adapters.linear_parts import Part, is_router, linear_parts, select_parts
from glassbox.adapters.specs import (
    AdapterSpec,
    AnyAdapter,
    BottleneckAdapter,
    Lora,
    PrefixTuning,
    PromptTuning,
)
from glassbox.adapters.virtual_tokens import Prefix, Prompt, VirtualTokens, attention_layers
from glassbox.core.errors import UserError
from glassbox.layers.linear import Linear
from glassbox.layers.quantized import Nf4Linear
from glassbox.models.causal_lm import CausalLM

DEFAULT = "default"


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter belongs to: what the user called it, where it was, its weights' hash."""

    name: str | None = None
    path: str | None = None
    fingerprint: str = ""


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of all weights by name, dtype and bytes, whatever file they came from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy())
    return digest.hexdigest()


class Adapters:
    """All adapters of one model; `model.adapters` once `attach` has been called.

    use(name): one adapter for all rows, None for the bare base. set_rows(names): one a row of the
    calls that follow, until `set_rows(None)`; `rows(names)` does both around a block of code.
    """

    def __init__(self, model: CausalLM, base: BaseModel) -> None:
        self.model = model
        self.base = base
        self.specs: dict[str, AnyAdapter] = {}
        self.parts: dict[str, list[Part]] = {}
        """adapter -> the parts of linear layers that it is on."""
        self.selection = Selection()
        self.extra: list[str] = []
        """Parameters of the base that are trained along: biases, and `also`."""
        self.merged: str | None = None
        self.hooks: list[RemovableHandle] = []
        self.trainable_before = dict.fromkeys(
            (name for name, p in model.named_parameters() if p.requires_grad), True
        )

    @property
    def names(self) -> list[str]:
        """Of the adapters held."""
        return list(self.specs)

    def layers(self) -> Iterator[tuple[str, AdaptedLinear]]:
        """The adapted linear layers by name."""
        for name, module in self.model.named_modules():
            if isinstance(module, AdaptedLinear):
                yield name, module

    def use(self, name: str | None) -> None:
        """One adapter for all rows; None: the base alone."""
        self._check(name)
        self._virtual_refused("be switched off" if name is None else "be exchanged", name)
        self.selection.active = name

    def set_rows(self, names: Sequence[str | None] | None) -> None:
        """One adapter a row of the batches that follow; None: that of `use` for all again.

        Raises UserError for names that are not held, and for prefix and prompt tuning.
        """
        for name in dict.fromkeys(names or ()):
            self._check(name)
        if names is not None:
            self._virtual_refused("be chosen a row", None)
        self.selection.set_rows(names, self.model.device)

    @contextlib.contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """`set_rows` for the calls within."""
        self.set_rows(names)
        try:
            yield
        finally:
            self.set_rows(None)

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """`use` for the calls within, and afterwards the adapter of before."""
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
        if self.model.virtual is not None and name not in self.specs:
            kind = next(iter(self.specs.values())).kind
            raise UserError(f"an adapter of kind '{kind}' cannot {what}; detach it")

    def merge(self, name: str = DEFAULT) -> None:
        """Put a LoRA into the base's matrices: as fast as the base. Raises UserError for other kinds."""
        self._check(name)
        if not isinstance(self.specs[name], Lora):
            raise UserError(
                f"adapter '{name}' of kind '{self.specs[name].kind}' cannot be merged into matrices; "
                "keep it beside its base"
            )
        for _, layer in self.layers():
            layer.merge(name)
        self.merged = name

    def unmerge(self) -> None:
        """Undo `merge`: every matrix is, to the last bit, what it was."""
        for _, layer in self.layers():
            layer.unmerge()
        self.merged = None

    def state(self, name: str = DEFAULT) -> dict[str, Tensor]:
        """The tensors of one adapter under our names, and what is trained along with it."""
        virtual = self.model.virtual
        found: dict[str, Tensor] = {} if virtual is None else {"virtual.rows": virtual.rows}
        for path, layer in self.layers():
            if name in layer.updates:
                for key, tensor in layer.updates[name].state_dict(keep_vars=True).items():
                    found[f"{path}.{key}"] = tensor
        parameters = dict(self.model.named_parameters())
        return found | {extra: parameters[self.path_of(extra)] for extra in self.extra}

    def path_of(self, name: str) -> str:
        """Where a parameter of the base stands now: an adapted layer's is one level down."""
        module, _, kind = name.rpartition(".")
        wrapped = dict(self.layers())
        return f"{module}.base.{kind}" if module in wrapped else name


def attach(
    model: CausalLM,
    spec: AnyAdapter,
    name: str = DEFAULT,
    *,
    base: BaseModel | None = None,
    seed: int = 0,
) -> Adapters:
    """Freeze a model and add an adapter, which then is the active one and alone is trained.

    base: how the model is called and where it lies; its fingerprint is taken here, before anything
    changes. Raises UserError where the targets name no linear layer, the name is taken, or kinds do
    not go together.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"adapter name '{name}': use letters, digits, '_' and '-'")
    if hasattr(nn.ModuleDict(), name):  # it would be an attribute of one
        raise UserError(f"adapter name '{name}' is taken by torch; give another name")
    adapters = model.adapters
    if adapters is None:
        base = base or BaseModel()
        base = BaseModel(base.name, base.path, base.fingerprint or weights_fingerprint(model))
        adapters = Adapters(model, base)
    elif name in adapters.specs:
        raise UserError(f"adapter '{name}' is there already; give another name")
    elif adapters.merged is not None:
        raise UserError(f"adapter '{adapters.merged}' is merged; unmerge it first")
    elif model.virtual is not None or isinstance(spec, PrefixTuning | PromptTuning):
        raise UserError(f"an adapter of kind '{spec.kind}' stands alone; detach the others first")
    elif adapters.extra or spec.also or (isinstance(spec, Lora) and spec.bias != "none"):
        raise UserError("an adapter that trains parts of the base along cannot share it")
    generator = torch.Generator().manual_seed(seed)
    parts = linear_parts(model)
    if model.adapters is None:
        model.requires_grad_(False)
    if spec.quantize is not None and model.adapters is None:
        quantize(model, torch.bfloat16 if spec.compute == "bfloat16" else torch.float32)
    model.adapters = adapters
    adapters.specs[name] = spec
    try:
        if isinstance(spec, Lora):
            _add_lora(adapters, spec, name, parts, generator)
        elif isinstance(spec, BottleneckAdapter):
            _add_bottlenecks(adapters, spec, name, generator)
        else:
            _add_virtual(model, spec, generator)
        _train_along(adapters, spec, name)
    except BaseException:
        adapters.specs.pop(name)
        if not adapters.specs:
            detach(model)
        raise
    adapters.selection.active = name
    return adapters


def detach(model: CausalLM) -> None:
    """Take all adapters away: the base as it was, in 4 bits where it was made so.

    Parameters of the base that were trained along stay as they are.
    """
    adapters = model.adapters
    if adapters is None:
        return
    adapters.unmerge()
    for path, layer in list(adapters.layers()):
        _replace(model, path, layer.base)
    model.virtual, model.adapters = None, None
    for hook in adapters.hooks:
        hook.remove()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in adapters.trainable_before)


def drop(model: CausalLM, name: str) -> None:
    """Take one adapter away; with the last one goes everything, as by `detach`.

    Where it was the active one, none is. Raises UserError for a name not held, and while merged.
    """
    adapters = model.adapters
    assert adapters is not None
    adapters._check(name)
    if len(adapters.specs) == 1:
        detach(model)
        return
    adapters.specs.pop(name)
    adapters.parts.pop(name, None)
    for path, layer in list(adapters.layers()):
        if name in layer.updates:
            del layer.updates[name]
        if not layer.updates:
            _replace(model, path, layer.base)
    if adapters.selection.active == name:
        adapters.selection.active = None


def bake(model: CausalLM, name: str = DEFAULT, *, dtype: torch.dtype | None = None) -> CausalLM:
    """The model with an adapter merged for good and 4-bit matrices unpacked: a plain one, to export.

    dtype of the unpacked matrices: the embedding's unless given. Raises UserError for adapters that
    are no matrices.
    """
    adapters = model.adapters
    if adapters is not None:
        adapters.unmerge()
        adapters.selection.set_rows(None)
        for _, layer in adapters.layers():
            if isinstance(layer.base, Nf4Linear):
                layer.base = layer.base.to_linear(dtype or model.embedding.weight.dtype)
        adapters.merge(name)
        for path, layer in list(adapters.layers()):
            _replace(model, path, layer.base)
        model.adapters = None
    for path, module in list(model.named_modules()):
        if isinstance(module, Nf4Linear):
            _replace(model, path, module.to_linear(dtype or model.embedding.weight.dtype))
    return model.requires_grad_()


def quantize(model: CausalLM, compute_dtype: torch.dtype = torch.bfloat16) -> None:
    """Keep the matrices of all linear layers within the blocks in 4 bits (NF4, double quantization)."""
    for path, module in list(model.named_modules()):
        if path.startswith("blocks.") and isinstance(module, Linear) and not is_router(path):
            _replace(model, path, Nf4Linear.from_linear(module, compute_dtype=compute_dtype))


def train_only(model: CausalLM, patterns: Sequence[str]) -> list[str]:
    """Freeze all parameters but those whose names match one of the patterns (`blocks.5.*`, `*norm*`).

    Returns the names that stay trainable. Raises UserError for a pattern that matches none.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise UserError(
                f"train.only: '{pattern}' matches no parameter; names are as "
                f"'{next(iter(named))}' and '{list(named)[-1]}'"
            )
    kept = [name for name in named if any(fnmatchcase(name, p) for p in patterns)]
    for name, parameter in named.items():
        parameter.requires_grad_(name in kept)
    return kept


def _add_lora(
    adapters: Adapters,
    spec: Lora,
    name: str,
    dialects: Sequence[Sequence[Part]],
    generator: torch.Generator,
) -> None:
    chosen = select_parts(dialects, spec.targets)
    by_layer: dict[str, list[Part]] = {}
    for part in chosen:
        by_layer.setdefault(part.ours, []).append(part)
    for path, own in by_layer.items():
        own.sort(key=lambda part: part.rows)
        layer = _adapted(adapters, path)
        layer.updates[name] = LowRank(
            layer.base,
            [part.rows for part in own],
            rank=spec.rank,
            alpha=spec.alpha,
            dropout=spec.dropout,
            rank_stabilized=spec.rank_stabilized,
            magnitude=spec.dora,
            generator=generator,
        ).train(adapters.model.training)
    adapters.parts[name] = [part for own in by_layer.values() for part in own]


def _add_bottlenecks(
    adapters: Adapters, spec: BottleneckAdapter, name: str, generator: torch.Generator
) -> None:
    ends = [
        path
        for path, module in adapters.model.named_modules()
        if path.startswith("blocks.")
        and getattr(module, "into_residual", False)
        and ".updates." not in path
        and not path.endswith(".base")
    ]
    ends = [path for path in ends if _linear_at(adapters.model, path) is not None]
    if not ends:
        raise UserError(
            "adapter of kind 'bottleneck': the model has no branch that ends in a linear layer"
        )
    for path in ends:
        layer = _adapted(adapters, path)
        layer.updates[name] = Bottleneck(
            layer.base, size=spec.size, activation=spec.activation, generator=generator
        )
    adapters.parts[name] = []


def _add_virtual(
    model: CausalLM, spec: PrefixTuning | PromptTuning, generator: torch.Generator
) -> None:
    what = "prefix tuning" if isinstance(spec, PrefixTuning) else "prompt tuning"
    mixers = attention_layers(model.config, what)
    table = model.embedding.weight.detach()
    dtype = torch.float64 if table.dtype == torch.float64 else torch.float32
    virtual: VirtualTokens
    if isinstance(spec, PromptTuning):
        # a prompt of real words is a far better start than noise (Lester et al., section 3.2)
        ids = torch.randint(len(table), (spec.tokens,), generator=generator)
        virtual = Prompt(table[ids.to(table.device)].to(dtype, copy=True))
    else:
        sizes = {m.kv_heads * m.resolved_head_dim(model.config.hidden_size) for m in mixers}
        if len(sizes) > 1:
            raise UserError(
                "prefix tuning needs keys of one size in all layers; use lora or prompt"
            )
        shape = (spec.tokens, 2 * len(mixers) * sizes.pop())
        virtual = Prefix(torch.randn(shape, generator=generator).to(table.device, dtype))
    model.virtual = virtual.train(model.training)


def _train_along(adapters: Adapters, spec: AdapterSpec, name: str) -> None:
    """Biases, the head of a reward model, and what `also` names."""
    model = adapters.model
    own = {id(tensor) for tensor in adapters.state(name).values()}
    named = {
        path.replace(".base.", "."): parameter
        for path, parameter in model.named_parameters()
        if id(parameter) not in own
    }
    bias = getattr(spec, "bias", "none")
    patterns = [*spec.also, *(["score.*"] if getattr(model, "score", None) is not None else [])]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in named):
            raise UserError(f"adapter.also: '{pattern}' matches no parameter")
    adapted = {path for path, _ in adapters.layers()}
    for path, parameter in named.items():
        is_bias = path.endswith(".bias")
        its_own = bias == "lora_only" and path.removesuffix(".bias") in adapted
        if any(fnmatchcase(path, p) for p in patterns) or (is_bias and (bias == "all" or its_own)):
            parameter.requires_grad_()
            adapters.extra.append(path)
            if is_bias and its_own:
                rows = [p.rows for p in adapters.parts[name] if f"{p.ours}.bias" == path]
                adapters.hooks.append(parameter.register_hook(_only_rows(rows)))


def _only_rows(rows: Sequence[tuple[int, int]]) -> Callable[[Tensor], Tensor]:
    """Of a bias that is several of theirs at once, the gradient of the adapted ones."""

    def mask(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        for start, stop in rows:
            kept[start:stop] = gradient[start:stop]
        return kept

    return mask


def _linear_at(model: nn.Module, path: str) -> Linear | Nf4Linear | AdaptedLinear | None:
    module = model.get_submodule(path)
    return module if isinstance(module, Linear | Nf4Linear | AdaptedLinear) else None


def _adapted(adapters: Adapters, path: str) -> AdaptedLinear:
    """The layer at a path, made ready for adapters."""
    module = adapters.model.get_submodule(path)
    if isinstance(module, AdaptedLinear):
        return module
    assert isinstance(module, Linear | Nf4Linear)
    layer = AdaptedLinear(module, adapters.selection).train(module.training)
    _replace(adapters.model, path, layer)
    return layer


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    owner: Any = model.get_submodule(parent)
    setattr(owner, child, module)
