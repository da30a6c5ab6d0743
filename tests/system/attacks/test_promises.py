"""Each test that SECURITY.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
BEING_WRITTEN = {"test_templates.py"}


def test_every_promise_names_a_test_that_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:(?:tests/[\w/]+/)?test_\w+\.py)?)(::\w+)?`", text)
    named = [(file, test) for file, test in named if file or test]
    assert len(named) > 20
    before = ""
    for file, test in named:
        before = file or before
        folder = ROOT if before.startswith("tests/") else ROOT / "tests/system/attacks"
        if before in BEING_WRITTEN and not (folder / before).exists():
            continue
        content = (folder / before).read_text(encoding="utf-8")
        assert not test or f"def {test[2:]}(" in content, (before, test)
