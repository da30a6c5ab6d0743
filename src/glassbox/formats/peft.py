"""Reading and writing adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.

A further file, adapter_base.json, which PEFT ignores, has our spec and the name, path and hash of
the base model. Kinds that PEFT does not support (bottlenecks) and models without a Hugging Face
family are stored under our own names.
Tested against: peft, which opens ours, and whose files are opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glassbox.adapters.attach import attach, drop
from glassbox.adapters.base import (
    DEFAULT,
    PEFT_PREFIX,
    Adapters,
    BaseModel,
    adapters_of,
    weights_fingerprint,
)
from glassbox.adapters.specs import AnyAdapter, adapter_kinds
from glassbox.core.config import parse_any
from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.formats.tensor_files import TensorFiles, read_json, write_tensors
from glassbox.layers.quantized_linear import CodedMatrix
from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import family_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = "adapter_base.json"
MAX_WIDTH = 1 << 16
"""Largest rank, bottleneck and number of virtual tokens that a file may name."""

UNREAD = {
    "alpha_pattern", "rank_pattern", "exclude_modules", "lora_bias", "modules_to_save",
    "target_parameters", "trainable_token_indices", "layer_replication", "use_qalora", "arrow_config",
    "alora_invocation_tokens", "use_bdlora", "velora_config", "monteclora_config",
    "prefix_projection",
}  # fmt: skip
"""Keys of PEFT's that would change what an adapter does, and that are not built here."""


def is_adapter(folder: Path | str) -> bool:
    """Whether a folder has an adapter and no model."""
    return (Path(folder) / CONFIG).is_file()


