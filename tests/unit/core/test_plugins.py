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
    user_line,
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


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "x = 1\n1 / 0\n",
            r"raised ZeroDivisionError in .*broken\.py line 2, in <module>: division",
        ),
        ("def f(:\n", r"raised SyntaxError in .*broken\.py line 1: invalid syntax"),
        ("import no_such_package_here\n", "raised ModuleNotFoundError in .* line 1"),
    ],
)
def test_an_error_in_the_file_is_one_line_and_leaves_no_module(
    tmp_path: Path, source: str, message: str
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source, encoding="utf-8")
    before = set(sys.modules)
    with pytest.raises(UserError, match=message) as caught:
        load_object(f"{path}:thing")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert {name for name in set(sys.modules) - before if "glassbox_user" in name} == set()


def test_an_error_inside_a_call_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def f(x, *, y=0):\n    return 1 / (x - y)\nclass C:\n    def __init__(self, y):\n"
        "        self.y = y\n    def __call__(self, x):\n        return f(x, y=self.y)\n",
        encoding="utf-8",
    )
    with pytest.raises(
        UserError, match=r"^loss: '.*:f' raised ZeroDivisionError in .* line 2, in f"
    ):
        PythonSpec(path=f"{path}:f").make("loss", 0)
    assert PythonSpec(path=f"{path}:f", options={"y": 1}).bind("loss", 3)(3) == 0.5
    bound = PythonSpec(path=f"{path}:C", options={"y": 2}).bind("loss", 3)
    assert bound(4) == 0.5
    with pytest.raises(UserError, match=r"in .*mine\.py line 2, in f: division by zero"):
        bound(2)
    with pytest.raises(UserError, match="cannot be called with"):
        PythonSpec(path=f"{path}:C", options={"y": 2}).bind("loss")


def test_the_users_line_is_found_in_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(g):\n    return g()\n", encoding="utf-8")
    with pytest.raises(KeyError) as caught:
        load_object(f"{path}:f")(lambda: {}["absent"])
    assert user_line(caught.value) == f"{path} line 2, in f"
    with pytest.raises(KeyError) as caught:
        _ = {}["absent"]
    assert user_line(caught.value) is None


def test_an_entry_point_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints(
        [EntryPoint("root", "math:sqrt", "glassbox"), EntryPoint("gone", "math:none", "glassbox")]
    )
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    assert load_object("root")(16) == 4
    with pytest.raises(
        UserError, match="cannot load the entry point: 'gone' raised AttributeError"
    ):
        load_object("gone")


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
