"""Strict configuration: frozen pydantic specs, YAML recipes that extend one another, overrides.

A key that no spec has is refused, and the message names the nearest one that exists.
"""

from __future__ import annotations

import difflib
import json
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from glassbox.core.errors import UserError
from glassbox.core.yaml12 import load_yaml, read_yaml, write_yaml

SpecT = TypeVar("SpecT", bound="Spec")

MAX_FAULTS = 50
"""Maximum number of errors explained per configuration; the cost grows with its square."""


class Spec(BaseModel):
    """Base class of frozen configuration models. Unknown keys, NaN and infinities are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


def parse(spec: type[SpecT], raw: Any, *, where: str = "configuration") -> SpecT:
    """Validate `raw` as `spec`; raise one UserError line per fault, naming key, value, remedy."""
    return typing.cast(SpecT, parse_any(spec, raw, where=where))


def parse_any(kind: Any, raw: Any, *, where: str = "configuration") -> Any:
    """`parse` for any annotation, such as a discriminated union of specs."""
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        faults = error.errors(include_url=False)[:MAX_FAULTS]
        faults = [fault for fault in faults if not _follows(kind, fault, faults)]
        lines = [_explain(kind, fault, faults) for fault in faults]
        raise UserError(f"{where}: " + "; ".join(dict.fromkeys(filter(None, lines)))) from None


class _Place(NamedTuple):
    """The location of an error, as the user wrote it, and the annotations of what is allowed there."""

    keys: list[str]
    kinds: list[Any]
    owners: list[type[BaseModel]]
    """The specs that the last key can belong to."""


def _explain(kind: Any, fault: Mapping[str, Any], faults: Sequence[Mapping[str, Any]]) -> str:
    place = _locate(kind, fault["loc"])
    key = ".".join(place.keys) or "(whole)"
    value = as_yaml(fault["input"])
    what = fault["type"]
    if what == "extra_forbidden":
        known = sorted({name for model in place.owners for name in model.model_fields})
        near = difflib.get_close_matches(place.keys[-1], known, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key '{key}' = {value}; {remedy}"
    if what == "missing":
        return f"missing key '{key}'; give it a value"
    if what in ("union_tag_not_found", "union_tag_invalid"):
        return _explain_tag(place, key, fault)
    said = str(fault["msg"]).removeprefix("Value error, ")
    if what in ("value_error", "assertion_error") and isinstance(fault["input"], Mapping):
        return f"'{key}': {said}" if place.keys else said  # the message names what is wrong
    same = [other for other in faults if _locate(kind, other["loc"]).keys == place.keys]
    if len(same) > 1:  # one value that suits no member of a union is one fault
        wanted = dict.fromkeys(_wanted(other) for other in same)
        return f"'{key}' = {value}: {', or '.join(wanted)}"
    return f"'{key}' = {value}: {_wanted(fault)}"


def _follows(kind: Any, fault: Mapping[str, Any], faults: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a list is called too short only because a fault in one of its items left that out."""
    if fault["type"] != "too_short":
        return False
    whole = _locate(kind, fault["loc"]).keys
    keys = [_locate(kind, other["loc"]).keys for other in faults]
    return any(len(inner) > len(whole) and inner[: len(whole)] == whole for inner in keys)


def _explain_tag(place: _Place, key: str, fault: Mapping[str, Any]) -> str:
    tag, members = next(filter(None, map(_members, place.kinds)), ("kind", {}))
    key = f"{key}.{tag}" if place.keys else tag
    given = fault["input"].get(tag) if isinstance(fault["input"], Mapping) else None
    near = (
        difflib.get_close_matches(given, members, n=1, cutoff=0.5) if isinstance(given, str) else []
    )
    remedy = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(members)}"
    if fault["type"] == "union_tag_not_found":
        if not isinstance(fault["input"], Mapping):
            whole = ".".join(place.keys) or "(whole)"
            return f"'{whole}' = {as_yaml(fault['input'])}: give a mapping with '{tag}'; {remedy}"
        return f"missing key '{key}'; {remedy}"
    return f"'{key}' = {as_yaml(given)} is unknown; {remedy}"


def _wanted(fault: Mapping[str, Any]) -> str:
    """Describe the expected value, for an error message."""
    what, context = str(fault["type"]), fault.get("ctx", {})
    if what in _WANTED:
        return _WANTED[what].format(**context)
    if what in ("literal_error", "enum"):
        return f"use {context['expected']}"
    return str(fault["msg"]).removeprefix("Value error, ")


_WANTED: Mapping[str, str] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "give a whole number"),
    "int_parsing_size": "give a smaller number",
    **dict.fromkeys(("float_type", "float_parsing"), "give a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "give true or false"),
    **dict.fromkeys(("string_type", "string_sub_type"), "give text"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "give a list, as [a, b]"),
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"),
        "give a mapping of keys, as {{key: value}}",
    ),
    "none_required": "leave it out, or give null",
    "finite_number": "give a finite number",
    "greater_than": "use a number greater than {gt}",
    "greater_than_equal": "use {ge} or more",
    "less_than": "use a number below {lt}",
    "less_than_equal": "use {le} or less",
    "multiple_of": "use a multiple of {multiple_of}",
    "too_short": "give at least {min_length} (there are {actual_length})",
    "too_long": "give at most {max_length}",
    "string_too_short": "give at least {min_length} characters",
    "string_too_long": "give at most {max_length} characters",
    "string_pattern_mismatch": "it has to match {pattern}",
}