def save_adapter(model: CausalLM, folder: Path | str, name: str = DEFAULT) -> None:
    """Write one of a model's adapters. Each file is whole or not there."""
    adapters = _adapters(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec, base = adapters.specs[name], adapters.base
    tensors = {key: tensor.contiguous() for key, tensor in _to_file(adapters, name).items()}
    write_tensors(folder / WEIGHTS, tensors)
    own = {"spec": spec.model_dump(mode="json"), "base": vars(base)}
    write_json(folder / BASE, own)
    write_json(folder / CONFIG, _peft_config(adapters, name))


def read_adapter(folder: Path | str) -> tuple[AnyAdapter, BaseModel]:
    """Read the spec and base of an adapter's folder, in our format or PEFT's. Raises UserError
    naming key and value.
    """
    folder = Path(folder)
    raw = read_json(folder / CONFIG)
    if (folder / BASE).is_file():
        own = read_json(folder / BASE)
        where = f"'{folder / BASE}'"
        try:
            spec, base = dict(own["spec"]), BaseModel(**own["base"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where} is damaged: {error!r}") from None
        parsed: AnyAdapter = parse_any(AnyAdapter, spec, where=where)
        return parsed, base
    return _from_peft(folder, raw), BaseModel(raw.get("base_model_name_or_path"))


def load_adapter(
    model: CausalLM, folder: Path | str, name: str = DEFAULT, *, keep_base: bool = False
) -> Adapters:
    """Load an adapter's folder, in our format or PEFT's, and attach it under a name.

    keep_base: do not quantize the base, even if the adapter was trained on a 4-bit base. Raises
        UserError for an adapter of another base model, and for missing, unexpected or mismatched
        tensors; the model is then unchanged.
    """
    folder = Path(folder)
    spec, base = read_adapter(folder)
    _check_width(spec, folder)
    if keep_base:
        spec = spec.model_copy(update={"quantize": None})
    held = adapters_of(model)
    known = None if held is None else held.base.fingerprint
    rounded = any(isinstance(module, CodedMatrix) for module in model.modules())
    if base.fingerprint and not rounded:  # a base in few bits is no longer the same numbers
        _check_base(base, known or weights_fingerprint(model), folder)
    active = None if held is None else held.selection.active
    adapters = attach(model, spec, name, base=base)
    try:
        fill_adapter(model, folder, name)
    except BaseException:
        drop(model, name)
        adapters.selection.active = active
        raise
    return adapters


def fill_adapter(model: CausalLM, folder: Path | str, name: str = DEFAULT) -> None:
    """Copy a folder's tensors into an adapter that is attached already, as a resume does."""
    adapters, folder = _adapters(model), Path(folder)
    if (folder / BASE).is_file():
        _check_base(read_adapter(folder)[1], adapters.base.fingerprint, folder)
    expected = _to_file(adapters, name)
    with TensorFiles(folder, WEIGHTS) as source:
        found = {key: source.shape(key) for key in source.names}
        if missing := sorted(expected.keys() ^ found.keys()):
            where = "lacks" if missing[0] in expected else "holds, and the adapter expects not,"
            raise UserError(f"{source.where} {where} tensor '{missing[0]}'")
        for key, tensor in expected.items():
            if tuple(tensor.shape) != found[key]:
                raise UserError(
                    f"{source.where}: tensor '{key}' has the wrong shape: expected "
                    f"{tuple(tensor.shape)}, found {found[key]}"
                )
        _from_file(adapters, name, {key: source.get(key) for key in expected})


def _check_width(spec: AnyAdapter, folder: Path) -> None:
    """The width that the config names is one of the weights' own, before anything is allocated."""
    key = spec.width
    width = getattr(spec, key)
    with TensorFiles(folder, WEIGHTS) as source:
        widths = {size for name in source.names for size in source.shape(name)}
    if width not in widths or width > MAX_WIDTH:
        raise UserError(
            f"'{folder / CONFIG}' says {key} = {width}, but no tensor in '{folder / WEIGHTS}' has such a "
            "dimension; these files do not belong together"
        )


def _check_base(base: BaseModel, fingerprint: str, folder: Path) -> None:
    if base.fingerprint and base.fingerprint != fingerprint:
        raise UserError(
            f"the adapter '{folder}' belongs to the base '{base.name or base.path}' with weights "
            f"{base.fingerprint}, this model's are {fingerprint}; give the base it was trained on"
        )


def _adapters(model: CausalLM) -> Adapters:
    adapters = adapters_of(model)
    if adapters is None:
        raise UserError("the model has no adapter; attach one first")
    return adapters


def _to_file(adapters: Adapters, name: str) -> dict[str, Tensor]:
    """The tensors as files name, cut and order them."""
    state = {key: tensor.detach() for key, tensor in adapters.state(name).items()}
    slots = adapters.specs[name].slots(adapters, name)
    own = {key: slot.read() for key, slot in slots.items()}
    return own | _extra_to_file(adapters, name, state)


@torch.no_grad()
def _from_file(adapters: Adapters, name: str, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `_to_file`, into the adapter's own tensors."""
    for key, slot in adapters.specs[name].slots(adapters, name).items():
        slot.write(tensors[key])
    parameters = dict(adapters.model.named_parameters())
    for extra, names, join in _extra(adapters, name):
        parameter = parameters[adapters.path_of(extra)]
        whole = join(parameter, {key: tensors[key] for key in names if key in tensors})
        parameter.copy_(whole)


def _extra_to_file(adapters: Adapters, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    rules = _rules(adapters.model)
    for extra, names, _ in _extra(adapters, name):
        parts = rules[extra].split(state[extra]) if extra in rules else {extra: state[extra]}
        found |= {key: part for key, part in zip(_all_names(adapters, name, extra), parts.values(),
                                                 strict=True) if key in names}  # fmt: skip
    return found


Join = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


def _extra(adapters: Adapters, name: str) -> list[tuple[str, list[str], Join]]:
    """What is trained along: our name, the names in the file, how they make ours.

    Of a bias that is several of theirs, only those of adapted layers are in a `lora_only` file.
    """
    rules, spec = _rules(adapters.model), adapters.specs[name]
    found: list[tuple[str, list[str], Join]] = []
    adapted = {part.theirs for part in adapters.parts.get(name, [])}
    for extra in adapters.extra:
        every = _all_names(adapters, name, extra)
        only = spec.only_adapted_biases and extra.endswith(".bias")
        names = [k for k in every if not only or _module(k) in adapted]
        names = names or every  # named in `also`

        def join(
            own: Tensor, parts: Mapping[str, Tensor], extra: str = extra, every: list[str] = every
        ) -> Tensor:
            if extra not in rules:
                return parts[every[0]]
            pieces = dict(zip(every, rules[extra].split(own.detach()).values(), strict=True))
            return rules[extra].join(
                [parts.get(key, piece).to(own) for key, piece in pieces.items()]
            )

        found.append((extra, names, join))
    return found


def _module(key: str) -> str:
    return key.removeprefix(PEFT_PREFIX).removesuffix(".bias").removesuffix(".base_layer")


def _all_names(adapters: Adapters, name: str, extra: str) -> list[str]:
    rules = _rules(adapters.model)
    adapted = {part.theirs for part in adapters.parts.get(name, [])}
    names = []
    for theirs in rules[extra].theirs if extra in rules else (extra,):
        module, _, kind = theirs.rpartition(".")
        names.append(PEFT_PREFIX + (f"{module}.base_layer.{kind}" if module in adapted else theirs))
    return names


def _rules(model: CausalLM) -> dict[str, Any]:
    family = family_of(model.config)
    return {} if family is None else {rule.ours: rule for rule in family.rules(model.config)}


def _peft_config(adapters: Adapters, name: str) -> dict[str, Any]:
    """adapter_config.json."""
    spec = adapters.specs[name]
    return {
        "peft_type": spec.peft_type,
        "base_model_name_or_path": adapters.base.path or adapters.base.name,
        "inference_mode": True,
        "task_type": "CAUSAL_LM",
        "revision": None,
        **spec.peft_config(adapters, name),
    }


def _from_peft(folder: Path, raw: dict[str, Any]) -> AnyAdapter:
    """Our spec of PEFT's config; the layers are those that the weights name."""
    where = f"'{folder / CONFIG}'"
    for key in sorted(UNREAD):
        if raw.get(key):
            raise UserError(f"{where}: '{key}' = {raw[key]!r} is not supported; leave it out")
    kind = raw.get("peft_type")
    with TensorFiles(folder, WEIGHTS) as source:
        tensors = source.names
    known = []
    for spec in adapter_kinds():
        if (settings := spec.from_peft(raw, tensors)) is None:
            continue
        if spec.peft_type == kind:
            found: AnyAdapter = parse_any(spec, settings, where=where)
            return found
        known.append(spec.peft_type)
    raise UserError(f"{where}: 'peft_type' = {kind!r} is not known; known: {', '.join(known)}")
