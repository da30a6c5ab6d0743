"""The command line as a whole: version, JSON instead of tables, help of every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from glassbox.cli.main import build, main
from glassbox.core.version import __version__


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as done:
        main(list(words))
    assert not done.value.code


def test_the_command_line_does_not_grow_from_call_to_call() -> None:
    first, again = build(), build()
    assert len(first.registered_commands) == len(again.registered_commands)
    assert len(first.registered_groups) == len(again.registered_groups)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    run("--version")
    assert capsys.readouterr().out == f"glassbox {__version__}\n"


def test_tables_are_json_where_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run("models", "--json")
    found = json.loads(capsys.readouterr().out)
    gpt2 = next(row for row in found["presets"] if row["preset"] == "gpt2")
    assert gpt2["parameters"] == 124_439_808
    run("models", "gpt2", "--json")
    assert json.loads(capsys.readouterr().out)["hidden_size"] == 768
    run("recipe", "list", "--json")
    assert any(row["name"].endswith("pretrain.yaml") for row in json.loads(capsys.readouterr().out))
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 30, encoding="utf-8")
    for name, size in (("a", "280"), ("b", "300")):
        out = str(tmp_path / name)
        run("tokenizer", "train", "--corpus", str(text), "--vocab-size", size, "--out", out)
    capsys.readouterr()
    run("tokenizer", "compare", str(tmp_path / "a"), str(tmp_path / "b"), str(text), "--json")
    compared = json.loads(capsys.readouterr().out)
    assert compared[str(tmp_path / "a")]["vocab_size"] > 256
    assert compared[str(tmp_path / "b")]["groups"]["total"]["tokens"] > 0


def test_every_command_has_help_with_an_example() -> None:
    def walk(path: list[str], command: object) -> None:
        nested = getattr(command, "commands", None)
        if nested is None:
            text = getattr(command, "help", "") or ""
            assert "Example" in text, f"{' '.join(path)}: no example in its help"
            return
        for name, inner in nested.items():
            walk([*path, name], inner)

    walk(["glassbox"], typer.main.get_command(build()))
