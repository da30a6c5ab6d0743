"""User-defined code, named in a recipe: `kind: python, path: my.py:thing`.

`path` is FILE.py:NAME, PACKAGE.MODULE:NAME, or the name of an entry point of the group `glassbox`
that an installed package declares:

    [project.entry-points.glassbox]
    retention2 = "my_package.mixers:Retention2"

Only a recipe, or a command's own arguments, may name code. What is read from a model's files never
does: `refuse_python` is called on it before it is parsed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError

GROUP = "glassbox"
_MODULE_PREFIX = "glassbox_user_"


class PythonSpec(Spec):
    """Base class of specs of `kind: python`. A subclass defines what is built and checks it."""

    kind: Literal["python"] = "python"
    path: str = Field(description="FILE.py:NAME, PACKAGE.MODULE:NAME or an entry point's name")
    options: dict[str, Any] = Field({}, description="keyword arguments of the thing")

    @property
    def object_name(self) -> str:
        """The part of `path` after the colon; of an entry point, its name."""
        return self.path.rpartition(":")[2]

    def make(self, what: str, *arguments: Any) -> Any:
        """Call the named object with `arguments` and the options, and return the result.

        Raises UserError, beginning with `what`, if it cannot be found, does not accept these
        arguments, or raises an exception itself.
        """
        thing = load_object(self.path)
        check_call(thing, what, self.path, arguments, self.options)
        with explained(what, self.path):
            return thing(*arguments, **self.options)

    def bind(self, what: str, *example: Any) -> Callable[..., Any]:
        """Return a callable that takes arguments like `example`.

        `path` names a function, which is also passed the options, or a class, which is instantiated
        with the options once and whose instance is called. Raises UserError as `make` does; so does
        the returned callable if the user's code raises an exception.
        """
        thing = load_object(self.path)
        if inspect.isclass(thing):
            inner, options = self.make(what), {}
        else:
            inner, options = thing, self.options
        check_call(inner, what, self.path, example, options)

        def call(*arguments: Any) -> Any:
            with explained(what, self.path):
                return inner(*arguments, **options)

        return call


def check_call(
    thing: Any, what: str, path: str, arguments: Sequence[Any], options: Mapping[str, Any]
) -> None:
    """Raise UserError unless `thing` can be called with these arguments and options."""
    if not callable(thing):
        raise UserError(f"{what}: '{path}' is a {type(thing).__name__}, not callable")
    try:
        inspect.signature(thing).bind(*arguments, **options)
    except TypeError as error:
        given = ", ".join([type(one).__name__ for one in arguments] + list(options))
        raise UserError(f"{what}: '{path}' cannot be called with ({given}): {error}") from None
    except ValueError:  # a built-in without a signature
        pass


@contextlib.contextmanager
def explained(what: str, path: str) -> Iterator[None]:
    """Convert an exception raised by a user's code into one line that names its file and line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: '{path}' raised {_described(error)}; correct it there") from error


def user_line(error: BaseException) -> str | None:
    """The innermost line of a file loaded through `load_object` in an exception's traceback.

    "FILE line N, in FUNCTION"; None if no such file is in the traceback.
    """
    found = [place for place, module in _frames(error) if module.startswith(_MODULE_PREFIX)]
    return found[-1] if found else None


def _described(error: Exception) -> str:
    """An exception's type, place and message on one line."""
    said = " ".join(str(error).split())[:300]
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__} in {error.filename} line {error.lineno}: {error.msg}"
    where = user_line(error) or (_frames(error)[-1][0])
    return f"{type(error).__name__} in {where}" + (f": {said}" if said else "")


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """The place and the module's name of each frame of a traceback, the innermost last."""
    return [
        (
            f"{frame.f_code.co_filename} line {line}, in {frame.f_code.co_name}",
            str(frame.f_globals.get("__name__", "")),
        )
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]


def load_object(path: str) -> Any:
    """Load the object that `path` names.

    A file is executed once per process, however often it is named. Raises UserError if the file,
    module, name or entry point does not exist, or cannot be imported.
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


def entry_point_names() -> list[str]:
    """The names of all entry points of the group `glassbox`, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def require_methods(thing: Any, methods: Sequence[str], *, what: str, path: str, help: str) -> None:
    """Raise UserError naming the first of `methods` that a user's object lacks."""
    for method in methods:
        if not callable(getattr(thing, method, None)):
            raise UserError(
                f"{what} '{path}' gave a {type(thing).__name__} without a method '{method}'; {help}"
            )


def source_digest(path: str) -> str | None:
    """Hash of the file that a `path` names; None for packages. With it a resumed run detects an edit."""
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
                    "model's files say so; if the code is yours, name it yourself: --code PATH, "
                    "in a recipe code=[PATH], in Python glassbox.load(..., code=[PATH])"
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
    name = f"{_MODULE_PREFIX}{hashlib.blake2b(str(resolved).encode(), digest_size=8).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        with explained("cannot import", str(file)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named_module(place: str, path: str) -> ModuleType:
    if not place or place.startswith("."):
        raise UserError(
            f"'{path}': write FILE.py:NAME, PACKAGE.MODULE:NAME or an entry point's name"
        )
    try:
        with explained("cannot import", place):
            return importlib.import_module(place)
    except UserError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise UserError(f"'{path}': {error.__cause__}; is its package installed?") from None
        raise


def _entry_point(name: str) -> Any:
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise UserError(
            f"'{name}' is no entry point of the group '{GROUP}' "
            f"({', '.join(sorted(found)) or 'no installed package declares one'}); "
            "write FILE.py:NAME or PACKAGE.MODULE:NAME"
        )
    with explained("cannot load the entry point", name):
        return found[name].load()
