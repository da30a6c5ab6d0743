"""Strict configuration: frozen pydantic specs, YAML recipes that extend one another, overrides.

A key that no spec has is refused, and the message names the nearest one that exists.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from glassbox.core.errors import UserError

SpecT = TypeVar("SpecT", bound="Spec")

MAX_EXTENDS = 16


class Spec(BaseModel):
    """A frozen piece of configuration. Unknown keys are errors; equal specs hash alike."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


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
    if fault["type"] == "extra_forbidden":
        known = _known_keys(spec, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key '{key}' = {fault['input']!r}; {remedy}"
    if fault["type"] == "missing":
        return f"missing key '{key}'; give it a value"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"'{key}' = {fault['input']!r}: {message}"


def _known_keys(spec: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Names of the fields at `path`. Tags of unions and list indices in a path are passed over."""
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
            tagged = [c for c in candidates if _tag(c) == part]
            candidates = tagged or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _tag(spec: type[BaseModel]) -> str | None:
    field = spec.model_fields.get("kind")
    return None if field is None else str(field.default)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias) or typing.get_args(annotation):
        return [model for arg in typing.get_args(annotation) for model in _models_in(arg)]
    return []


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping. Raises UserError that names the file and the line."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no recipe at '{path}'; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise UserError(f"'{path}'{place}: not valid YAML: {problem}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"'{path}' holds a {type(raw).__name__}; a recipe is a mapping of keys")
    return raw


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

    `search` names further folders in which `extends` and `path` itself are looked for.
    """
    return _load_extended(_find(Path(path), search), search, depth=0)


def _find(path: Path, search: Sequence[Path]) -> Path:
    if path.exists():
        return path
    for folder in search:
        for candidate in (folder / path, folder / path.name):
            if candidate.exists():
                return candidate
    return path


def _load_extended(path: Path, search: Sequence[Path], depth: int) -> dict[str, Any]:
    if depth > MAX_EXTENDS:
        raise UserError(
            f"'{path}': more than {MAX_EXTENDS} recipes extend each other in a row; a cycle?"
        )
    raw = load_yaml(path)
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str):
        raise UserError(f"'{path}': 'extends' = {parent!r}: name one recipe file")
    base = _load_extended(_find(path.parent / parent, search), search, depth + 1)
    return merge(base, raw)


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `key.path=value` words, the value read as YAML.

    >>> apply_overrides({"optim": {"lr": 1.0}}, ["optim.lr=3e-4"])
    {'optim': {'lr': 0.0003}}
    """
    result = dict(raw)
    for word in overrides:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise UserError(
                f"'{word}' is not an override; write key.path=value, as in train.steps=100"
            )
        change: Any = _parse_value(text, word)
        for part in reversed(key.strip().split(".")):
            change = {part: change}
        result = merge(result, change)
    return result


def _parse_value(text: str, word: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"the value in '{word}' is not valid YAML; quote it") from None
    if isinstance(value, str):  # YAML 1.1 reads 3e-4 as a word, people mean the number
        try:
            return float(value)
        except ValueError:
            return value
    return value


def dump_yaml(spec: Spec) -> str:
    """The resolved spec as YAML, every default written out."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def schema_json(spec: type[Spec]) -> str:
    """The JSON schema of a spec, for editors that complete and check YAML."""
    return json.dumps(spec.model_json_schema(), indent=2, ensure_ascii=False)
