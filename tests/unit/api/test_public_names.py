"""The public interface: every name is there, documented and typed, and importing it costs nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import glassbox

NAMES = [name for name in glassbox.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there_and_documented(name: str) -> None:
    thing = getattr(glassbox, name)
    assert inspect.getdoc(thing), f"glassbox.{name} has no docstring"
    assert name in dir(glassbox)


@pytest.mark.parametrize("name", NAMES)
def test_each_function_has_typed_arguments(name: str) -> None:
    thing = getattr(glassbox, name)
    if not inspect.isfunction(thing):
        return
    for parameter in inspect.signature(thing).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, f"{name}({parameter.name})"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = glassbox.lode


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    source = inspect.getsource(glassbox)
    block = source.split("if TYPE_CHECKING:")[1].split("_HOME = {")[0]
    for name in NAMES:
        assert name in block, f"{name} is missing below TYPE_CHECKING"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, glassbox; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
