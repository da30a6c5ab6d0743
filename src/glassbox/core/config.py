"""Strict configuration: frozen pydantic specs, YAML recipes that extend one another, overrides.

A key that no spec has is refused, and the message names the nearest one that exists.
"""

from __future__ import annotations

import difflib
import json
import reprlib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from glassbox.core.errors import UserError
from glassbox.core.yaml12 import load_yaml, read_yaml, write_yaml

SpecT = TypeVar("SpecT", bound="Spec")


class Spec(BaseModel):
    """A frozen piece of configuration. Unknown keys, NaN and infinities are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


def parse(spec: type[SpecT], raw: Any, *, where: str = "configuration") -> SpecT:
    """Validate `raw` as `spec`; raise one UserError line per fault, naming key, value, remedy."""
    try:
        return spec.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(spec, fault) for fault in error.errors(include_url=False)]
        raise UserError(f"{where}: " + "; ".join(dict.fromkeys(lines))) from None


def _explain(spec: type[BaseModel], fault: Mapping[str, Any]) -> str:
    location = [str(part) for part in fault["loc"]]
    key = ".".join(location) or "(whole)"
    value = _short(fault["input"])
    if fault["type"] == "extra_forbidden":
        known = _known_keys(spec, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key '{key}' = {value}; {remedy}"
    if fault["type"] == "missing":
        return f"missing key '{key}'; give it a value"
    if fault["type"] in ("union_tag_not_found", "union_tag_invalid"):
        kinds = [tag for model in _models_at(spec, location) if (tag := _tag(model))]
        given = fault["input"].get("kind") if isinstance(fault["input"], Mapping) else None
        near = (
            difflib.get_close_matches(given, kinds, n=1, cutoff=0.5)
            if isinstance(given, str)
            else []
        )
        remedy = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(kinds)}"
        if fault["type"] == "union_tag_not_found":
            return f"missing key '{key}.kind'; {remedy}"
        return f"'{key}.kind' = {_short(given)} is unknown; {remedy}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error" and isinstance(fault["input"], Mapping):
        return f"'{key}': {message}" if location else message  # the message names what is wrong
    return f"'{key}' = {value}: {message}"


def _short(value: Any) -> str:
    """A repr for one line of a message: recursion and endless lists cut off."""
    cutter = reprlib.Repr()
    cutter.maxstring = cutter.maxother = 40
    cutter.maxlist = cutter.maxdict = 3
    cutter.maxlevel = 2
    return cutter.repr(value)


def _known_keys(spec: type[BaseModel], path: Sequence[str]) -> list[str]:
    return sorted({name for model in _models_at(spec, path) for name in model.model_fields})


def _models_at(spec: type[BaseModel], path: Sequence[str]) -> list[type[BaseModel]]:
    """The specs that may stand at `path`. Tags of unions and list indices in it are passed over."""
    candidates: list[type[BaseModel]] = [spec]
    for part in path:
        found = [
            model
            for candidate in candidates
            if part in candidate.model_fields
            for model in _models_in(candidate.model_fields[part].annotation)
        ]
        if found:
            candidates = found
        elif not part.isdigit():
            candidates = [c for c in candidates if _tag(c) == part] or candidates
    return candidates


def _tag(spec: type[BaseModel]) -> str | None:
    field = spec.model_fields.get("kind")
    names = () if field is None else typing.get_args(field.annotation)
    return str(names[0]) if names else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if arguments := typing.get_args(annotation):
        return [model for argument in arguments for model in _models_in(argument)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `change` over `base`, mapping by mapping; anything but a mapping is replaced whole.

    A mapping whose `kind` differs from the base's replaces it, since its keys mean other things.

    >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        same_kind = (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and ("kind" not in value or value["kind"] == old.get("kind", value["kind"]))
        )
        merged[key] = merge(old, value) if same_kind else value  # type: ignore[arg-type]
    return merged


def load_recipe(path: Path | str, *, search: Sequence[Path] = ()) -> dict[str, Any]:
    """Read a recipe and, first, all that it extends (`extends: other.yaml`, beside the file).

    `search` names further folders in which `extends` and `path` itself are looked for, first as
    they are written, then by the file's name alone in all folders below.
    """
    return _load_extended(_find(Path(path), search), search, ())


def _find(path: Path, search: Sequence[Path]) -> Path:
    if path.exists():
        return path
    for folder in search:
        if (folder / path).exists():
            return folder / path
        for candidate in sorted(folder.rglob(path.name)):
            return candidate
    return path


def _load_extended(
    path: Path, search: Sequence[Path], extending: tuple[Path, ...]
) -> dict[str, Any]:
    if path.resolve() in extending:
        names = " -> ".join(p.name for p in (*extending, path))
        raise UserError(f"'{path}' extends itself ({names}); take one 'extends' out")
    raw = load_yaml(path)
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str) or not parent:
        raise UserError(f"'{path}': 'extends' = {_short(parent)}: name one recipe file")
    found = _find(path.parent / parent, search)
    return merge(_load_extended(found, search, (*extending, path.resolve())), raw)


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `key.path=value` words, the value read as YAML; a number in the path picks a list's item.

    An override of a `kind` goes before the others, since it replaces the mapping it stands in.

    >>> apply_overrides({"optim": {"lr": 1.0}}, ["optim.lr=3e-4"])
    {'optim': {'lr': 0.0003}}
    >>> apply_overrides({"blocks": [{"times": 1}]}, ["blocks.0.times=6"])
    {'blocks': [{'times': 6}]}
    """
    changes = []
    for word in overrides:
        key, separator, text = word.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise UserError(
                f"'{word}' is not an override; write key.path=value, as in train.steps=100"
            )
        changes.append((parts, read_yaml(text, f"the value in '{word}'")))
    result: Any = dict(raw)
    for parts, value in sorted(changes, key=lambda change: change[0][-1] != "kind"):
        result = _override(result, parts, value)
    return typing.cast(dict[str, Any], result)


def _override(old: Any, parts: Sequence[str], value: Any) -> Any:
    if not parts:
        return merge({"": old}, {"": value})[""]
    name, *rest = parts
    if isinstance(old, list):
        if not name.isdecimal() or int(name) >= len(old):
            raise UserError(f"'{name}' is no item of a list of {len(old)}; they count from 0")
        return [_override(v, rest, value) if i == int(name) else v for i, v in enumerate(old)]
    if not isinstance(old, Mapping):
        old = {}
    if parts == ["kind"]:
        return merge({"": old}, {"": {"kind": value}})[""]
    return {**old, name: _override(old.get(name), rest, value)}


def dump_yaml(spec: Spec) -> str:
    """The resolved spec as YAML, every default written out."""
    return write_yaml(spec.model_dump(mode="json"))


def schema_json(spec: type[Spec]) -> str:
    """The JSON schema of a spec, for editors that complete and check YAML."""
    return json.dumps(spec.model_json_schema(), indent=2, ensure_ascii=False)
