"""The commonest first mistakes: one line that says what to do, nothing left behind, and the corrected
command works in the same folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from glassbox.cli.main import main
from glassbox.formats.huggingface import save_pretrained
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TEXT = "<|endoftext|>".join(
    f"The fox number {n} went to the old tree and saw a red ball." for n in range(60)
)
CHATS = [
    {"messages": [{"role": "user", "content": f"Who has {n}?"}, {"role": "assistant", "content": "Mia"}]}
    for n in range(12)
]  # fmt: skip
PRETRAIN = [
    "train", "pretrain.yaml", "device=cpu", "tokenizer.vocab_size=300", "data.row_length=32",
    "data.rows_per_step=2", "model.hidden_size=16", "model.num_layers=1", "model.num_heads=2",
    "model.ffn_size=16", "model.context_length=32", "train.steps=2", "train.schedule.warmup_steps=0",
]  # fmt: skip
SFT = [
    "train", "sft.yaml", "device=cpu", "data.row_length=64", "data.rows_per_step=2", "train.steps=2",
    "train.schedule.warmup_steps=0",
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), tmp_path / "model", tokenizer=tokenizer)
    (tmp_path / "book.txt").write_text(TEXT)
    (tmp_path / "empty.txt").write_text("")
    lines = [json.dumps(chat) for chat in CHATS]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    (tmp_path / "bad.jsonl").write_text("\n".join([*lines[:9], '{"messages": ', *lines[9:]]))
    return tmp_path


def glassbox(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0), capsys.readouterr().err


MISTAKES: list[tuple[str, list[str], str, str, str]] = [
    ("a missing data file", PRETRAIN, "data.path=bok.txt", "data.path=book.txt", "no data at 'bok.txt'"),
    ("a misspelt key", [*PRETRAIN, "data.path=book.txt"], "train.stepz=3", "train.log_every=1", "did you mean 'steps'"),
    ("heads that do not divide", [*PRETRAIN, "data.path=book.txt"], "model.num_heads=7", "model.num_heads=4", "no multiple of num_heads = 7"),
    ("rows beyond the context", [*PRETRAIN, "data.path=book.txt"], "data.row_length=64", "data.row_length=16", "data.row_length = 64 is more than the model's context_length = 32"),
    ("empty data", PRETRAIN, "data.path=empty.txt", "data.path=book.txt", "'empty.txt' holds no text"),
    ("a wrong init", [*SFT, "data.path=chats.jsonl"], "init=modle", "init=model", "no model at 'modle'"),
    ("a bad row", [*SFT, "init=model"], "data.path=bad.jsonl", "data.path=chats.jsonl", "'bad.jsonl' line 10: not valid JSON"),
    ("a wrong kind", [*PRETRAIN, "data.path=book.txt"], "optim.kind=adam", "optim.kind=adamw", "did you mean 'adamw'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "wrong", "right", "said"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])  # fmt: skip
def test_a_first_mistake_leaves_nothing_and_the_corrected_command_works(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    wrong: str,
    right: str,
    said: str,
) -> None:
    before = sorted(home.rglob("*"))
    code, errors = glassbox([*words, "out=runs/one", wrong], capsys)
    assert code == 2
    assert said in errors
    assert errors.count("\n") == 1, errors
    assert sorted(home.rglob("*")) == before
    code, errors = glassbox(["recipe", "check", *words[1:], "out=runs/one", wrong], capsys)
    assert (code, said in errors) == (2, True)
    code, errors = glassbox(["recipe", "check", *words[1:], "out=runs/one", right], capsys)
    assert code == 0, errors
    assert sorted(home.rglob("*")) == before
    code, errors = glassbox([*words, "out=runs/one", right], capsys)
    assert code == 0, errors
    assert (home / "runs" / "one" / "DONE.json").exists()


def test_a_fault_deep_in_the_data_takes_back_what_was_made(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.dumps({"text": f"the old fox {n} sat by the tree"}) for n in range(200)]
    (home / "rows.jsonl").write_text("\n".join([*rows, "no json", *rows]))
    words = [*PRETRAIN, "out=runs/one", "data.path=rows.jsonl"]
    code, errors = glassbox(words, capsys)
    assert (code, "line 201" in errors) == (2, True)
    assert not (home / "runs").exists()
    (home / "rows.jsonl").write_text("\n".join(rows))
    assert glassbox(words, capsys)[0] == 0


def test_an_unbegun_folder_is_taken_over_with_nothing_stale(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that was killed while it prepared: another recipe makes tokenizer and shards anew."""
    from glassbox.training.loop import Trainer

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", lambda self: (_ for _ in ()).throw(MemoryError("killed")))
        words = [*PRETRAIN, "out=runs/one", "data.path=book.txt"]
        assert glassbox(words, capsys)[0] == 1
    run = home / "runs" / "one"
    first = (run / "tokenizer" / "tokenizer.json").read_bytes()
    shard = (run / "data" / "train.json").stat().st_mtime_ns
    (run / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:  # the same data: nothing is made twice
        patch.setattr(Trainer, "run", lambda self: (_ for _ in ()).throw(MemoryError("killed")))
        assert glassbox([*words, "train.lr=0.01"], capsys)[0] == 1
    assert (run / "data" / "train.json").stat().st_mtime_ns == shard
    assert glassbox([*words, "tokenizer.vocab_size=280"], capsys)[0] == 0
    assert (run / "tokenizer" / "tokenizer.json").read_bytes() != first
    assert (run / "notes.txt").read_text() == "mine"


def test_a_begun_run_is_left_alone_until_fresh_is_said(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*PRETRAIN, "out=runs/one", "data.path=book.txt"]
    assert glassbox(words, capsys)[0] == 0
    code, errors = glassbox([*words, "train.lr=0.5"], capsys)
    assert code == 2
    assert "another recipe (train.lr: 0.04 -> 0.5)" in errors
    assert "--fresh" in errors
    code, errors = glassbox([*words, "data.path=bok.txt", "--fresh"], capsys)
    assert code == 2
    assert (home / "runs" / "one" / "DONE.json").exists()  # the wrong command moved nothing
    assert glassbox([*words, "train.lr=0.5", "--fresh"], capsys)[0] == 0
    assert (home / "runs" / "one.old-1" / "DONE.json").exists()
    assert "lr: 0.5" in (home / "runs" / "one" / "recipe.yaml").read_text()


def test_a_copied_run_folder_is_the_same_run(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*PRETRAIN, "data.path=book.txt"]
    assert glassbox([*words, "out=runs/one"], capsys)[0] == 0
    (home / "runs" / "one").rename(home / "runs" / "two")
    code, errors = glassbox([*words, "out=runs/two"], capsys)
    assert code == 0
    assert "is finished" in errors


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("source=webb.jsonl", "source=web.jsonl", "webb.jsonl"),
        ("steps=[{kind: nope}]", "steps=[]", "'steps.0.kind' = 'nope' is unknown"),
        ("steps=[{kind: perplexity, model: gone, max_perplexity: 9.0}]", "steps=[]", "gone"),
    ],
)
def test_curation_too(
    home: Path, capsys: pytest.CaptureFixture[str], wrong: str, right: str, said: str
) -> None:
    (home / "web.jsonl").write_text("\n".join(json.dumps({"text": f"page {n}"}) for n in range(9)))
    (home / "mine.yaml").write_text("stage: curate\nout: cleaned\nsource: web.jsonl\nworkers: 1\n")
    code, errors = glassbox(["data", "curate", "mine.yaml", wrong], capsys)
    assert (code, said in errors) == (2, True), errors
    assert not (home / "cleaned").exists()
    code, errors = glassbox(["data", "curate", "mine.yaml", right], capsys)
    assert code == 0, errors


def test_a_quickstarts_mistakes_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, said in (
        ("pretrain.change.model.num_heads=7", "num_heads = 7"),
        ("pretrain.change.train.stepz=7", "did you mean 'steps'"),
        ("world.language=xx", "world.language"),
    ):
        code, errors = glassbox(["quickstart", "--fast", "--out", "q", wrong], capsys)
        assert (code, said in errors) == (2, True), errors
        assert not (home / "q").exists()
    code, errors = glassbox(["quickstart", "--source", "bok.txt", "--out", "q"], capsys)
    assert (code, "bok.txt" in errors) == (2, True)
    assert not (home / "q").exists()


def test_tokenizer_training_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tokenizer", "train", "--vocab-size", "280", "--out", "tok"]
    for wrong in (["--corpus", "bok.txt"], ["--corpus", "book.txt", "--kind", "bpee"]):
        code, errors = glassbox([*words, *wrong], capsys)
        assert code == 2, errors
        assert not (home / "tok").exists()
    assert glassbox([*words, "--corpus", "book.txt"], capsys)[0] == 0
