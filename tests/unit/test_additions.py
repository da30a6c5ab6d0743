"""Adding one more of a kind touches at most one file beside its own, in one or two lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.additions import MEMBERS, Member, places


@pytest.mark.parametrize("member", MEMBERS, ids=[member.what for member in MEMBERS])
def test_one_more_of_a_kind_touches_one_file(member: Member) -> None:
    found = places(member)
    assert len(found) <= 1, found  # none where the union stands in its own file
    assert all(len(lines) <= 2 for lines in found.values()), found


def test_every_line_that_names_the_member_counts(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text('class Thing:\n    kind = "thing"\n\n\ndef _helper(): ...\n')
    (tmp_path / "union.py").write_text("from own import (\n    Thing,\n)\nUnion = Thing\n")
    (tmp_path / "ladder.py").write_text('# Thing\n_helper = 1\nx = {"thing": 1, "b": isinstance}\n')
    (tmp_path / "other.py").write_text('"""Something about thing and Things."""\n')
    found = places(Member("thing", "own.py", "thing"), tmp_path)
    assert found == {"ladder.py": [3], "union.py": [2, 4]}
    assert places(Member("thing", "own.py", "thing", ()), tmp_path) == {"ladder.py": [3]}
    with pytest.raises(AssertionError, match="does not define"):
        places(Member("thing", "own.py", "thing", ("Gone",)), tmp_path)