class _AsYaml(reprlib.Repr):
    """Values as a recipe has them: null, true and false, where Python says None, True and False."""

    def repr_NoneType(self, value: None, level: int) -> str:  # by the type's name
        return "null"

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"


def as_yaml(value: Any, *, longest: int = 40) -> str:
    """A value as a recipe has it, on one line of a message: recursion and long lists are truncated.

    >>> as_yaml({"path": None, "on": [True, 0.5]})
    "{'on': [true, 0.5], 'path': null}"
    """
    cutter = _AsYaml()
    cutter.maxstring = cutter.maxother = longest
    cutter.maxlist = cutter.maxdict = 3
    cutter.maxlevel = 2
    return cutter.repr(value)


def _locate(kind: Any, location: Sequence[int | str]) -> _Place:
    """Follow an error's path through the annotations, without the labels that pydantic adds for unions.

    Beside keys and indices its path names the member of each union that it tried: the tag where a
    key tells the members apart, else a name of its own. No user wrote those.
    """
    keys: list[str] = []
    kinds, owners = [kind], _models_in(kind)
    for part in location:
        chosen = [
            members[str(part)]
            for one in kinds
            if (found := _members(one)) and str(part) in (members := found[1])
        ]
        if chosen:
            kinds, owners = chosen, chosen
            continue
        models = [model for one in kinds for model in _models_in(one)]
        inner = [
            _with_discriminator(model.model_fields[str(part)])
            for model in models
            if str(part) in model.model_fields
        ]
        items = [item for one in kinds for item in _items(one)]
        is_index = isinstance(part, int) or any(_is_mapping(one) for one in kinds)
        if inner:
            keys.append(str(part))
            kinds, owners = inner, models
        elif items and is_index:
            keys.append(str(part))
            kinds, owners = items, models or owners
        elif models and not _is_label(part, kinds):
            keys.append(str(part))  # a key that no spec has
            kinds, owners = [], models
    return _Place(keys, kinds, owners)


def _is_label(part: int | str, kinds: Sequence[Any]) -> bool:
    """Whether a part of a path is pydantic's label for a member of an undiscriminated union."""
    text = str(part)
    names = {model.__name__ for one in kinds for model in _models_in(one)}
    in_union = any(len(_choices(one)) > 1 for one in kinds)
    return in_union and (text in names or "[" in text or text in ("str", "int", "float", "bool"))


def _with_discriminator(field: FieldInfo) -> Any:
    if field.discriminator is None:
        return field.annotation
    return Annotated[field.annotation, Field(discriminator=field.discriminator)]


def _choices(kind: Any) -> list[Any]:
    """The members of a union; for any other annotation, the annotation itself."""
    if typing.get_origin(kind) is Annotated:
        return _choices(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [one for member in typing.get_args(kind) for one in _choices(member)]
    return [kind]


def _members(kind: Any) -> tuple[str, dict[str, type[BaseModel]]] | None:
    """The discriminator of a union and its specs by discriminator value; None for other annotations."""
    if typing.get_origin(kind) is Annotated:
        inner, *notes = typing.get_args(kind)
        for note in notes:
            tag = getattr(note, "discriminator", None)
            if isinstance(tag, str):
                models = _models_in(inner)
                return tag, {value: model for model in models for value in _tags(model, tag)}
        return _members(inner)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(filter(None, map(_members, typing.get_args(kind))), None)
    return None


def _tags(model: type[BaseModel], key: str) -> list[str]:
    field = model.model_fields.get(key)
    return [] if field is None else [str(value) for value in typing.get_args(field.annotation)]


def _items(kind: Any) -> list[Any]:
    """The annotation of the items of a list, tuple or mapping."""
    found = []
    for choice in _choices(kind):
        origin = typing.get_origin(choice)
        if isinstance(origin, type) and issubclass(origin, Mapping | Sequence):
            arguments = [one for one in typing.get_args(choice) if one is not Ellipsis]
            found += arguments[-1:] if issubclass(origin, Mapping) else arguments
    return found


def _is_mapping(kind: Any) -> bool:
    origins = [typing.get_origin(choice) for choice in _choices(kind)]
    return any(isinstance(one, type) and issubclass(one, Mapping) for one in origins)


def _models_in(kind: Any) -> list[type[BaseModel]]:
    """The specs that an annotation names directly, not inside a list or mapping."""
    return [
        choice
        for choice in _choices(kind)
        if isinstance(choice, type) and issubclass(choice, BaseModel)
    ]


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `change` into `base` recursively; anything but a mapping is replaced as a whole.

    A mapping whose `kind` differs from the base's replaces it, since its keys have other meanings.

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
    """Read a recipe, merged over the recipes that it extends (`extends: other.yaml`, relative to
    the file).

    search: further folders in which `path` and `extends` are looked up, first as written, then by
        file name in all subfolders.
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
        raise UserError(f"'{path}': 'extends' = {as_yaml(parent)}: name one recipe file")
    found = _find(path.parent / parent, search)
    return merge(_load_extended(found, search, (*extending, path.resolve())), raw)


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply overrides `key.path=value` with YAML values; an integer in the path is a list index.

    An override of a `kind` is applied before the others, since it replaces the mapping that holds
    it.

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
