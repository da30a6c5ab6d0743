"""Saving any nn.Module with its optimizer and further state in one safetensors file.

Tensors are named "model.NAME", and "N" for those of the optimizer and further state; JSON in the
header describes their nesting. Unlike torch.load, loading cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.core.files import sync_folder
from glassbox.formats.tensor_files import TensorFiles

_SCHEMA = 1
_PREFIX = "model."


class Stateful(Protocol):
    """An object with a state: an optimizer (of torch or ours) or a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore it."""


def save_module(
    path: Path | str,
    model: nn.Module,
    optimizer: Stateful | None = None,
    *,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a module's parameters and buffers, and the state needed to resume, to one safetensors
    file.

    optimizer: of torch or ours; its `state_dict()` may contain numbers, text, tensors, lists,
        tuples and dicts.
    extra: further state of the same kinds of values, such as the step or a random state.
    The file is written atomically. Tied parameters
    are written once. Raises UserError naming a value of another kind.
    Tested against: torch.save and torch.load, to the bit, with every optimizer of torch's that
    keeps tensors.
    """
    path = Path(path)
    named, shared = _once(model.state_dict())
    tensors = {_PREFIX + name: tensor for name, tensor in named.items()}
    nested: dict[str, Tensor] = {}
    content = {
        "schema": _SCHEMA,
        "shared": shared,
        "optimizer": None
        if optimizer is None
        else _flatten(optimizer.state_dict(), nested, "optimizer"),
        "extra": _flatten(dict(extra or {}), nested, "extra"),
    }
    tensors |= {key: tensor.detach().cpu().contiguous().clone() for key, tensor in nested.items()}
    content["digest"] = _digest(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        safetensors.torch.save_file(
            tensors, temporary, metadata={"format": "pt", "glassbox": json.dumps(content)}
        )
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return path


def load_module(
    path: Path | str, model: nn.Module, optimizer: Stateful | None = None
) -> dict[str, Any]:
    """Put what `save_module` wrote back into a module (and an optimizer), and return `extra`.

    Raises UserError for a file that is damaged or was not written by `save_module`, and naming the
    first tensor that is missing, left over or of another shape or type; the module is then as before.
    """
    path = Path(path)
    tensors, content = _read(path)
    state = {
        name.removeprefix(_PREFIX): t for name, t in tensors.items() if name.startswith(_PREFIX)
    }
    for name, first in content["shared"].items():
        state[name] = state[first]
    own = model.state_dict()
    if odd := sorted(own.keys() ^ state.keys()):
        where = "the file lacks it" if odd[0] in own else "the module has none of that name"
        raise UserError(f"'{path}' and the module differ in tensor '{odd[0]}': {where}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape or tensor.dtype != state[name].dtype:
            raise UserError(
                f"'{path}': tensor '{name}' is {_described(state[name])}, "
                f"the module's {_described(tensor)}"
            )
    if optimizer is not None:
        if content["optimizer"] is None:
            raise UserError(f"'{path}' holds no optimizer's state; leave the optimizer out")
        try:
            optimizer.load_state_dict(_unflatten(content["optimizer"], tensors))
        except (ValueError, KeyError) as error:
            raise UserError(f"'{path}' holds the state of another optimizer: {error}") from None
    model.load_state_dict(state)
    extra: dict[str, Any] = _unflatten(content["extra"], tensors)
    return extra


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"no file '{path}'; give the path that save_module wrote")
    with TensorFiles(path.parent, path.name):  # sizes, types and offsets are checked
        pass
    with safetensors.safe_open(path, framework="pt") as file:
        written = (file.metadata() or {}).get("glassbox")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if written is None:
        raise UserError(f"'{path}' was not written by save_module; it holds tensors alone")
    try:
        content: dict[str, Any] = json.loads(written)
        if content["schema"] != _SCHEMA:
            raise UserError(
                f"'{path}' has schema {content['schema']}; this version reads {_SCHEMA}"
            )
        whole = content["digest"] == _digest(tensors)
    except (json.JSONDecodeError, RecursionError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"'{path}' is damaged: its content is not what was written; copy it again")
    return tensors, content


def _once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, with memory of its own, and {name of a tied one: name of the first}."""
    first: dict[tuple[Any, ...], str] = {}
    kept: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in state.items():
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and key in first:
            shared[name] = first[key]
        else:
            first[key] = name
            kept[name] = tensor.detach().cpu().contiguous().clone()
    return kept, shared


def _flatten(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """A nested value as JSON, its tensors taken out and numbered."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value
        return {"tensor": key}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_flatten(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_flatten(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        items = []
        for key, item in value.items():
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise UserError(f"{where} has a key of type {type(key).__name__}; use text or int")
            items.append([key, _flatten(item, tensors, f"{where}.{key}")])
        return {"items": items}
    raise UserError(
        f"{where} is a {type(value).__name__}; a file holds numbers, text, tensors, lists, tuples, dicts"
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_flatten`; every tensor with memory of its own."""
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]].clone()
    if "tuple" in value:
        return tuple(_unflatten(item, tensors) for item in value["tuple"])
    return {key: _unflatten(item, tensors) for key, item in value["items"]}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b-128 over names, types, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
