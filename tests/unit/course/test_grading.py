"""The grader against files that fail to load, hang, flood, lie or reach out; and how results are compared."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.course.adapters import check_adapter, write_adapters
from glassbox.course.catalogue import chosen_exercises
from glassbox.course.commands import check_file, next_hint, open_exercises
from glassbox.course.comparing import difference
from glassbox.course.exercise import Both, Case, Exercise, Mistake
from glassbox.course.grading import Report, grade, grade_functions
from glassbox.course.language import chosen_language
from glassbox.course.progress import progress_file, read_progress
from glassbox.course.showing import report_lines
from glassbox.sandbox.python import SandboxLimits


def twice(numbers: list[int]) -> list[int]:
    """Each number doubled."""
    return [2 * number for number in numbers]


EXERCISE = Exercise(
    number="0.1",
    title=Both("Doubling", "加倍"),
    statement=Both("Double each number.", "把每个数加倍。"),
    solution=(twice,),
    oracle={"twice": lambda numbers: [number + number for number in numbers]},
    cases=lambda: [Case(([],)), Case(([1],)), Case(([3, 4],))],
    mistakes=(
        Mistake("squared", Both("squared", "平方"), edits=(("2 * number", "number * number"),)),
        Mistake(
            "negative",
            Both("item {place} is negative", "第 {place} 项是负数"),
            detect=lambda runs: next(
                ({"place": str(p)} for run in runs for p, n in enumerate(run.got) if n < 0), None
            ),
        ),
    ),
    hints=(Both("Multiply.", "乘。"),),
    imports="",
)
QUICK = SandboxLimits(wall_seconds=20, cpu_seconds=1, memory_bytes=256 << 20, output_bytes=4096)


def code(text: str) -> str:
    report = grade(EXERCISE, text, limits=QUICK)
    return report.finding.code if report.finding else ""


def test_right_wrong_and_unknown() -> None:
    assert code("twice = lambda numbers: [n * 2 for n in numbers]") == ""
    assert code("def twice(numbers): return [n ** 2 for n in numbers]") == "squared"
    assert code("def twice(numbers): return [-n for n in numbers]") == "negative"
    assert code("def twice(numbers): return [n + 5 for n in numbers]") == "value"
    assert code("def twice(numbers): return [*numbers, *numbers]") == "length"
    assert code("def twice(numbers): return 3 if numbers else []") == "type"
    assert code("def twice(numbers): return (2 * n for n in numbers)") == "type"
    assert code("def twice(numbers): numbers.append(1); return [2 * n for n in numbers[:-1]]") == (
        "changed_input"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def twice(numbers): return (", "not_loaded"),
        ("import nowhere", "not_loaded"),
        ("1 / 0", "not_loaded"),
        ("def thrice(numbers): ...", "missing"),
        ("twice = 2", "missing"),
        ("def twice(numbers): raise NotImplementedError", "not_written"),
        ("def twice(numbers): return nope", "raised"),
        ("def twice(numbers):\n    while numbers: pass\n    return []", "stopped"),
        ("def twice(numbers): return bytearray(1 << 40)", "raised"),
        ("while True: pass", "stopped"),
        ("import os; os._exit(0)", "stopped"),
        ("def twice(numbers):\n    while True: print('x' * 1000)", "stopped"),
        ("import sys; sys.setrecursionlimit(10**6)\ndef twice(n): return twice(n)", "stopped"),
    ],
)
def test_what_is_no_solution(text: str, expected: str) -> None:
    assert code(text) == expected


def test_the_line_and_the_text_of_an_error_are_told() -> None:
    report = grade(EXERCISE, "\n\ndef twice(numbers):\n    return numbers[7]\n", limits=QUICK)
    assert report.finding is not None
    assert "IndexError in line 4: list index out of range" in report.finding.message.en
    assert "第 4 行" in report.finding.message.zh
    assert report.failure is not None
    assert report.failure.call == "twice(numbers=[])"


REACHING = """
import os, socket, subprocess, pathlib

def reach(action):
    try:
        action()
    except Exception:
        return 0
    return 1

def twice(numbers):
    out = []
    out.append(reach(lambda: open({path!r}).read()))
    out.append(reach(lambda: open({path!r}, "w").write("mine")))
    out.append(reach(lambda: subprocess.run(["true"])))
    out.append(reach(lambda: socket.create_connection(("127.0.0.1", 9), 1)))
    out.append(reach(os.fork))
    print(out)
    return out
