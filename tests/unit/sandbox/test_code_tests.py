"""Tests that call an answer in another process: what crosses, and what is said where it cannot."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.sandbox._calls import decode, encode
from glassbox.sandbox.code_tests import run_tests
from glassbox.sandbox.python import SandboxLimits

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs POSIX")

LIMITS = SandboxLimits(wall_seconds=30.0)


def refuse(value: Any) -> Any:
    raise TypeError(type(value).__name__)


hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
plain = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.sets(hashable, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_plain_data_arrives_as_it_was(value: Any) -> None:
    arrived = decode(json.loads(json.dumps(encode(value, refuse))), refuse)
    assert arrived == value
    assert repr(type(arrived)) == repr(type(value))


def test_numbers_keep_what_json_would_lose() -> None:
    for value in (float("inf"), -0.0, 10**5000, True, 1, 1.0, range(3, 9, 2), bytearray(b"x")):
        arrived = decode(json.loads(json.dumps(encode(value, refuse))), refuse)
        assert (arrived, type(arrived), str(type(arrived))) == (
            value,
            type(value),
            str(type(value)),
        )
    assert str(decode(encode(Decimal("1.10"), refuse), refuse)) == "1.10"
    assert decode(encode(Fraction(1, 3), refuse), refuse) == Fraction(1, 3)


PASSING = {
    "asserts": ("def f(x): return x + 1", "assert f(1) == 2\nassert f(x=2) == 3", None),
    "types": ("def f(): return (1, [2.5], {'a': {1}}, None)", "assert f() == (1, [2.5], {'a': {1}}, None)", None),
    "subclasses arrive as what they extend": (
        "from collections import Counter, namedtuple\nP = namedtuple('P', 'x y')\n"
        "def f(s): return Counter(s)\ndef g(): return P(1, 2)",
        "assert f('aab') == {'a': 2, 'b': 1}\nassert g() == (1, 2)",
        None,
    ),
    "a constant": ("LIMIT = 7", "assert LIMIT == 7", None),
    "a class": (
        "class Stack:\n    def __init__(self): self.items = []\n"
        "    def push(self, x): self.items.append(x)\n    def pop(self): return self.items.pop()\n"
        "    def __len__(self): return len(self.items)\n    def __str__(self): return 'Stack'",
        "s = Stack()\ns.push(1)\ns.push([2])\nassert s.pop() == [2]\nassert s.items == [1]\n"
        "assert len(s) == 1 and str(s) == 'Stack'\nt = Stack()\nassert t.items == []",
        None,
    ),
    "a method as entry point": (
        "class Solution:\n    def f(self, x): return 2 * x",
        "def check(c):\n    assert c(4) == 8",
        "Solution().f",
    ),
    "a generator": ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]", None),
    "in place": (
        "def f(x, *, d): x.sort(); x.append(9); d['k'] = 1",
        "x, d = [3, 1], {}\nassert f(x, d=d) is None\nassert x == [1, 3, 9] and d == {'k': 1}",
        None,
    ),
    "an exception": (
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
        "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert 'neg' in str(error)",
        None,
    ),
    "an exception of its own": (
        "class Bad(KeyError): pass\ndef f(x): raise Bad(x)",
        "try: f(1)\nexcept Bad: pass\ntry: f(1)\nexcept KeyError: pass",
        None,
    ),
    "a name of Python's": ("def sum(a, b): return a + b", "def check(c): assert c(1, 2) == 3", "sum"),
    "a module that the answer imports": (
        "import math\ndef f(x): return math.sqrt(x)",
        "assert math.isclose(f(2), 2 ** 0.5)",
        None,
    ),
    "lines": ("def f(x): return x", ["x = 5", "assert f(x) == x"], None),
    "what is under the main guard does not run": (
        "def f(): return 1\nif __name__ == '__main__':\n    print(input())",
        "assert f() == 1",
        None,
    ),
    "dataclasses": (
        "from __future__ import annotations\nfrom dataclasses import dataclass, asdict\n"
        "@dataclass\nclass P:\n    x: int\n    y: list[int]\ndef f(): return asdict(P(1, [2]))",
        "assert f() == {'x': 1, 'y': [2]}\nassert P(1, [2]).y == [2]",
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_what_tests_do_with_an_answer(name: str) -> None:
    code, tests, entry = PASSING[name]
    verdict = run_tests(code, tests, entry_point=entry, limits=LIMITS)
    assert verdict.passed, verdict
    assert verdict.reason == ""


@pytest.mark.parametrize(
    ("code", "tests", "reason"),
    [
        ("def f(): return 1", "assert f() == 2, 'wants two'", "AssertionError: wants two"),
        ("def f(): return object()", "assert f() == 2", "gave a object, which is no plain data"),
        ("def f(): return object()", "assert f()", "gave a object, which is no plain data"),
        ("def f(g): return g(1)", "assert f(lambda x: x) == 1", "hand the answer a function"),
        ("def f(): return 1", "assert g() == 1", "NameError: name 'g' is not defined"),
        ("def f(: return 1", "assert f() == 1", "SyntaxError"),
        ("1 / 0", "assert f() == 1", "ZeroDivisionError"),
        ("def f(): return [[]] * 10 ** 7", "f()", ""),
        ("import os\nos._exit(3)", "assert f() == 1", "the answer's process ended (failed)"),
        ("def f():\n    x = []\n    x.append(x)\n    return x", "f()", "nested over 100 deep"),
        ("def f(): return 1", "assert f( == 1", "SyntaxError"),
        ("import math\ndef f(): return math", "assert f()", "something unknown: 'm'"),
    ],
)
def test_what_fails_says_why(code: str, tests: str, reason: str) -> None:
    verdict = run_tests(code, tests, limits=LIMITS)
    assert not verdict.passed
    assert reason in verdict.reason
    assert "\n" not in verdict.reason


def test_a_prompt_may_end_in_the_midst_of_a_function() -> None:
    tests = "def check(c): assert c(1) == two()"
    helper = "def two(): return 2\n\n"
    for head in ("def inc(x):\n", 'def inc(x):\n    """Add one."""\n', "def inc(\n    x,\n):\n"):
        verdict = run_tests(
            "    return x + 1\n", tests, prompt=helper + head, entry_point="inc", limits=LIMITS
        )
        assert verdict.passed, verdict


def problems() -> Iterator[dict[str, str]]:
    with gzip.open(Path(os.environ["GLASSBOX_TESTDATA"], "humaneval/HumanEval.jsonl.gz")) as lines:
        yield from map(json.loads, lines)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif("GLASSBOX_TESTDATA" not in os.environ, reason="GLASSBOX_TESTDATA is not set")
def test_human_eval_is_passed_by_its_own_solutions_and_not_by_empty_ones() -> None:
    limits = SandboxLimits(wall_seconds=60.0, cpu_seconds=20)

    def passes(problem: dict[str, str], code: str) -> bool:
        return run_tests(
            code,
            problem["test"],
            prompt=problem["prompt"],
            entry_point=problem["entry_point"],
            limits=limits,
        ).passed

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(
            lambda one: (passes(one, one["canonical_solution"]), passes(one, "    pass\n")),
            problems(),
        ))  # fmt: skip
    assert len(found) == 164
    assert set(found) == {(True, False)}
