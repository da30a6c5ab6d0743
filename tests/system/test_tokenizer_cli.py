"""`glassbox tokenizer` as people run it, on every kind."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from glassbox.cli.main import main
from glassbox.tokenizers import KINDS, Tokenizer

LINES = ["The cat sat on the mat.", "滚滚长江东逝水，浪花淘尽英雄。", "naïve café, the cat's hat"]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("\n".join(LINES * 5), encoding="utf-8")
    return path


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_train_encode_decode_inspect(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    out = tmp_path / kind
    run("tokenizer", "train", "--corpus", book, "--vocab-size", 300, "--kind", kind, "--out", out)
    capsys.readouterr()
    tokenizer = Tokenizer.load(out)
    ids = tokenizer.encode("the cat sat")
    run("tokenizer", "encode", out, "the cat sat")
    assert capsys.readouterr().out.split() == [str(number) for number in ids]
    run("tokenizer", "decode", out, *ids)
    assert capsys.readouterr().out == "the cat sat\n"
    run("tokenizer", "inspect", out, "the cat", "--corpus", book)
    shown = capsys.readouterr().out
    assert f"{tokenizer.vocab_size} entries" in shown
    assert f"{len(tokenizer.encode('the cat'))} tokens, 7 characters" in shown
    assert "tokens/word" in shown
    assert "entries used" in shown


def test_long_names_are_whole_and_a_files_name_is_not_taken_for_its_text(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / ("a" * 40)
    run("tokenizer", "train", "--corpus", book, "--vocab-size", 300, "--out", out)
    capsys.readouterr()
    run("tokenizer", "inspect", out, book)
    shown = capsys.readouterr()
    assert f"of the file: --corpus {book}" in shown.err
    run("tokenizer", "compare", "--lines", 1, out, out, book)
    table = capsys.readouterr().out.rpartition("┏")[2]
    names = "".join(row.split("│")[1].strip() for row in table.splitlines() if row.startswith("│"))
    assert names == f"{out}{out}"


def test_compare_and_standard_input(
    book: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "unigram"
    run(
        "tokenizer",
        "train",
        "--corpus",
        book,
        "--vocab-size",
        120,
        "--kind",
        "unigram",
        "--out",
        out,
    )
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "160")
    run("tokenizer", "compare", out, "gpt2", book, "--lines", 2)
    shown = capsys.readouterr().out
    assert "gpt2" in shown
    assert "bytes/token" in shown
    monkeypatch.setattr("sys.stdin", io.StringIO("The cat"))
    run("tokenizer", "inspect", "gpt2", "-")
    assert "The| cat" in capsys.readouterr().out


def test_what_is_not_known_is_named(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (
            ("train", "--corpus", book, "--vocab-size", 300, "--kind", "words", "--out", tmp_path),
            "kind = 'words'",
        ),
        (("inspect", tmp_path / "none", "x"), "no file"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["tokenizer", *map(str, words)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