"""


def test_no_solution_leaves_the_sandbox(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("progress")
    report = grade(EXERCISE, REACHING.format(path=str(secret)), limits=QUICK)
    assert report.printed.startswith("[0, 0, 0, 0, 0]")
    assert secret.read_text() == "progress"


@pytest.mark.parametrize(
    "message",
    ["{'ok': ['T', 'float32', [9], [1]], 'changed': False}", "[1]", "{'error': 3}", "7",
     "{'ok': ['T', 'import', [1], [1]]}", "{'ok': [[[[]]]]}"],
)  # fmt: skip
def test_what_a_solution_writes_on_the_pipe_itself_is_not_trusted(message: str) -> None:
    text = (
        "import json, os\n"
        f"data = json.dumps({message}).encode()\n"
        "for fd in range(3, 40):\n"
        "    try: os.write(fd, len(data).to_bytes(4, 'little') + data)\n"
        "    except OSError: pass\n"
        "def twice(numbers): return []\n"
    )
    assert code(text) != ""


def test_a_torch_solution_cannot_take_all_memory() -> None:
    text = "import torch\ndef twice(numbers): return torch.ones(1 << 30).tolist()"
    limits = SandboxLimits(wall_seconds=60, cpu_seconds=30, memory_bytes=1 << 30)
    report = grade(EXERCISE, text, limits=limits)
    assert report.finding is not None
    assert report.finding.code == "raised"
    assert "memory" in report.finding.message.en


def test_results_are_compared_by_what_they_say() -> None:
    def kind(expected: object, got: object) -> str:
        found = difference(expected, got, 1e-4)
        return found.kind if found else ""

    row = torch.tensor([1.0, 2.0])
    assert kind(row, [1.0, 2.0]) == kind(row, row.double()) == kind([1.0, 2.0], row) == ""
    assert kind(row, row[None]) == "shape"
    assert kind(row, [1.0, math.nan]) == "not_finite"
    assert kind(torch.tensor([math.nan]), [math.nan]) == ""
    assert kind(torch.tensor([True]), [1]) == "type"
    assert kind(torch.tensor([-math.inf]), [-math.inf]) == ""
    assert kind(torch.tensor([1]), [2]) == "value"
    assert kind(1.0, 1.00005) == kind(1000.0, 1000.05) == kind((1, "a"), [1, "a"]) == ""
    assert kind(1.0, 1.0003) == "value"
    assert kind(True, 1) == kind(1, "1") == kind([1], 1) == kind(b"a", "a") == "type"
    assert kind([1, 2], [1]) == "length"
    assert kind({"a": 1}, {"b": 1}) == "keys"
    assert kind({"a": 1}, {"a": 2}) == "value"
    assert kind(row, None) == "none"
    assert kind(row, "text") == "type"
    assert kind(row, [[1.0], [1.0, 2.0]]) == "type"


def test_reports_speak_both_languages() -> None:
    report: Report = grade(
        EXERCISE, "def twice(numbers): return [-n for n in numbers]", limits=QUICK
    )
    english, chinese = report_lines(report, "en"), report_lines(report, "zh")
    assert english[0] == "0.1 Doubling: not yet: item 0 is negative"
    assert chinese[0] == "0.1 加倍：还不对：第 0 项是负数"
    assert len(english) == len(chinese)
    assert "    twice(numbers=[1])" in english


def test_the_language_is_the_locales(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert chosen_language() == "zh"
    monkeypatch.setenv("LC_ALL", "en_GB.UTF-8")
    assert chosen_language() == "en"
    assert chosen_language("zh") == "zh"
    with pytest.raises(UserError, match="choose en or zh"):
        chosen_language("fr")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_student_opens_checks_and_is_remembered(home: Path) -> None:
    lines = open_exercises("5.5", None, "en")
    file = home / "lesson_5_5.py"
    assert "glassbox lesson check 5.5 lesson_5_5.py" in lines[-1]
    with pytest.raises(UserError, match="there already"):
        open_exercises("5.5", None, "en")
    assert "a window of" not in "".join(check_file("5.5", file, "en").lines)
    assert not check_file("5.5", file, "en").passed
    (exercise,) = chosen_exercises("5.5")
    file.write_text(exercise.solution_text, encoding="utf-8")
    assert check_file("5.5", file, "zh").passed
    assert len(next_hint("5.5", "en")) == 1
    assert len(next_hint("5.5", "en")) == 2
    done = read_progress().of("5.5")
    assert (done.tries, done.passed, done.hints, done.mistakes) == (3, True, 2, {"not_written": 2})
    with pytest.raises(UserError, match="name one of"):
        next_hint("5", "en")
    with pytest.raises(UserError, match="no such file"):
        check_file("5.5", home / "gone.py", "en")
    progress_file().write_text("{")
    with pytest.raises(UserError, match="begin anew"):
        read_progress()


def test_adapters_let_a_course_grade_its_own_students(home: Path) -> None:
    write_adapters(home / "course", chosen_exercises("all"), "en")
    text = (home / "course" / "adapters.py").read_text(encoding="utf-8")
    adapters = ModuleType("adapters")
    exec(text, adapters.__dict__)
    assert "still to be written" in check_adapter("5.5", adapters, "en")
    (exercise,) = chosen_exercises("5.5")
    adapters.run_window_mask = exercise.oracle["window_mask"]  # type: ignore[attr-defined]
    assert check_adapter("5.5", adapters) == ""
    compile((home / "course" / "test_exercises.py").read_text(), "test_exercises.py", "exec")
    with pytest.raises(UserError, match="there already"):
        write_adapters(home / "course", chosen_exercises("5.1"), "en")


def test_functions_of_this_process_are_graded_too() -> None:
    assert grade_functions(EXERCISE, {"twice": twice}).passed
    wrong = grade_functions(EXERCISE, {"twice": lambda numbers: np.square(numbers).tolist()})
    assert wrong.finding is not None
    assert wrong.finding.code == "squared"
