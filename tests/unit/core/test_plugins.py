"""Code that a recipe names: found by file, module or entry point, called once, never from a model's files."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from glassbox.core import plugins
from glassbox.core.errors import UserError
from glassbox.core.plugins import (
    PythonSpec,
    load_object,
    refuse_python,
    require_methods,
    source_digest,
)

SOURCE = """
LOADED = []
LOADED.append(1)
def thing(size, *, scale=1):
    return size * scale
class Outer:
    class Inner:
        pass
CONSTANT = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_a_file_is_executed_once(file: Path) -> None:
    assert load_object(f"{file}:thing")(4) == 4
    assert load_object(f"{file}:LOADED") == [1]
    assert load_object(f"{file}:LOADED") == [1]


def test_a_dotted_name_and_a_module(file: Path) -> None:
    assert load_object(f"{file}:Outer.Inner").__name__ == "Inner"
    assert load_object("math:sqrt")(9) == 3


def test_options_are_keyword_arguments(file: Path) -> None:
    spec = PythonSpec(path=f"{file}:thing", options={"scale": 5})
    assert spec.make("mixer", 2) == 10


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.py:thing", "no Python file at 'nowhere.py'"),
        ("no_such_package_here:thing", "is its package installed"),
        ("math:squareroot", "has no 'squareroot'; it has"),
        ("not_declared", "is no entry point of the group 'glassbox'"),
        (":thing", "write FILE.py:NAME"),
    ],
)
def test_what_cannot_be_found_is_one_line(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_object(path)
    assert "\n" not in str(caught.value)


def test_a_call_that_does_not_fit_is_one_line(file: Path) -> None:
    with pytest.raises(UserError, match="unexpected keyword argument 'width'"):
        PythonSpec(path=f"{file}:thing", options={"width": 5}).make("mixer", 2)
    with pytest.raises(UserError, match="is a int, not callable"):
        PythonSpec(path=f"{file}:CONSTANT").make("mixer")


def test_an_error_in_the_file_passes_and_leaves_no_module(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n", encoding="utf-8")
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError):
        load_object(f"{path}:thing")
    assert {name for name in set(sys.modules) - before if "glassbox_user" in name} == set()


def test_an_entry_point_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints([EntryPoint("root", "math:sqrt", "glassbox")])
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    assert load_object("root")(16) == 4


def test_a_missing_method_is_named() -> None:
    with pytest.raises(UserError, match="gave a object without a method 'forward'; see the guide"):
        require_methods(object(), ["forward"], what="mixer", path="m.py:M", help="see the guide")
    require_methods("text", ["upper"], what="mixer", path="m.py:M", help="")


@pytest.mark.parametrize(
    "raw",
    [
        {"mixer": {"kind": "python", "path": "evil.py:x"}},
        {"blocks": [{"block": {"mixer": {"kind": "python", "path": "evil.py:x"}}}]},
    ],
)
def test_a_models_files_may_not_name_code(raw: object) -> None:
    with pytest.raises(UserError, match="names Python code"):
        refuse_python(raw, where="'config.json'")
    refuse_python({"mixer": {"kind": "grouped_query"}}, where="'config.json'")


def test_the_digest_follows_the_file(file: Path) -> None:
    first = source_digest(f"{file}:thing")
    file.write_text(SOURCE + "\n", encoding="utf-8")
    assert first is not None
    assert source_digest(f"{file}:thing") != first
    assert source_digest("math:sqrt") is None
