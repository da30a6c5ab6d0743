"""Kill a quickstart with SIGKILL at random moments, resume it, and compare the weights bit by bit.

    python tests/support/kill_quickstart.py --kills 20

Run as a script it does so over all stages of `glassbox quickstart --fast`; the system tests call
`interrupted_run` with fewer kills and smaller stages.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("pretrain", "sft", "dpo", "grpo")


def command(out: Path, overrides: list[str]) -> list[str]:
    """The command line of a fast quickstart into `out`."""
    return [sys.executable, "-m", "glassbox", "quickstart", "--fast", "--out", str(out), *overrides]


def fingerprints(out: Path) -> dict[str, str]:
    """A checksum of every stage's final weights and optimizer state, and of the evaluations."""
    found = {}
    for stage in STAGES:
        (newest,) = sorted((out / stage / "checkpoints").glob("step-*"))[-1:]
        for name in ("model.safetensors", "training/optimizer.safetensors"):
            found[f"{stage}/{name}"] = hashlib.sha256((newest / name).read_bytes()).hexdigest()
    evaluations = json.loads((out / "evaluations.json").read_text(encoding="utf-8"))
    found["evaluations"] = json.dumps(evaluations, sort_keys=True)
    return found


def place(out: Path) -> str:
    """How far a run has come: the last stage with a folder and its newest checkpoint."""
    for stage in reversed(STAGES):
        if (out / stage).exists():
            steps = sorted((out / stage / "checkpoints").glob("step-*"))
            return f"{stage} {steps[-1].name if steps else 'before its first checkpoint'}"
    return "before training"


def interrupted_run(
    out: Path, overrides: list[str], *, kills: int, seconds: float, seed: int
) -> list[str]:
    """Run, kill after a random share of `seconds`, run again ..., then let it finish.

    `seconds` is what an unbroken run takes; each life gets between 5% and 35% of it, so that
    the moments spread over all stages. Returns where each kill struck.
    """
    chance = random.Random(seed)
    struck: list[str] = []
    while len(struck) < kills:
        process = subprocess.Popen(
            command(out, overrides), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=seconds * chance.uniform(0.05, 0.35) + 2.0)
            break  # it finished before the kill came
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            struck.append(place(out))
    subprocess.run(command(out, overrides), check=True, capture_output=True, text=True)
    return struck


def main() -> None:
    """Compare one unbroken run with as many killed ones as it takes to reach the number of kills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        whole = Path(folder) / "whole"
        subprocess.run(command(whole, arguments.overrides), check=True, capture_output=True)
        seconds = time.monotonic() - began
        expected = fingerprints(whole)
        print(f"unbroken: {seconds:.0f} s")
        done = attempt = 0
        while done < arguments.kills:
            out = Path(folder) / f"killed-{attempt}"
            struck = interrupted_run(
                out,
                arguments.overrides,
                kills=arguments.kills - done,
                seconds=seconds,
                seed=arguments.seed + attempt,
            )
            same = fingerprints(out) == expected
            for moment in struck:
                print(f"  killed at {moment}")
            print(f"run {attempt}: {len(struck)} kills, {'identical' if same else 'DIFFERENT'}")
            if not same:
                sys.exit(1)
            done += len(struck)
            attempt += 1
    print(f"{done} kills: final weights, optimizer states and evaluations identical to the bit")


if __name__ == "__main__":
    main()
