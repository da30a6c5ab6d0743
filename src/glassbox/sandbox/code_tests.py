"""An answer's code and the tests that judge it, in two sandboxes that share a pair of pipes alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from glassbox.sandbox.python import SandboxLimits, SandboxResult, execute

_CALLS = Path(__file__).with_name("_calls.py")


@dataclass(frozen=True)
class Verdict:
    """Whether an answer passes, and where it does not, why in one line."""

    passed: bool
    reason: str


def run_tests(
    code: str,
    tests: str | Sequence[str],
    *,
    prompt: str = "",
    entry_point: str | None = None,
    limits: SandboxLimits | None = None,
) -> Verdict:
    """Run tests against an answer that cannot see them and does not say whether it passed.

    The answer's code runs as a module in one sandbox, the tests in another. In the tests, names
    that they do not define are the answer's: functions and classes that are called over a pipe.
    Arguments and results cross it as plain data (None, numbers, text, bytes, lists, tuples, sets,
    dicts, ranges, Decimal, Fraction; of subclasses the plain part), built anew on the other side,
    so that a result's own `__eq__` is never asked. An object that is no plain data stays where it
    is: the tests may call it, get its attributes, items, length and text, and iterate, but compare
    it they cannot. Where a function returns None, what it did to its list, dict, set and bytearray
    arguments is done to the tests' own. An exception arrives as the nearest of Python's own.

    code:        the answer, behind the prompt if there is one.
    tests:       Python, or lines of it; each assert must hold, and the end be reached.
    prompt:      the beginning of the answer that was given: what it imports and defines is taken
                 from it, not from the answer, where tests use it.
    entry_point: an expression that names what is tested (`add`, `Solution().add`); where the tests
                 define `check`, it is called with that. Only so can an answer's function be
                 tested that has the name of one of Python's own.
    limits:      of each of the two.

    Not held: a test that asks an answer's names to do its checking (a helper that it neither
    defines nor imports), or that accepts too much. The tests themselves must be trusted.

    Raises SandboxRefused as `run_python`. Tested by: HumanEval's 164 problems, which their own
    solutions pass and empty ones fail, and `tests/system/attacks/test_code_grader.py`.

    >>> run_tests("def add(a, b): return a + b", "assert add(1, 2) == 3").passed
    True
    """
    limits = limits or SandboxLimits()
    text = tests if isinstance(tests, str) else "\n".join(tests)
    calls = _CALLS.read_text(encoding="utf-8")
    asked_read, asked_write = os.pipe()
    told_read, told_write = os.pipe()
    stop_read, stop_write = os.pipe()
    answer_parts = [calls, f"serve({prompt + code!a}, *CHANNEL)"]
    test_parts = [calls, f"run_tests({prompt!a}, {text!a}, {entry_point!a}, *CHANNEL)"]
    with ThreadPoolExecutor(1) as pool:
        try:
            answering = pool.submit(
                execute, answer_parts, limits, channel=(asked_read, told_write), stop=stop_read
            )
            testing = execute(test_parts, limits, channel=(told_read, asked_write))
        finally:
            os.close(stop_write)  # whatever the answer is still doing
            answering.exception()
            os.close(stop_read)
    return _judge(testing, answering.result())


def _judge(testing: SandboxResult, answering: SandboxResult) -> Verdict:
    if testing.outcome == "done":
        return Verdict(True, "")
    last = (testing.stderr.strip().splitlines() or [testing.outcome])[-1]
    if last.startswith("EOFError"):
        said = (answering.stderr.strip().splitlines() or ["it left early or was killed"])[-1]
        last = f"the answer's process ended ({answering.outcome}): {said}"
    return Verdict(False, last if testing.outcome == "failed" else f"{testing.outcome}: {last}")
