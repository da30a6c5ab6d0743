"""Judge a student's file: right, or which mistake it makes and on which smallest input."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from glassbox.course.answers import Answers, call, run_here, run_in_sandbox
from glassbox.course.comparing import Difference, difference, show
from glassbox.course.exercise import (
    Case,
    Detector,
    Exercise,
    Fields,
    Mistake,
    Outcome,
    Run,
)
from glassbox.course.language import Both
from glassbox.sandbox.python import SandboxLimits


@dataclass(frozen=True)
class Finding:
    """What is wrong: a mistake's code of the catalogue or one of `PLAIN`, and the message."""

    code: str
    message: Both


@dataclass(frozen=True)
class Failure:
    """The smallest input that fails, as text."""

    call: str
    expected: str
    got: str
    where: str


@dataclass(frozen=True)
class Report:
    """The judgement of a file. `finding` and `failure` are None where all is right."""

    exercise: Exercise
    finding: Finding | None
    failure: Failure | None = None
    num_cases: int = 0
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.finding is None


PLAIN: dict[str, Both] = {
    "missing": Both("the file defines no function {name}", "文件里没有定义函数 {name}"),
    "not_loaded": Both(
        "the file cannot be run: line {line}: {error}: {message}",
        "文件无法运行：第 {line} 行：{error}: {message}",
    ),
    "not_written": Both("{name} is still to be written", "{name} 还没有写"),
    "raised": Both(
        "it raises {error} in line {line}: {message}",
        "运行时抛出 {error}（第 {line} 行）：{message}",
    ),
    "stopped": Both(
        "it does not finish: the process was stopped for time, memory or output",
        "没有运行完：超出了时间、内存或输出的限制，进程被终止",
    ),
    "changed_input": Both(
        "the result is right, but the function changes its arguments; work on a copy",
        "结果正确，但函数改动了传入的参数；请在副本上操作",
    ),
    "none": Both(
        "it returns None; is a return missing?",
        "返回值是 None，是不是漏写了 return？",
    ),
    "type": Both(
        "it returns {got} where {expected} is expected",
        "返回的类型是 {got}，应为 {expected}",
    ),
    "shape": Both("the shape is {got}, not {expected}", "形状是 {got}，应为 {expected}"),
    "length": Both("there are {got} items, not {expected}", "共有 {got} 项，应为 {expected} 项"),
    "keys": Both("the keys are not the expected ones", "字典的键与预期不一致"),
    "not_finite": Both("the result has NaN", "结果中出现 NaN"),
    "value": Both(
        "the result is wrong; the catalogue has no name for this mistake",
        "结果不对；这个错误不在已知错误的目录里",
    ),
}  # fmt: skip
"""What is said of a file that makes no mistake of the exercise's catalogue."""


def grade(exercise: Exercise, code: str, *, limits: SandboxLimits | None = None) -> Report:
    """Judge a student's file, which runs in the sandbox alone.

    Raises SandboxRefused, a UserError, where this machine cannot wall the code in.
    """
    answers = run_in_sandbox(exercise, code, limits) if limits else run_in_sandbox(exercise, code)
    return judge(exercise, answers)


def grade_functions(exercise: Exercise, functions: Mapping[str, Callable[..., object]]) -> Report:
    """Judge functions of this process, as a course's own tests do with adapters. Nothing walls them in."""
    outcomes = [_called(functions, exercise, case) for case in exercise.all_cases]
    return judge(exercise, Answers(None, outcomes))


def judge(exercise: Exercise, answers: Answers) -> Report:
    """Judge what came of an exercise's cases.

    A result that differs from the oracle's is compared with those of every mistaken variant of the
    solution; then come detectors, errors and shapes, the invariants, and the first difference.
    """
    report = Report(exercise, None, None, len(exercise.all_cases), answers.printed)
    if answers.failure is not None:
        return replace(report, finding=_not_loaded(answers.failure))
    runs = [
        Run(case, expected, outcome)
        for case, expected, outcome in zip(
            exercise.all_cases, expected_of(exercise), answers.outcomes, strict=False
        )
    ]
    failed = next((run for run in runs if not is_right(exercise, run)), None)
    if failed is None and len(runs) == len(exercise.all_cases):
        return report
    if failed is None:
        case, expected = exercise.all_cases[len(runs)], expected_of(exercise)[len(runs)]
        failed = Run(case, expected, Outcome(error="stopped"))
        runs.append(failed)
    finding = _finding(exercise, runs, failed)
    failure = _failure(exercise, failed) if finding.code != "not_written" else None
    return replace(report, finding=finding, failure=failure)


def _called(
    functions: Mapping[str, Callable[..., object]], exercise: Exercise, case: Case
) -> Outcome:
    try:
        return Outcome(call(functions, exercise, case))
    except Exception as error:  # a student's function may raise anything
        return Outcome(error=type(error).__name__, message=str(error))


def is_right(exercise: Exercise, run: Run) -> bool:
    """Whether a case's result is the oracle's, and its arguments are left alone."""
    wrong = run.outcome.error or (run.outcome.changed and not exercise.in_place)
    return not wrong and difference(run.expected, run.got, exercise.tolerance) is None


@functools.cache
def expected_of(exercise: Exercise) -> tuple[object, ...]:
    """The oracle's result of every case."""
    return tuple(call(exercise.oracle, exercise, case) for case in exercise.all_cases)


