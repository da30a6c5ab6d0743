"""What the documentation tells people to run, runs: every command and every block of Python, small."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glassbox.formats.huggingface import save_pretrained
from support.documents import (
    ROOT,
    Block,
    blocks,
    inside,
    name_tiny_model,
    run_block,
    run_glassbox,
    runnable,
)
from support.tiny_chat import tiny_chat_model, tiny_tokenizer
from system.test_quickstart import TINY

PAGES = [
    "README.md",
    "README.zh.md",
    "CONTRIBUTING.md",
    *sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if path.name != "log.md"
    ),
]
WITH_BLOCKS = [page for page in PAGES if runnable(page) and not page.endswith(".zh.md")]
"""What is run: Chinese pages have the blocks of their English ones (tests/unit/test_translations.py)."""
MOST_SKIPPED = 12


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it who has run the quickstart."""
    folder = tmp_path_factory.mktemp("documentation")
    for file in (ROOT / "examples" / "data").iterdir():
        shutil.copy(file, folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    with inside(folder):
        run_glassbox(["quickstart", "--fast", "--out", "runs/quickstart", *TINY], "quickstart")
    return folder


@pytest.fixture(scope="module", autouse=True)
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A tiny chat model under the name `smollm2`."""
    from glassbox.formats import open_model

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = tiny_tokenizer()
    save_pretrained(
        tiny_chat_model(tokenizer, context_length=512), folder / "model", tokenizer=tokenizer
    )
    real = open_model.offline_file
    patch = pytest.MonkeyPatch()
    patch.setenv("GLASSBOX_TINY_MODEL", str(folder / "model"))
    threads = torch.get_num_threads()
    name_tiny_model(folder / "model")
    yield
    open_model.offline_file = real
    torch.set_num_threads(threads)
    patch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_every_block_of_the_page_runs(page: str, workshop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(workshop, folder)
    for block in runnable(page):
        if block.skipped is None:
            run_block(block, folder)


def test_few_blocks_are_skipped_and_each_says_why() -> None:
    skipped = [b for page in WITH_BLOCKS for b in runnable(page) if b.skipped is not None]
    assert all(len(block.skipped or "") > 10 for block in skipped)
    assert len(skipped) <= MOST_SKIPPED, [f"{b.page}:{b.line}" for b in skipped]


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_that_are_run(page: str) -> None:
    """A block without a language is output or a tree of folders, never a command."""
    for block in blocks(page):
        if block.language == "":
            commands = re.findall(r"^\$? ?(glassbox|pip|make|torchrun) ", block.text, re.MULTILINE)
            assert not commands, f"{page}:{block.line}: mark the block as sh"


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(
        r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    ):
        if not target.startswith(("http", "mailto:")):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"(?:`|^|&& )make ([a-z-]+)", text, flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page}: make {target}"


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_readme_is_short(page: str) -> None:
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= 180


def test_blocks_are_found_with_their_directions() -> None:
    block = Block(
        "p.md",
        1,
        "sh",
        "glassbox train a.yaml \\\n  x=1  # why\n# no\n\n$ glassbox models\n",
        "with y=2",
    )
    assert block.commands() == ["glassbox train a.yaml    x=1", "glassbox models"]
    assert block.words == ["y=2"]
    assert Block("p.md", 1, "sh", "", "skip needs a network").skipped == "needs a network"
