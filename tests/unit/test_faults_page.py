"""Each test that docs/results/faults.md names exists, and no row is without one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_fault_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "results" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("## Measured")[0].splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| Fault")]
    assert len(rows) >= 46
    for row in rows:
        named = re.findall(
            r"`((?:unit|parity|system)/[\w/]+\.py)(?:::(\w+))?`", row.split(" | ")[-1]
        )
        assert named, row
        for file, test in named:
            content = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert not test or f"def {test}(" in content, (file, test)