@functools.cache
def outcomes_of(exercise: Exercise, mistake: Mistake) -> tuple[Outcome, ...] | None:
    """What a mistaken variant makes of every case; None where only a detector knows the mistake."""
    text = exercise.mistaken_text(mistake)
    return None if text is None else tuple(run_here(exercise, text).outcomes)


def same_outcome(exercise: Exercise, one: Outcome, other: Outcome) -> bool:
    """Whether two calls came to the same: the same exception, or the same value."""
    if one.error or other.error:
        return one.error == other.error
    if one.changed != other.changed:
        return False
    return difference(one.value, other.value, exercise.tolerance) is None


def _finding(exercise: Exercise, runs: list[Run], failed: Run) -> Finding:
    comparable = [run for run in runs if _is_comparable(exercise, run)]
    named = _variant(exercise, runs)
    if named is not None:
        fields = named.detect(comparable) if named.detect else {}
        if fields is not None:
            return Finding(named.code, named.message.filled(fields))
    for mistake in exercise.mistakes:
        if mistake.detect and not mistake.edits and not mistake.source:
            fields = mistake.detect(comparable)
            if fields is not None:
                return Finding(mistake.code, mistake.message.filled(fields))
    plain = _plain(exercise, failed)
    if plain is not None:
        return plain
    for invariant in exercise.invariants:
        fields = _look(invariant.broken, comparable)
        if fields is not None:
            return Finding(invariant.code, invariant.message.filled(fields))
    found = difference(failed.expected, failed.got, exercise.tolerance)
    return Finding(found.kind if found else "value", PLAIN["value"])


def _look(detector: Detector, runs: list[Run]) -> Fields | None:
    return detector(runs) if runs else None


def _variant(exercise: Exercise, runs: list[Run]) -> Mistake | None:
    """The mistake whose results these are: on all cases, or else on those that fail.

    Of the latter, cases on which one of both raises an exception say nothing about the other; at least half
    must say something.
    """
    wrong = [place for place, run in enumerate(runs) if not is_right(exercise, run)]
    best: tuple[int, Mistake | None] = (0, None)
    for mistake in exercise.mistakes:
        outcomes = outcomes_of(exercise, mistake)
        if outcomes is None:
            continue
        pairs = list(zip((run.outcome for run in runs), outcomes, strict=False))
        same = [same_outcome(exercise, *pair) for pair in pairs]
        if all(same) and len(pairs) == len(runs):
            return mistake
        telling = [place for place in wrong if not any(outcome.error for outcome in pairs[place])]
        if 2 * len(telling) >= len(wrong) and telling and all(same[place] for place in telling):
            best = max(best, (sum(same), mistake), key=lambda pair: pair[0])
    return best[1]


def _is_comparable(exercise: Exercise, run: Run) -> bool:
    if run.outcome.error:
        return False
    found = difference(run.expected, run.got, exercise.tolerance)
    return found is None or found.kind in ("value", "not_finite")


def _not_loaded(failure: Outcome | str) -> Finding:
    if isinstance(failure, str):
        return Finding("missing", PLAIN["missing"].filled({"name": failure}))
    return Finding("not_loaded", PLAIN["not_loaded"].filled(_error_fields(failure)))


def _error_fields(outcome: Outcome) -> Fields:
    message = outcome.message.strip().partition("\n")[0]
    return {"error": outcome.error, "message": message, "line": str(outcome.line)}


def _plain(exercise: Exercise, run: Run) -> Finding | None:
    outcome = run.outcome
    if outcome.error == "stopped":
        return Finding("stopped", PLAIN["stopped"])
    if outcome.error == "NotImplementedError":
        name = run.case.call if run.case.call in exercise.functions else exercise.functions[0]
        return Finding("not_written", PLAIN["not_written"].filled({"name": name}))
    if outcome.error:
        return Finding("raised", PLAIN["raised"].filled(_error_fields(outcome)))
    found = difference(run.expected, run.got, exercise.tolerance)
    if found is None:
        return Finding("changed_input", PLAIN["changed_input"])
    if found.kind == "value":
        return None
    fields = {"expected": found.expected, "got": found.got}
    return Finding(found.kind, PLAIN[found.kind].filled(fields))


def _failure(exercise: Exercise, run: Run) -> Failure:
    outcome = run.outcome
    found: Difference | None = None
    got = show(outcome.value)
    if outcome.error:
        got = f"{outcome.error}: {outcome.message}".rstrip(": ")
    else:
        found = difference(run.expected, run.got, exercise.tolerance)
    return Failure(
        show_call(exercise, run.case), show(run.expected), got, found.where if found else ""
    )


def show_call(exercise: Exercise, case: Case) -> str:
    """A case as one would type it, an argument a line where one is long."""
    functions = {one.__name__: one for one in (*exercise.written, *exercise.drivers)}
    names = list(inspect.signature(functions[case.call]).parameters)
    if case.call not in exercise.functions:
        names = names[1:]
    args = [f"{name}={show(value)}" for name, value in zip(names, case.args, strict=False)]
    line = f"{case.call}({', '.join(args)})"
    if len(line) <= 88 and "\n" not in line:
        return line
    indented = [arg.replace("\n", "\n" + " " * (arg.index("=") + 5)) for arg in args]
    return f"{case.call}(\n" + "".join(f"    {arg},\n" for arg in indented) + ")"
