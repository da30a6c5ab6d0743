"""setup.sh: what it asks pip for, with a Python that only writes down how it was called."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from support.documents import ROOT

PRETENDS = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case $* in
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; ln -sf python "$3/bin/glassbox" ;;
    *torch.version.cuda*) cat "$BUILT" ;;
    "-c import torch") [ -s "$BUILT" ] ;;
    "-m pip install"*torch*) [[ $* == *cuda* ]] && echo cuda > "$BUILT" || echo cpu > "$BUILT" ;;
    "-m pip install"*) [ -s "$BUILT" ] || echo cuda > "$BUILT" ;;
    "constraints/resolve.py option") echo "-c constraints/py312.txt" ;;
esac
"""


def set_up(
    folder: Path, *options: str, built: str = "", index: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run it; what it said, and how Python was called. built: the PyTorch that is there before."""
    python, calls, kind = folder / "python3", folder / "calls", folder / "built"
    python.write_text(PRETENDS)
    python.chmod(0o755)
    calls.write_text("")
    kind.write_text(built)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "ENVIRONMENT": str(folder / "env"),
           "CALLS": str(calls), "BUILT": str(kind), "TORCH_INDEX": index}  # fmt: skip
    done = subprocess.run(
        ["bash", str(ROOT / "setup.sh"), *options], env=env, capture_output=True, text=True
    )
    return done, [call for call in calls.read_text().splitlines() if call.startswith("-m pip")]


def test_it_installs_what_the_constraints_say(tmp_path: Path) -> None:
    done, asked = set_up(tmp_path)
    assert done.returncode == 0, done.stderr
    assert asked == ["-m pip install -c constraints/py312.txt -r requirements.txt"]
    assert "source" in done.stdout
    assert "glassbox quickstart --fast" in done.stdout


def test_the_index_of_torch_is_the_users(tmp_path: Path) -> None:
    done, asked = set_up(tmp_path, "--cpu", index="file:///wheels/cpu")
    assert done.returncode == 0, done.stderr
    assert asked[0] == "-m pip install --index-url file:///wheels/cpu torch>=2.8,<2.14"
    assert len(asked) == 2


def test_a_torch_that_is_there_is_kept(tmp_path: Path) -> None:
    done, asked = set_up(tmp_path, "--cpu", built="cpu", index="file:///wheels/cuda")
    assert done.returncode == 0, done.stderr
    assert len(asked) == 1
    other, _ = set_up(tmp_path, "--cuda", built="cpu")
    assert other.returncode == 1
    assert "of kind 'cpu', not 'cuda'" in other.stderr


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="pip's own choice is a CPU build there")
def test_for_a_cpu_it_points_to_pytorchs_selector(tmp_path: Path) -> None:
    done, asked = set_up(tmp_path, "--cpu")
    assert done.returncode == 2
    assert "pytorch.org/get-started" in done.stderr
    assert not asked


def test_options_that_there_are_not(tmp_path: Path) -> None:
    done, asked = set_up(tmp_path, "--gpu")
    assert done.returncode == 2
    assert "unknown option '--gpu'" in done.stderr
    assert not asked
    shown, _ = set_up(tmp_path, "--help")
    assert "--conda" in shown.stdout
    assert "set -euo" not in shown.stdout


def test_requirements_name_the_package_and_extras_that_there_are() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line and not line.startswith("#")]
    found = re.fullmatch(r"-e \.\[([\w,-]+)\]", line)
    assert found
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    for extra in found[1].split(","):
        assert re.search(rf"^{extra} = \[", extras, flags=re.MULTILINE), extra
    torch = re.search(r'"torch>[^"]*"', project)
    assert torch
    assert torch[0] in (ROOT / "setup.sh").read_text(encoding="utf-8")
