"""The quickstart as a user runs it: to the end, killed and resumed, on other texts, with bad words."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.kill_quickstart import fingerprints, interrupted_run

TINY = [
    "sizes.train_bytes=60000",
    "sizes.heldout=12",
    "sizes.unseen=8",
    "sizes.chats_train=40",
    "sizes.chats_heldout=8",
    "sizes.questions_heldout=8",
    "sizes.arithmetic_train=30",
    "sizes.arithmetic_heldout=8",
    "sizes.preferences_train=24",
    "sizes.preferences_heldout=8",
    "tokenizer.vocab_size=400",
    "pretrain.change.train.steps=20",
    "pretrain.change.train.schedule.warmup_steps=3",
    "pretrain.change.train.checkpoint_every=3",
    "pretrain.change.evaluation.every=10",
    "pretrain.change.model.hidden_size=32",
    "sft.change.train.steps=12",
    "sft.change.train.schedule.warmup_steps=2",
    "sft.change.train.checkpoint_every=3",
    "sft.change.evaluation.every=6",
    "dpo.change.train.steps=6",
    "dpo.change.train.schedule.warmup_steps=1",
    "dpo.change.train.checkpoint_every=2",
    "grpo.change.train.steps=4",
    "grpo.change.train.schedule.warmup_steps=1",
    "grpo.change.train.checkpoint_every=1",
    "grpo.change.grpo.max_tokens=12",
    "limits={documents: 6, unseen: 4, questions: 4, preferences: 4, arithmetic: 4}",
    "samples=1",
]


STAGES = ("pretrain", "sft", "dpo", "grpo")


def glassbox(
    *words: str, cwd: Path | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "glassbox", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        input=stdin,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quickstart") / "run"
    done = glassbox("quickstart", "--fast", "--out", str(out), *TINY)
    assert done.returncode == 0, done.stderr
    (out / "stdout.txt").write_text(done.stdout, encoding="utf-8")
    (out / "stderr.txt").write_text(done.stderr, encoding="utf-8")
    return out


def test_lengths_follow_from_the_steps_and_a_begun_run_keeps_them(tmp_path: Path) -> None:
    free = [word for word in TINY if not any(key in word for key in (".steps=", "dpo.", "grpo."))]
    small = [*free, "pretrain.change.data.row_length=64", "dpo=null", "grpo=null"]
    out = tmp_path / "run"
    done = glassbox("quickstart", "--steps", "12", "--out", str(out), *small)
    assert done.returncode == 0, done.stderr
    recipe = json.loads((out / "quickstart.json").read_text())
    steps = {one["name"]: one["summary"].get("steps") for one in recipe if one["name"] in STAGES}
    assert steps == {"pretrain": 12, "sft": 40}
    again = glassbox("quickstart", "--minutes", "3", "--out", str(out), *small)
    assert again.returncode == 0, again.stderr
    assert "measuring" not in again.stderr
    assert "is finished, nothing was changed" in again.stderr


def test_leaves_everything_it_promises(finished: Path) -> None:
    for stage in ("pretrain", "sft", "dpo", "grpo"):
        for name in ("recipe.yaml", "environment.json", "metrics.jsonl", "DONE.json"):
            assert (finished / stage / name).exists(), f"{stage}/{name}"
        evaluation = json.loads((finished / "evaluations.json").read_text())[stage]
        assert set(evaluation) == {"heldout", "unseen", "questions", "preferences", "arithmetic"}
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert not re.search(r"(src|href)=[\"']https?://", page)
    said = (finished / "stdout.txt").read_text(encoding="utf-8")
    for word in ("chat", "generate", "serve", "eval", "report"):
        assert f"glassbox {word} {finished}" in said
    assert "Traceback" not in (finished / "stderr.txt").read_text()


def test_second_run_into_a_finished_folder_changes_nothing(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    again = glassbox("quickstart", "--fast", "--out", str(finished), *TINY)
    assert again.returncode == 0
    assert "finished, nothing was changed" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before


def test_other_settings_in_the_same_folder_are_refused(finished: Path) -> None:
    other = glassbox("quickstart", "--fast", "--seed", "7", "--out", str(finished), *TINY)
    assert other.returncode == 2
    assert "seed: 0 -> 7" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("deleted", [["grpo"], ["corpus", "sft"]])
def test_what_was_deleted_is_done_again_to_the_same_bits(
    finished: Path, tmp_path: Path, deleted: list[str]
) -> None:
    """In a copy under another name, which is the same run; later stages that are there stay."""
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    for name in deleted:
        shutil.rmtree(out / name)
    kept = {p: p.stat().st_mtime_ns for p in (out / "pretrain").rglob("*") if p.is_file()}
    again = glassbox("quickstart", "--fast", "--out", str(out), *TINY)
    assert again.returncode == 0, again.stderr
    assert f"{out / deleted[0]}" in again.stderr
    assert "is gone" in again.stderr
    assert "Traceback" not in again.stderr
    assert fingerprints(out) == fingerprints(finished)
    for name in ("corpus/manifest.json", "sft/DONE.json", "grpo/DONE.json", "report.html"):
        assert (out / name).exists()
    if deleted == ["grpo"]:
        assert "Supervised fine-tuning: done before" in again.stderr
        assert {p: p.stat().st_mtime_ns for p in kept} == kept
    third = glassbox("quickstart", "--fast", "--out", str(out), *TINY)
    assert "finished, nothing was changed" in third.stderr


def test_killed_and_resumed_is_the_same_to_the_bit(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    os.environ["OMP_NUM_THREADS"] = "1"
    struck = interrupted_run(out, TINY, kills=4, seconds=20.0, seed=1)
    assert struck
    assert fingerprints(out) == fingerprints(finished)


def test_generate_writes_the_continuation_alone(finished: Path) -> None:
    words = ["generate", str(finished), "--prompt", "Once", "--max_tokens", "12", "--seed", "3"]
    one, two = glassbox(*words), glassbox(*words)
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout
    assert not one.stdout.startswith("Once")
    greedy = glassbox(
        "generate",
        str(finished),
        "--prompt",
        "-",
        "--temperature",
        "0",
        "--max-tokens",
        "4",
        stdin="A",
    )
    assert greedy.returncode == 0


def test_chat_reads_lines_and_commands(finished: Path) -> None:
    lines = "Who are you?\n/history\n/undo\n/nonsense\n/multi\nTwo\nlines\n.\n/quit\nnever read\n"
    done = glassbox("chat", str(finished), "--temperature", "0", "--max-tokens", "8", stdin=lines)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    assert "user: Who are you?" in done.stderr
    assert "no command /nonsense" in done.stderr
    assert "never read" not in done.stdout + done.stderr


def test_eval_and_report_and_recipes(finished: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = glassbox(
        "eval", str(finished / "sft"), str(finished), "--limit", "3", "--output", str(figures)
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(figures.read_text())) == 2
    assert glassbox("report", str(finished / "pretrain")).returncode == 0
    assert (finished / "pretrain" / "report.html").exists()
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time.", encoding="utf-8")
    assert glassbox("eval", str(finished), "--text", str(text)).returncode == 0


def test_text_of_ones_own_skips_what_it_cannot_feed(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(f"Chapter {i}. The cat sat on mat {i}." * 20 for i in range(80)))
    out = tmp_path / "run"
    done = glassbox("quickstart", "--fast", "--source", str(book), "--out", str(out), *TINY)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("skipped") == 3
    assert (out / "report.html").exists()
    assert not (out / "sft").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["quickstart", "--source", "no/such/file"], "no data at 'no/such/file'"),
        (["quickstart", "sizes.trian_bytes=3"], "did you mean 'train_bytes'"),
        (["quickstart", "--language", "fr"], "language"),
        (["quickstart", "--device", "tpu"], "device"),
        (["generate", "no/such/model"], "no model at 'no/such/model'"),
        (["train", "no-such-recipe.yaml"], "no recipe at"),
        (["train", "pretrain.yaml", "train.setps=3"], "did you mean 'steps'"),
        (["train", "pretrain.yaml", "data.path=no.txt"], "no data at 'no.txt'"),
        (["report", "no/such/run"], "no run folder"),
        (["eval", "no/such/model"], "no model at"),
        (["tokenizer", "encode", "no/such/tok", "x"], "no/such/tok"),
    ],
)
def test_bad_words_get_one_clear_line(tmp_path: Path, words: list[str], complaint: str) -> None:
    done = glassbox(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_command_with_an_example() -> None:
    whole = glassbox("--help")
    assert whole.returncode == 0
    for command in (
        "quickstart",
        "train",
        "data",
        "tokenizer",
        "generate",
        "chat",
        "eval",
        "report",
        "recipe",
    ):
        assert command in whole.stdout
        shown = glassbox(command, "--help")
        assert shown.returncode == 0
        assert f"glassbox {command}" in shown.stdout.replace("\n", " "), command
