"""The golden loss curve: thirty steps of a fixed tiny run, to the last bit.

A change that should not alter numbers reproduces it. One that should is followed by

    python tests/golden/loss_curve.py --write

which says how far the curve moved; that figure, and why, belong in the commit message.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from glassbox.core.environment import describe_environment
from glassbox.core.files import write_json
from support.tiny_run import TinyRun, metrics, tiny_trainer

GOLDEN = Path(__file__).with_name("loss_curve.json")
RUN = TinyRun(
    steps=30,
    lr=0.01,
    dropout=0.0,
    rows_per_step=8,
    rows_per_batch=3,
    evaluate_every=10,
    log_every=1,
    seed=0,
)


def environment() -> dict[str, str]:
    """What decides the last bit: the processor, the vector instructions in use, the libraries."""
    return {
        "processor": f"{describe_environment()['processor']} {_model_numbers()}".strip(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _model_numbers() -> str:
    """Family, model and stepping: clouds call many processors by one name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = [line.partition(":")[::2] for line in lines]
    found = {key.strip(): value.strip() for key, value in reversed(pairs)}
    return "/".join(found.get(key, "?") for key in ("cpu family", "model", "stepping"))


def train(**changes: Any) -> dict[str, Any]:
    """The curve as this machine makes it, in one thread."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny_trainer(Path(folder), RUN.model_copy(update=changes)).run()
        records = metrics(Path(folder))
    steps = [record for record in records if "loss" in record]
    return {
        "made_on": environment(),
        "loss": [float(record["loss"]).hex() for record in steps],
        "grad_norm": [float(record["grad_norm"]).hex() for record in steps],
        "valid_loss": [float(r["valid_loss"]).hex() for r in records if "valid_loss" in r],
    }


def furthest(first: dict[str, Any], second: dict[str, Any], key: str = "loss") -> float:
    """The largest difference between two curves."""
    pairs = zip(map(float.fromhex, first[key]), map(float.fromhex, second[key]), strict=True)
    return max(abs(a - b) for a, b in pairs)


if __name__ == "__main__":
    found = train()
    if "--write" in sys.argv[1:]:
        if GOLDEN.exists():
            old = json.loads(GOLDEN.read_text(encoding="utf-8"))
            print(f"the loss moved by at most {furthest(old, found):.3g} nats", file=sys.stderr)
        write_json(GOLDEN, found)
    else:
        print(json.dumps(found))
