"""A run killed anywhere and resumed is, to the last bit, the run that was never killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.tiny_run import everything
from support.tiny_run import main as run

SUPPORT = Path(__file__).parents[1] / "support"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    # the caller's own source too, where it is not the installed one
    "PYTHONPATH": os.pathsep.join([str(SUPPORT.parent), *sys.path]),
}


def kills(folder: Path, how: str, *options: str) -> int:
    """Run support/kills.py; how many runs it killed."""
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "kills.py"), str(folder), how, *options],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.splitlines()[-1])


STAGES = ["pretrain", "sft", "dpo", "orpo", "kto", "reward", "grpo", "rloo", "ppo", "distill"]


@pytest.fixture(scope="module")
def killed_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "kill_stages.py"), str(folder), *STAGES],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", STAGES)
def test_every_kind_of_stage_killed_at_five_moments_is_the_same_to_the_bit(
    killed_stages: Path, name: str
) -> None:
    """SIGKILL before the first, ..., the last fifth of a run's changes of files, then a resume."""
    expected = everything(killed_stages / name / "whole")
    assert expected["checkpoint"] == "step-00000004"
    folders = [folder for folder in (killed_stages / name).glob("killed-*") if folder.is_dir()]
    assert len(folders) == 5
    for folder in folders:
        assert everything(folder) == expected, folder.name


def test_killed_before_any_change_of_a_file(tmp_path: Path) -> None:
    """A kill before the k-th opening for writing, renaming, making or deleting, for many k.

    With a checkpoint every step and two kept, these are all the places at which a file that a
    resume reads can be half done. Dropout makes every bit hang on the random state.
    """
    options = ["steps=4", "checkpoint_every=1", "evaluate_every=2", "dropout=0.3", "log_every=3"]
    killed = kills(tmp_path, "events=7", *options)
    expected = everything(tmp_path / "whole")
    folders = sorted(tmp_path.glob("killed-*"))
    assert len(folders) == killed >= 15
    for folder in folders:
        assert everything(folder) == expected, folder.name


def test_killed_while_batches_are_made_ahead(tmp_path: Path) -> None:
    options = ["steps=4", "checkpoint_every=1", "dropout=0.3"]
    assert run([str(tmp_path / "plain"), *options]) == 0
    assert kills(tmp_path, "events=50", *options, "workers=2") >= 2
    for folder in [tmp_path / "whole", *tmp_path.glob("killed-*")]:
        assert everything(folder) == everything(tmp_path / "plain"), folder.name


@pytest.mark.slow
def test_killed_at_random_moments_again_and_again(tmp_path: Path) -> None:
    options = ["steps=40", "checkpoint_every=1", "evaluate_every=5", "dropout=0.2"]
    seed = random.randrange(10**6)
    assert kills(tmp_path, f"random={seed}", *options) >= 2, f"seed {seed}"
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole"), f"seed {seed}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_exits_and_resumes_to_the_same_bits(
    tmp_path: Path, number: signal.Signals
) -> None:
    options = ["steps=60", "checkpoint_every=0", "dropout=0.2", "log_every=1"]
    assert kills(tmp_path, "never", *options) == 0
    folder = tmp_path / "stopped"
    command = [sys.executable, str(SUPPORT / "tiny_run.py"), str(folder), *options]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    log = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert "stopping after this step" in errors
    stopped_at = [p.name for p in (folder / "checkpoints").iterdir()]
    assert len(stopped_at) == 1
    assert "step-00000000" < stopped_at[0] < "step-00000060"
    assert not (folder / "DONE.json").exists()
    assert subprocess.run(command, env=ENVIRONMENT, check=False, timeout=120).returncode == 0
    assert everything(folder) == everything(tmp_path / "whole")
