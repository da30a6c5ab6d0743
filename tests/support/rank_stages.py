"""Every kind of stage, run on as many ranks as torchrun has started: FOLDER HOME NAME ..."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from glassbox.core.distributed import process_group
from glassbox.runs.train import run_recipe
from support.stages import TRAIN, recipe


def main(arguments: list[str]) -> None:
    """One run after another in this process."""
    torch.set_num_threads(1)
    folder, home = Path(arguments[0]), Path(arguments[1])
    train = {**TRAIN, "steps": 3, "checkpoint_every": 0}
    with process_group("cpu") as group:
        for name in arguments[2:]:
            done = run_recipe(recipe(home, folder / name, name, train=train), group=group)
            assert done["status"] == "finished", name
            group.barrier()


if __name__ == "__main__":
    main(sys.argv[1:])
