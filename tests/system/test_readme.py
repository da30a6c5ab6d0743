"""What the README tells people to run, runs: each command parses, each file it names is there."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "README.zh.md", "CONTRIBUTING.md"]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    # every block in turn, or the end of one would be taken for the beginning of another
    every = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [block for named, block in every if named == language]


def commands() -> list[str]:
    lines = {line for page in PAGES for block in blocks(page, "") for line in block.splitlines()}
    return sorted(line for line in lines if line.startswith("glassbox "))


@pytest.mark.parametrize("line", commands())
def test_command_exists_and_takes_these_options(line: str) -> None:
    """The words are real: the command's own help names every option that the README uses."""
    words = shlex.split(line)
    path = [words[1]] + ([words[2]] if words[1] in ("recipe", "data", "tokenizer") else [])
    shown = subprocess.run(
        [sys.executable, "-m", "glassbox", *path, "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={"COLUMNS": "200", "PATH": "", "NO_COLOR": "1"},
    )
    assert shown.returncode == 0, shown.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in shown.stdout, f"{' '.join(path)} has no {option}"
    for recipe in (word for word in words if word.endswith(".yaml")):
        assert (ROOT / recipe).exists() or list((ROOT / "recipes").rglob(recipe)), recipe


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), f"{page} links to {target}"


def test_python_blocks_import() -> None:
    for block in blocks("README.md", "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module}.{name.name}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(
            r"(?:`|^|&& )make ([a-z]+)", (ROOT / page).read_text(encoding="utf-8"), flags=re.M
        ):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target}"


def test_example_learns_its_task(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        example = importlib.import_module("reverse")
    finally:
        sys.path.pop(0)
    assert example.main(tmp_path) > 0.9
