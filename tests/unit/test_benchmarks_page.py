"""docs/results/benchmarks.md says of every script of bench/ which claim it measures; `make bench` runs the first table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "benchmarks.md"
HELPERS = {"harness", "made_text"}


def listed(section: str) -> list[str]:
    """The scripts of a section's table, by name."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^\|[^|]*\| `bench/(\w+)\.py` \|[^|]*\| `python bench/", text, re.MULTILINE)


def variable(name: str) -> list[str]:
    """The words of a variable of the Makefile."""
    found = re.search(rf"^{name} := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1].split()


MADE = listed("Run by `make bench`")
TEXT = listed("On text of your own")


def test_every_script_states_a_claim() -> None:
    told = [*MADE, *TEXT, *listed("Quality, capacity and attacks, of an hour and more")]
    scripts = {path.stem for path in (ROOT / "bench").glob("*.py")}
    assert len(told) == len(set(told))
    assert set(told) == scripts - HELPERS


def test_make_bench_runs_what_the_page_says() -> None:
    assert [*variable("BENCHES"), *variable("MODEL_BENCHES")] == MADE
    assert set(variable("TEXT_BENCHES")) <= set(TEXT)


@pytest.mark.parametrize("name", [*MADE, *TEXT])
def test_a_measured_claim_is_written_as_json_by_the_harness(name: str) -> None:
    tree = ast.parse((ROOT / "bench" / f"{name}.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    methods = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
    assert {"options", "row", "finish"} <= methods
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "Bench" in named
    assert "statistics.median" not in ast.unparse(tree) or name in ("context_cost", "mixers_length")
