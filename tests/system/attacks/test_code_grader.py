"""Answers that mean to score without solving: the tests and their verdict are out of reach."""

from __future__ import annotations

import os

import pytest

from glassbox.sandbox.code_tests import run_tests
from glassbox.sandbox.python import SandboxLimits
from glassbox.tuning.grading.rules import CodeTests

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs POSIX")

LIMITS = SandboxLimits(wall_seconds=20.0, cpu_seconds=10)
IMPOSSIBLE = "assert False"
CALLS = "assert f(3) == 4\nassert f(10) == 11\nassert f([1]) == [2]"

# Each gives 1.0 where code and tests share a process, or where objects are compared as they come.
CHEATS = {
    "read the word and leave": "import os\nd = os.read(0, 1 << 20)\nos.write(1, d[-32:])\nos._exit(0)",
    "read later": (
        "import os\ndef f(x):\n    d = os.read(0, 1 << 20); os.write(1, d[-32:]); os._exit(0)"
    ),
    "leave": "import os\nos._exit(0)",
    "leave politely": "raise SystemExit(0)",
    "leave when called": "def f(x):\n    raise SystemExit(0)",
    "equal to all": "class E:\n    def __eq__(self, o): return True\n    __hash__ = object.__hash__\n"
    "def f(x): return E()",
    "a number equal to all": "class E(int):\n    def __eq__(self, o): return True\n"
    "    __hash__ = int.__hash__\ndef f(x): return E(0)",
    "a list equal to all": "class E(list):\n    def __eq__(self, o): return True\n"
    "def f(x): return E()",
    "unequal to none": "class E(str):\n    def __eq__(self, o): return True\n"
    "    def __ne__(self, o): return False\n    __hash__ = str.__hash__\ndef f(x): return E()",
    "a method that lies": "class E:\n    def __getattr__(self, n): return lambda *a: True\n"
    "def f(x): return E()",
    "replace what compares": "import builtins\nbuiltins.all = builtins.any = lambda x: True\n"
    "builtins.AssertionError = type('A', (Exception,), {})\ndef f(x): return 0",
    "replace abs": "def abs(x): return 0\ndef f(x): return 0",
    "replace check": "def check(c): pass\ndef f(x): return 0",
    "patch the frames": (
        "import sys\ndef f(x):\n    g = sys._getframe()\n    while g:\n"
        "        for k in list(g.f_globals):\n"
        "            if k in ('check', 'tests', '_do'): g.f_globals[k] = lambda *a: {'ok': True}\n"
        "        g = g.f_back\n    return 0"
    ),
    "answer at once for ever": (
        "import os, sys\nr, w = sys.modules['__main__'].CHANNEL if hasattr(sys.modules['__main__'],"
        " 'CHANNEL') else (3, 4)\n"
        "for fd in range(3, 30):\n"
        "    for _ in range(9):\n"
        "        try: os.write(fd, b'\\x0c\\0\\0\\0{\"ok\": true}')\n"
        "        except OSError: break\n"
        "os._exit(0)"
    ),
    "an exception that is a pass": "def f(x):\n    raise StopIteration",
    "exit hooks": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "trace everything": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
    "def f(x): return 0",
    "write as the tests do": "import sys\nsys.stdout.write('done')\nsys.exit(0)",
    "flood the pipe": "import os\nfor fd in range(3, 30):\n    try:\n        while True:"
    " os.write(fd, b'\\xff' * 65536)\n    except OSError: pass",
    "a huge length": "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'\\xff\\xff\\xff\\x7f')\n"
    "    except OSError: pass\nos._exit(0)",
    "deep data": "def f(x):\n    y = []\n    for _ in range(99): y = [y]\n    return y",
    "never return": "def f(x):\n    while True: pass",
    "endless items": "import itertools\ndef f(x): return itertools.count()",
    "look for the tests": (
        "import gc\ndef f(x):\n    found = [o for o in gc.get_objects() if isinstance(o, str) and"
        " 'assert f(3)' in o]\n    return 4 if found else 0"
    ),
    "search memory": (
        "import ctypes, re\ndef f(x):\n    try: text = open('/proc/self/maps').read()\n"
        "    except OSError: return 0\n    return 4"
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(name: str) -> None:
    quick = LIMITS.model_copy(update={"wall_seconds": 1.5 if "never" in name else 20.0})
    assert not run_tests(CHEATS[name], CALLS, limits=quick).passed
    checked = (
        "def check(c):\n    assert c(3) == 4 and abs(c(10) - 11) < 1\n    assert all([c(1) == 2])"
    )
    assert not run_tests(CHEATS[name], checked, entry_point="f", limits=quick).passed


@pytest.mark.parametrize("name", [name for name in CHEATS if "never" not in name])
def test_nothing_passes_what_cannot_be_passed(name: str) -> None:
    assert CodeTests(limits=LIMITS)(CHEATS[name], {"tests": IMPOSSIBLE}) == 0.0


def test_an_endless_iterator_cannot_be_searched_for_the_right_item() -> None:
    verdict = run_tests(CHEATS["endless items"], "assert 5 in f(1)", limits=LIMITS)
    assert not verdict.passed
    assert "no plain data" in verdict.reason


def test_a_helper_of_the_prompt_cannot_be_replaced() -> None:
    """HumanEval/32 checks roots by `poly`, which the prompt defines before the function."""
    prompt = (
        "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n\n\ndef root(xs):\n"
    )
    tests = "def check(c):\n    assert abs(poly([2, -1], c([2, -1]))) < 1e-6"
    good = "    return -xs[0] / xs[1]\n"
    bad = "    return 0\n\ndef poly(xs, x): return 0\n"
    assert run_tests(good, tests, prompt=prompt, entry_point="root", limits=LIMITS).passed
    assert not run_tests(bad, tests, prompt=prompt, entry_point="root", limits=LIMITS).passed


def test_an_argument_cannot_be_emptied_to_fit_the_answer() -> None:
    bad = "def f(x):\n    x.clear()\n    return []"
    assert not run_tests(bad, "x = [2, 1]\nassert f(x) == sorted(x)", limits=LIMITS).passed
