"""Tasks of the user's own: named by path, checked, and never run because a result file names them."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

import glassbox
from glassbox.api.checks import check_task
from glassbox.core import plugins
from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.catalogue import Catalogue
from glassbox.runs.tasks import TaskSources, evaluate_on_tasks, reproduce
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

SOURCE = """
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.outputs import GenerateUntil, Loglikelihood
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec

def rows(split):
    return [{"q": "One and one is", "options": ["two", "three"], "a": n} for n in (0, 1)]

def broken(split): return {}["rows"]
def numbers(split): return [1, 2]

def spec(name, made, **more):
    return TaskSpec(task=name, documents=Documents(rows=Function(function=f"{__file__}:{made}"), test="test"),
                    prompt=Prompt(text="q", choices="options", target="a"), **more)

task = spec("mine", "rows")
def given(): return task
def needs(size): return task
def none(): return None
breaks = spec("breaks", "broken")
counts = spec("counts", "numbers")
lost = spec("lost", "rows").model_copy(update={"prompt": Prompt(text="q", choices="options", target="four")})
written = spec("written", "rows", output=GenerateUntil())
scored = TaskSpec(task="scored", documents=Documents(rows=Function(function=f"{__file__}:rows"), test="test"),
                  prompt=Prompt(text="{{q}}", target="two"), output=Loglikelihood())
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


def test_a_task_or_a_function_that_returns_one(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("task", "given"):
        (spec,), _ = Catalogue().select([f"{file}:{name}"])
        assert spec.task == "mine"
    point = EntryPoint("sums", f"{Path(file).stem}:task", "glassbox")
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints([point]))
    monkeypatch.syspath_prepend(str(Path(file).parent))
    assert Catalogue().select(["sums"])[0] == [spec]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "none",
            r"--tasks: '.*:none' is a NoneType; name a TaskSpec, or a function that returns one",
        ),
        ("needs", "cannot be called with"),
        ("rows", "cannot be called with"),
        ("absent", "has no 'absent'; it has"),
    ],
)
def test_what_is_no_task_is_one_line(file: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Catalogue().select([f"{file}:{name}"])
    assert "\n" not in str(caught.value)


def test_rows_that_cannot_be_made(file: str) -> None:
    with pytest.raises(UserError, match=r"task 'breaks': .*raised KeyError in .*mine\.py line \d+"):
        check_task(f"{file}:breaks")
    with pytest.raises(UserError, match="gave a int as row 1 of split 'test'; give mappings"):
        check_task(f"{file}:counts")


def test_the_check_gives_right_answers(file: str) -> None:
    assert check_task(f"{file}:task")[1] == ("One and one is", " three")
    assert check_task(f"{file}:scored")[0] == ("One and one is", "two")
    assert check_task(f"{file}:written")[0][0] == "One and one is"
    with pytest.raises(AssertionError, match="the right answer gets acc = 0"):
        check_task(f"{file}:lost")


def test_a_result_file_runs_no_code_that_is_not_named_again(file: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = str(tmp_path / "model")
    glassbox.save(tiny_chat_model(tokenizer), model, tokenizer=tokenizer)
    sources = TaskSources(tasks=(f"{file}:task",))
    evaluate_on_tasks([model], sources, out=tmp_path / "out", show_progress=False)
    results = next((tmp_path / "out").rglob("results.json"))
    assert json.loads(results.read_text(encoding="utf-8"))["tasks"]["mine"]["n"] == 2
    with pytest.raises(UserError, match="not run because a result file says so"):
        reproduce(results)
    assert reproduce(results, code=[f"{file}:task"])[1] == []
