"""Run a student's file on an exercise's cases, in the sandbox, or in this process for trusted code."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from glassbox.course._student import other_from_data, other_to_data, run_cases
from glassbox.course.exercise import Case, Exercise, Outcome
from glassbox.sandbox import _calls
from glassbox.sandbox.python import SandboxLimits, SandboxRefused, execute

LIMITS = SandboxLimits(
    wall_seconds=60, cpu_seconds=30, memory_bytes=2 << 30, output_bytes=256 << 10
)


@dataclass(frozen=True)
class Answers:
    """The results of a student's file.

    failure:  why the file could not be loaded: an Outcome with an error, or the name of a missing function.
    outcomes: of the cases, in order; fewer than there are cases where the process ended early.
    ended:    why it ended early: "timeout", "flood" or "failed"; empty where it did not.
    printed:  what it printed.
    """

    failure: Outcome | str | None
    outcomes: list[Outcome]
    ended: str = ""
    printed: str = ""


def run_in_sandbox(exercise: Exercise, code: str, limits: SandboxLimits = LIMITS) -> Answers:
    """Run a student's file in the sandbox, with the installed packages at hand.

    Raises SandboxRefused, a UserError, where this machine cannot wall the code in.
    """
    parts = [
        Path(_calls.__file__).read_text(encoding="utf-8"),
        # the sandbox has no package of ours: what the file imports from it stands before it
        (Path(__file__).with_name("_student.py").read_text(encoding="utf-8")).replace(
            "from glassbox.sandbox._calls import decode, encode\n", ""
        ),
        "channel = Channel(-1, CHANNEL[0])\n"
        f"for _one in run_cases(*json.loads({json.dumps(_request(exercise, code))!a})):\n"
        "    channel.send(_one)\n",
    ]
    if os.name != "posix":
        raise SandboxRefused("checking a solution needs Linux or macOS; on Windows use WSL")
    read, write = os.pipe()
    with ThreadPoolExecutor(1) as pool, open(read, "rb", buffering=0) as stream:
        running = pool.submit(execute, parts, limits, channel=(write,), packages=True)
        messages, channel = [], _calls.Channel(stream.fileno(), -1)
        try:
            while True:
                messages.append(channel.receive())
        except EOFError:
            pass
        except (ValueError, RecursionError):  # not what `run_cases` sends
            while stream.read(1 << 20):
                pass
        result = running.result()
    return _read(messages, "" if result.outcome == "done" else result.outcome, result.stdout)


def run_here(exercise: Exercise, code: str) -> Answers:
    """Run trusted code in this process, by the same way."""
    return _read(list(run_cases(*_request(exercise, code))), "", "")


def call(functions: Mapping[str, Callable[..., Any]], exercise: Exercise, case: Case) -> Any:
    """A case's result by functions of this process: the oracle's, or a student's under pytest."""
    drivers = {driver.__name__: driver for driver in exercise.drivers}
    args = _calls.decode(_calls.encode(list(case.args), other_to_data), other_from_data)
    if case.call in drivers:
        return drivers[case.call](SimpleNamespace(**functions), *args)
    return functions[case.call](*args)


def _request(exercise: Exercise, code: str) -> tuple[str, list[str], list[str], list[Any]]:
    cases = [
        [case.call, _calls.encode(list(case.args), other_to_data)] for case in exercise.all_cases
    ]
    later = "from __future__ import annotations\n\n"
    drivers = [later + inspect.getsource(driver) for driver in exercise.drivers]
    return code, list(exercise.functions), drivers, cases


def _read(messages: Iterable[Any], ended: str, printed: str) -> Answers:
    """Answers from what the student's process sent, none of which is trusted."""
    failure: Outcome | str | None = None
    outcomes: list[Outcome] = []
    first = True
    for message in messages:
        try:
            if "missing" in message:
                failure = str(message["missing"])
            elif "error" in message:
                kind, text, line = message["error"]
                outcome = Outcome(error=str(kind), message=str(text), line=int(line))
                if first:
                    failure = outcome
                else:
                    outcomes.append(outcome)
            elif "ok" in message:
                value = _calls.decode(message["ok"], other_from_data)
                outcomes.append(Outcome(value, changed=message["changed"] is True))
        except Exception:  # whatever wrong data leads to: the code wrote on the pipe itself
            return Answers(None, outcomes, "failed", printed)
        first = False
    if first and not ended:
        ended = "failed"
    return Answers(failure, outcomes, ended, printed)
