"""The sandbox holds: what hangs, crashes, floods or reaches out costs a moment, and nothing is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.sandbox.python import SandboxLimits, run_python
from glassbox.tuning.policy.tools import MAX_BITS, ToolLoop, calculate, make_tools, python_tool

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs POSIX")

MARK = (1 << 20) + os.getpid()  # so that other runs' sandboxes are not taken for ours
QUICK = SandboxLimits(wall_seconds=1.0, file_bytes=MARK)
WALLS = ["auto", "none"]


def left_behind() -> list[str]:
    """Command lines of our sandbox's processes that are still there; a killed one takes a moment."""
    deadline = time.monotonic() + 10
    found = [""]
    while found and time.monotonic() < deadline:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if "_sandbox_child" in line and str(MARK) in line:
                found.append(line)
        time.sleep(0.01)
    return found


def test_what_code_prints_and_how_it_ends() -> None:
    assert run_python("print('kite')").stdout == "kite\n"
    assert run_python("print('kite')").outcome == "done"
    assert run_python("x = 1\nprint(__name__)").stdout == "__main__\n"
    failed = run_python("1 / 0")
    assert (failed.outcome, failed.returncode) == ("failed", 1)
    assert failed.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
    assert run_python("(").outcome == "failed"
    assert run_python("x = '\ud800'").outcome in ("done", "failed")


def test_pieces_share_a_namespace_and_only_the_end_of_the_last_is_success() -> None:
    assert run_python(["def f(x): return x + 1", "assert f(1) == 2"]).outcome == "done"
    assert run_python(["def f(x): return x", "assert f(1) == 2"]).outcome == "failed"
    for leaving in ("import os; os._exit(0)", "raise SystemExit(0)", "import sys; sys.exit()"):
        assert run_python([leaving, "assert False"]).outcome == "failed"


@pytest.mark.parametrize("walls", WALLS)
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("while True: pass", "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("import os; os.close(1); os.close(2)\nwhile True: pass", "timeout"),
        (
            "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
            "timeout",
        ),
        ("while True: print('x' * 1000)", "flood"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "flood"),
        ("x = bytearray(1 << 30)", "failed"),
        ("x = []\nwhile True: x.append('y' * 10000000)", "failed"),
        ("def f(): return f()\nf()", "failed"),
        ("import os\nwhile True: os.fork()", "failed"),
        ("import threading\nthreading.Thread(target=print).start()", "failed"),
        ("import subprocess; subprocess.run(['ls'])", "failed"),
        ("import socket; socket.create_connection(('127.0.0.1', 9), 1)", "failed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed"),
        ("open('f', 'w').write('x' * (2 << 20))", "failed"),
        ("import ctypes; ctypes.string_at(0)", "failed"),
    ],
)
def test_what_goes_wrong_ends_soon_and_leaves_nothing(walls, code: str, outcome: str) -> None:  # type: ignore[no-untyped-def]
    started = time.monotonic()
    seconds = 1.0 if outcome == "timeout" else 10.0
    limits = SandboxLimits(
        wall_seconds=seconds, file_bytes=MARK, memory_bytes=256 << 20, namespaces=walls
    )
    result = run_python(code, limits)
    assert result.outcome == outcome, result
    assert time.monotonic() - started < 30  # a bound on hanging, not a measure of speed
    assert len(result.stdout) <= limits.output_bytes + 64
    assert left_behind() == []


def test_a_process_that_leaves_its_group_is_killed_all_the_same() -> None:
    result = run_python("import os, time; os.setsid(); time.sleep(60)", QUICK)
    assert result.outcome in ("timeout", "failed")
    assert left_behind() == []


def test_the_clock_of_the_processor_is_limited() -> None:
    limits = SandboxLimits(cpu_seconds=1, wall_seconds=30)
    result = run_python("while True: pass", limits)
    assert result.outcome == "failed"
    assert result.returncode in (-9, -24, 137, 152)


