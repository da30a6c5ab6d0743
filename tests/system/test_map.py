"""docs/map.md: every row's command is run, small; every script and file that it names is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from support.documents import ROOT, Block, inside, run_command
from system.test_documentation import tiny_model, workshop  # noqa: F401  (fixtures)

PAGE = "docs/map.md"
CELL = r"\[[^\]]+\]\((?P<{}>[^)]+)\)"
ROW = re.compile(
    rf"^\| (?P<concept>[^|]+) \| {CELL.format('script')}(?:, {CELL.format('lesson')})? "
    rf"\| {CELL.format('source')} \| `(?P<command>[^`|]+)` \|$"
)
SMALLER = {
    "glassbox quickstart": ["sizes.train_bytes=60000", "tokenizer.vocab_size=400",
                            "pretrain.change.train.steps=2", "pretrain.change.train.schedule.warmup_steps=1",
                            "limits.documents=2"],
    "python lessons/models/music.py": ["--count", "60", "--epochs", "2"],
}  # fmt: skip
"""Words that make a command take seconds, beside those of `support.documents.SMALL`."""


def table_rows() -> list[str]:
    """The rows of the page's tables, without their heads."""
    lines = (ROOT / PAGE).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith("| concept ")]


ROWS = [found for line in table_rows() if (found := ROW.match(line))]


@pytest.fixture(scope="module")
def checkout(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("map") / "checkout"
    shutil.copytree(workshop, folder)
    shutil.copytree(ROOT / "lessons", folder / "lessons")
    return folder


def test_every_row_is_read() -> None:
    assert len(ROWS) == len(table_rows()) >= 45
    concepts = [row["concept"] for row in ROWS]
    assert len(set(concepts)) == len(concepts)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["concept"])
def test_what_a_row_names_is_there(row: re.Match[str]) -> None:
    script, source = ((ROOT / "docs" / row[name]).resolve() for name in ("script", "source"))
    if row["lesson"] is not None:
        assert (ROOT / "docs" / row["lesson"]).resolve().is_relative_to(ROOT / "lessons")
        assert (ROOT / "docs" / row["lesson"]).is_file()
    assert script.is_file()
    assert script.is_relative_to(ROOT / "lessons") or script.is_relative_to(ROOT / "docs/guides")
    assert source.is_file()
    assert source.is_relative_to(ROOT / "src" / "glassbox")


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["concept"])
def test_the_command_of_a_row_runs(row: re.Match[str], checkout: Path) -> None:
    command = row["command"]
    words = next((more for start, more in SMALLER.items() if command.startswith(start)), [])
    with inside(checkout):
        run_command(command, Block(PAGE, 1, "sh", command, f"with {' '.join(words)}"))
