"""The objectives' tests notice the bugs that such code is known for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.planted_bugs import all_bugs, idle_words, misplaced

SCRIPT = Path(__file__).parents[1] / "support" / "planted_bugs.py"


def test_every_bug_still_has_its_place() -> None:
    bugs = all_bugs()
    assert misplaced(bugs) == []
    assert idle_words(bugs) == []
    assert len({bug[:2] for bug in bugs}) == len(bugs)
    assert all(bug.old != bug.new for bug in bugs)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the script forks")
def test_a_few_planted_bugs_are_caught() -> None:
    """All of them: python tests/support/planted_bugs.py."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--few"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
