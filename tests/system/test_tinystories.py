"""`glassbox quickstart --source tinystories`: killed at each step, from a hub, with wrong options."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.pretend_hub import NAME, pretend_hub

STEPS = ["Story world", "Tokenizer", "Encoding", "Pre-training", "Report"]
SMALL = [
    "sizes.train_bytes=60000",
    "tokenizer.vocab_size=400",
    "pretrain.change.train.steps=12",
    "pretrain.change.train.schedule.warmup_steps=2",
    "pretrain.change.train.checkpoint_every=3",
    "pretrain.change.evaluation.every=6",
    "pretrain.change.model.hidden_size=32",
    "limits.documents=3",
]


def command(out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "glassbox", "quickstart", *words, "--out", str(out), *SMALL]


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLASSBOX_CACHE": str(home / "cache"), **more}


def results(out: Path) -> dict[str, str]:
    """Checksums of what each step made."""
    checkpoint = sorted((out / "pretrain" / "checkpoints").glob("step-*"))[-1]
    files = {
        "tokenizer": out / "tokenizer" / "tokenizer.json",
        "train.bin": out / "tokens" / "train.bin",
        "val.bin": out / "tokens" / "val.bin",
        "model": checkpoint / "model.safetensors",
        "optimizer": checkpoint / "training" / "optimizer.safetensors",
        "evaluations": out / "evaluations.json",
        "samples": out / "samples.json",
    }
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def killed_at(title: str, out: Path, home: Path) -> str:
    """Start it, kill it the moment it says that the step begins, and return what it said before."""
    process = subprocess.Popen(
        command(out, "--smoke"), stderr=subprocess.PIPE, text=True, env=environment(home)
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith(title) and "done before" not in line:
            if title == "Pre-training":  # in the middle, behind a checkpoint
                said += next(text for text in process.stderr if text.startswith("  step 6"))
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL, said
    return said


@pytest.mark.slow
def test_killed_at_each_step_it_ends_the_same_and_does_nothing_twice(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = subprocess.run(
        command(whole, "--smoke"), capture_output=True, text=True, env=environment(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "stands in for TinyStories: nothing is downloaded" in done.stderr
    assert "chat" not in done.stdout
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "From text to a model that writes" in page
    assert "stands in for TinyStories" in page
    for place, title in enumerate(STEPS):
        said = killed_at(title, broken, tmp_path)
        before = re.findall(r"^([A-Z][\w -]+).*: done before$", said, flags=re.MULTILINE)
        assert [name.split(",")[0] for name in before] == STEPS[
            : max(0, place - 1)
        ]  # one more was done since the last kill
    last = subprocess.run(
        command(broken, "--smoke"), capture_output=True, text=True, env=environment(tmp_path)
    )
    assert last.returncode == 0, last.stderr
    assert last.stderr.count("done before") == len(STEPS) - 1
    assert results(broken) == results(whole)
    lines = (broken / "pretrain" / "metrics.jsonl").read_text().splitlines()
    steps = [row["step"] for line in lines if "event" not in (row := json.loads(line))]
    assert steps == sorted(set(steps))
    assert not list((broken / "tokens").glob("*.parts"))


def test_a_size_on_a_set_of_the_hub(tmp_path: Path) -> None:
    """The real way: fetched (over a connection that breaks), encoded, trained; then nothing is left to do."""
    stories = [f"Once upon a time Mia had kite {n}. Tom {n % 7} wants it.\n" for n in range(600)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in stories).encode()
    words = ["--source", f"hf:{NAME}", "--size", "1m"]
    more = ["workers=1", "pretrain.change.data.row_length=64", "pretrain.change.data.rows_per_step=2",
            "pretrain.change.evaluation.sample_every=0", "pretrain.change.data.heldout_share=0.05"]  # fmt: skip
    with pretend_hub({"train.jsonl": lines}, cuts=1) as hub:
        env = environment(tmp_path, HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path / "hf"))
        run = [*command(tmp_path / "run", *words), *more]
        done = subprocess.run(run, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        sent = dict(hub.sent)
        again = subprocess.run(run, capture_output=True, text=True, env=env)
        assert hub.sent == sent
    assert "What it writes" in done.stdout
    assert len(lines) <= sent["train.jsonl"] <= 1.5 * len(lines)  # broken off half-way, once
    assert again.returncode == 0
    assert "finished, nothing was changed" in again.stderr
    note = json.loads((tmp_path / "run" / "tokens" / "tokens.json").read_text())
    assert sum(documents for documents, _ in note["files"].values()) == len(stories)


def test_a_set_that_cannot_be_fetched_leaves_nothing_behind(tmp_path: Path) -> None:
    env = environment(tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hf"))
    done = subprocess.run(
        command(tmp_path / "run", "--source", "tinystories"),
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--size", "2m"], "--size = '2m'; use one of 1m, 15m, 50m"),
        (["--size", "1m", "--smoke"], "--size and --smoke are both given"),
        (["--smoke", "--source", "shakespeare"], "stands in for tinystories, not for"),
        (["--source", "tinystories", "--fast"], "--fast is the story world's"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], complaint: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "run", *words), capture_output=True, text=True, env=environment(tmp_path)
    )
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
