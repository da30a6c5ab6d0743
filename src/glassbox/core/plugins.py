"""User-defined code, named in a recipe: `kind: python, path: my.py:thing`.

`path` is FILE.py:NAME, PACKAGE.MODULE:NAME, or the name of an entry point of the group `glassbox`
that an installed package declares:

    [project.entry-points.glassbox]
    retention2 = "my_package.mixers:Retention2"

Only a recipe, or a command's own arguments, may name code. What is read from a model's files never
does: `refuse_python` is called on it before it is parsed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError

GROUP = "glassbox"


class PythonSpec(Spec):
    """Base class of specs of `kind: python`. A subclass defines what is built and checks it."""

    kind: Literal["python"] = "python"
    path: str = Field(description="FILE.py:NAME, PACKAGE.MODULE:NAME or an entry point's name")
    options: dict[str, Any] = Field({}, description="keyword arguments of the thing")

    def make(self, what: str, *arguments: Any) -> Any:
        """Call the named thing with `arguments` and the options.

        Raises UserError where it cannot be found or called so; an error inside of it is the user's
        to see, and passes through.
        """
        thing = load_object(self.path)
        if not callable(thing):
            raise UserError(f"{what}: '{self.path}' is a {type(thing).__name__}, not callable")
        try:
            inspect.signature(thing).bind(*arguments, **self.options)
        except TypeError as error:
            given = ", ".join([type(one).__name__ for one in arguments] + list(self.options))
            raise UserError(
                f"{what}: '{self.path}' cannot be called with ({given}): {error}"
            ) from None
        except ValueError:  # built without a signature: calling it will tell
            pass
        return thing(*arguments, **self.options)


def load_object(path: str) -> Any:
    """Load the object that `path` names. Raises UserError that says what was looked for.

    A file is executed once per process, however often it is named.
    """
    place, separator, name = path.rpartition(":")
    if not separator:
        return _entry_point(path)
    module = _file_module(Path(place)) if place.endswith(".py") else _named_module(place, path)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n, v in vars(module).items() if not n.startswith("_") and callable(v)]
            raise UserError(
                f"'{path}': '{place}' has no '{name}'; it has {', '.join(public) or 'nothing public'}"
            )
        found = getattr(found, part)
    return found


def require_methods(thing: Any, methods: Sequence[str], *, what: str, path: str, help: str) -> None:
    """Raise UserError naming the first of `methods` that a user's object lacks."""
    for method in methods:
        if not callable(getattr(thing, method, None)):
            raise UserError(
                f"{what} '{path}' gave a {type(thing).__name__} without a method '{method}'; {help}"
            )


def source_digest(path: str) -> str | None:
    """Hash of the file that a `path` names, so that a resumed run detects an edit; None for packages."""
    file = Path(path.rpartition(":")[0])
    if file.suffix != ".py" or not file.is_file():
        return None
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def refuse_python(raw: Any, *, where: str, allowed: Sequence[str] = ()) -> None:
    """Raise UserError where a mapping that came with a model names Python code to run.

    allowed: the `path`s that the user has named again for this model, to the letter.
    """
    stack = [raw]
    while stack:
        one = stack.pop()
        if isinstance(one, Mapping):
            if one.get("kind") == "python" and one.get("path") not in allowed:
                raise UserError(
                    f"{where} names Python code ({one.get('path')!r}), which is not run because a "
                    "model's files say so; if the code is yours, name it yourself: --code PATH, or "
                    "glassbox.load(..., code=[PATH])"
                )
            stack.extend(one.values())
        elif isinstance(one, list | tuple):
            stack.extend(one)


def _file_module(file: Path) -> ModuleType:
    try:
        resolved = file.resolve(strict=True)
    except OSError:
        raise UserError(
            f"no Python file at '{file}'; paths are relative to '{Path.cwd()}'"
        ) from None
    name = f"glassbox_user_{hashlib.blake2b(str(resolved).encode(), digest_size=8).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named_module(place: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise UserError(f"'{path}': {error}; is its package installed?") from None
    except ValueError:
        raise UserError(
            f"'{path}': write FILE.py:NAME, PACKAGE.MODULE:NAME or an entry point's name"
        ) from None


def _entry_point(name: str) -> Any:
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise UserError(
            f"'{name}' is no entry point of the group '{GROUP}' "
            f"({', '.join(sorted(found)) or 'no installed package declares one'}); "
            "write FILE.py:NAME or PACKAGE.MODULE:NAME"
        )
    return found[name].load()
