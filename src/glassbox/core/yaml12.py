"""YAML 1.2 reading and writing.

PyYAML implements YAML 1.1, which reads 3e-4 as a string, `no` as false, 010 as eight and 1:30 as
ninety, and fails at 2024-13-99. Recipes are YAML 1.2 with the core schema, without duplicate keys.
Source: YAML 1.2.2, section 10.3.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from glassbox.core.errors import UserError

_CORE_SCALARS = {
    "null": (r"^(?:~|null|Null|NULL|)$", "~nN"),
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "int": (r"^[-+]?[0-9]{1,4000}$", "-+0123456789"),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
    "merge": (r"^<<$", "<"),
}
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {"": []}
for _name, (_pattern, _first_letters) in _CORE_SCALARS.items():
    for _letter in (*_first_letters, *([""] if _name == "null" else [])):
        _RESOLVERS.setdefault(_letter, []).append(
            (f"tag:yaml.org,2002:{_name}", re.compile(_pattern))
        )


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    def construct_document(self, node: yaml.Node) -> Any:
        return self.construct_object(node, deep=True)  # deep: a mapping inside itself is an error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen and not key.tag.endswith(":merge"):
                problem = f"key '{key.value}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS  # so that words which look like numbers are quoted

    def represent_text(self, text: str) -> yaml.Node:
        # PyYAML folds these line breaks into spaces, unless they stand escaped in double quotes
        style = '"' if any(mark in text for mark in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def read_yaml(text: str, where: str) -> Any:
    """Parse a YAML text. Raises UserError whose message begins with `where` and the line.

    >>> read_yaml("{lr: 3e-4, language: no, width: 010}", "example")
    {'lr': 0.0003, 'language': 'no', 'width': 10}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise UserError(f"{where}{place}: not valid YAML: {problem}") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # `!!int word` and kin
        raise UserError(f"{where}: not valid YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deep") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping from a file. Raises UserError that names the file and the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no recipe at '{path}'; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; name a recipe file") from None
    raw = read_yaml(text, f"'{path}'")
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"'{path}' holds a {type(raw).__name__}; a recipe is a mapping of keys")
    return raw


def write_yaml(value: Any) -> str:
    """Format mappings, lists and scalars as YAML; `read_yaml` returns the value unchanged."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
