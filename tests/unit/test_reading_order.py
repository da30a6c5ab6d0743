"""The pages that docs/design/reading_order.md names exist, and are as few and as short as it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import glassbox

SOURCE = Path(glassbox.__file__).parent
PAGE = SOURCE.parents[1] / "docs" / "design" / "reading_order.md"
BUDGETS = {
    "A forward pass": (8, 900),
    "One token, plainly": (8, 1500),
    "One token in the engine": (8, 1500),
    "From a reward to its gradient": (6, 900),
}
"""Of each section the most files, and the most lines of what is named in them."""


def definitions(path: Path) -> dict[str, int]:
    """Lines of each function and class of a file, by its dotted name."""
    found: dict[str, int] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                first = min([child.lineno, *(one.lineno for one in child.decorator_list)])
                assert child.end_lineno is not None
                found[prefix + child.name] = child.end_lineno - first + 1
                walk(child, f"{prefix}{child.name}.")

    walk(ast.parse(path.read_text()), "")
    return found


def rows(section: str) -> list[tuple[str, list[str], int, int]]:
    """(file, names, lines of the names, lines of the file) of each row of a section's table."""
    text = PAGE.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    found = []
    for line in text.splitlines():
        match = re.match(r"\| `([\w/]+\.py)` \| (.*?) \| (\d+) of (\d+) \|", line)
        if match:
            names = re.findall(r"`([\w.]+)`", match[2])
            found.append((match[1], names, int(match[3]), int(match[4])))
    return found


@pytest.mark.parametrize("section", list(BUDGETS))
def test_what_is_named_is_there_and_within_its_budget(section: str) -> None:
    table = rows(section)
    most_files, most_lines = BUDGETS[section]
    assert 0 < len(table) <= most_files
    total = 0
    for file, names, told, of in table:
        path = SOURCE / file
        known = definitions(path)
        assert not [name for name in names if name not in known], file
        lines = sum(known[name] for name in names)
        total += lines
        assert abs(lines - told) <= max(10, told // 5), (
            f"{file}: {lines} lines, the page says {told}"
        )
        whole = len(path.read_text().splitlines())
        assert abs(whole - of) <= max(40, of // 5), f"{file} has {whole} lines, the page says {of}"
    assert total <= most_lines