def test_within_full_walls_nothing_outside_can_be_written_or_seen(tmp_path: Path) -> None:
    if run_python("pass").walls != "full":
        with pytest.raises(UserError, match="namespaces"):
            run_python("pass", SandboxLimits(namespaces="required"))
        return
    assert run_python("pass", SandboxLimits(namespaces="required")).outcome == "done"
    target = tmp_path / "evil"
    assert run_python(f"open({str(target)!r}, 'w')").outcome == "failed"
    assert not target.exists()
    result = run_python("import os; print([p for p in os.listdir('/proc') if p.isdigit()])")
    assert str(os.getpid()) not in result.stdout
    written = run_python("open('a', 'w').write('1'); print(open('a').read())")
    assert written.stdout == "1\n"
    many = "for i in range(99): open(str(i), 'w').write('x' * 100_000)"
    assert "No space left" in run_python(many).stderr
    undo = "import ctypes; l = ctypes.CDLL(None); print(l.mount(b'none', b'/', None, 4128, None))"
    assert run_python(undo).stdout == "-1\n"


def test_no_environment_no_site_packages_and_the_folder_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_SECRET", "1")
    result = run_python("import os, sys; print(os.getcwd(), sorted(os.environ))\nimport torch")
    assert "MY_SECRET" not in result.stdout
    assert "No module named 'torch'" in result.stderr
    assert not Path(result.stdout.split()[0]).exists()


# ---- tools ----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789+-*/%(). e_^jx[]'", max_size=40))
def test_the_calculator_always_answers_and_never_runs_anything(text: str) -> None:
    answer = calculate(text)
    assert isinstance(answer, str)
    assert len(answer) < MAX_BITS


@given(st.integers(-999, 999), st.integers(-999, 999), st.sampled_from("+-*"))
def test_the_calculator_is_right(left: int, right: int, sign: str) -> None:
    expected = {"+": left + right, "-": left - right, "*": left * right}[sign]
    assert calculate(f"({left}) {sign} ({right})") == str(expected)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7 / 2", "3.5"),
        ("8 / 2", "4"),
        ("2 ^ 3", "8"),
        ("1 / 0", "error: division by zero"),
        ("9 ** 9 ** 9", "error: a power too large"),
        ("(-8) ** 0.5", "error: no real number"),
        ("1e308 * 10", "error: cannot convert float infinity to integer"),
        ("__import__('os')", "error: only numbers and + - * / // % ** ( )"),
        ("1 +", "error: not an expression"),
        ("1" * 201, "error: too long"),
        ("True + 1", "error: only numbers and + - * / // % ** ( )"),
    ],
)
def test_what_the_calculator_says(text: str, answer: str) -> None:
    if text.startswith("1e308"):
        assert calculate(text).startswith("error") or calculate(text) == "inf"
    else:
        assert calculate(text) == answer


def test_the_python_tool_says_what_happened() -> None:
    tool = python_tool(QUICK)
    assert tool("print(2 ** 10)") == "1024"
    assert tool("x = 1") == "(no output)"
    assert tool("1 / 0") == "error: ZeroDivisionError: division by zero"
    assert tool("while True: pass") == "error: timeout"
    assert tool("while True: print(1)") == "error: flood"


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("so <tool>1+2</tool>", ("tool", "1+2")),
        ("<python>print(1)\n</python>\n", ("python", "print(1)\n")),
        ("<tool>1</tool> and <tool>2</tool>", ("tool", "2")),
        ("<tool>1+2</tool> is it", None),
        ("<tool>1+2</python>", None),
        ("1+2</tool>", None),
    ],
)
def test_calls_are_found_at_the_end_of_a_turn_alone(text: str, call: object) -> None:
    from glassbox.inference import Engine
    from support.tiny_chat import tiny_chat_model, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    engine = Engine(tiny_chat_model(tokenizer), tokenizer)
    loop = ToolLoop(engine, make_tools(["calculator", "python"]))
    assert loop.find_call(text) == call


def test_installed_packages_are_shown_only_where_asked_for(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    code = f"import numpy\nprint(numpy.arange(3).sum())\nopen({str(secret)!r})"
    assert "ModuleNotFoundError" in run_python(code).stderr
    shown = run_python(code, SandboxLimits(wall_seconds=30), packages=True)
    assert (shown.stdout, shown.outcome) == ("3\n", "failed")
    assert "secret" in shown.stderr.splitlines()[-1]
    greedy = SandboxLimits(wall_seconds=30, memory_bytes=256 << 20)
    took = run_python("x = bytearray(1 << 30)", greedy, packages=True)
    assert "MemoryError" in took.stderr
