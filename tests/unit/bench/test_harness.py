"""The benchmarks' harness: turns, medians, the table and the JSON; each script says what it measures."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_harness", BENCH / "harness.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_harness"] = module
    spec.loader.exec_module(module)
    return module


def test_runs_take_turns_and_the_warm_round_does_not_count(harness: ModuleType) -> None:
    bench, order = harness.Bench("Title.\n\nMore."), []
    times = bench.in_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3
    )
    assert "".join(order) == "abababab"
    assert len(times["a"].seconds) == 3


def test_medians_and_ratios(harness: ModuleType) -> None:
    fast, slow = harness.Times((1.0, 9.0, 2.0)), harness.Times((4.0, 4.0, 3.0))
    assert fast.median == 2.0
    assert slow / fast == 2.0
    assert fast.spread == 4.0


def test_json_holds_rows_machine_and_versions(
    harness: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        bench = harness.Bench("Title.")
        bench.options(["--threads", "1", "--json", str(tmp_path / "out" / "x.json")])
        bench.fact(limit=3.0)
        bench.row(batch=1, ratio=1.5)
        bench.row(batch=1000, ratio=1234.5)
        bench.finish()
    finally:
        torch.set_num_threads(threads)
    report = json.loads((tmp_path / "out" / "x.json").read_text(encoding="utf-8"))
    assert report["rows"] == [{"batch": 1, "ratio": 1.5}, {"batch": 1000, "ratio": 1234.5}]
    assert report["facts"] == {"limit": 3.0}
    assert report["versions"]["torch"] == torch.__version__
    assert report["machine"]["cores"] >= 1
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()].count(["batch", "ratio"]) == 1
    assert "1,000" in printed


def test_rates_are_positive(harness: ModuleType) -> None:
    rate = harness.product_rate(torch.float32, {"small": (32, 32, 32)}, seconds=0.01)
    assert rate["small"] > 0
    assert harness.read_rate(1 << 20, repeats=1) > 0


@pytest.mark.parametrize("script", sorted(BENCH.glob("*.py")), ids=lambda path: path.name)
def test_each_script_begins_with_the_claim_that_it_measures(script: Path) -> None:
    doc = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    assert doc is not None
    assert len(doc.partition("\n")[0]) > 20
