"""Kill every kind of stage with SIGKILL at five moments, resume it, and say what then differs.

python tests/support/kill_stages.py FOLDER NAME ...

FOLDER/NAME/whole is never killed; FOLDER/NAME/killed-K is killed before its K-th change of a file. The
parent has imported everything and computed nothing (see kills.py). The moments differ from kind to kind.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from glassbox.runs.train import run_recipe
from support.kills import kill_before
from support.stages import make_home, recipe

MOMENTS = 5


def child(home: Path, out: Path, name: str, event: int = 0) -> bool:
    """One process that runs the stage, dying before this event; whether it was killed."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 2)
            count = kill_before(event, out)
            finished = run_recipe(recipe(home, out, name))["status"] == "finished"
            Path(f"{out}.events").write_text(str(count[0]))
            status = 0 if finished else 3
        finally:
            os._exit(status)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status) != 0:
        raise SystemExit(Path(f"{out}.log").read_text()[-3000:])
    return False


def main(arguments: list[str]) -> None:
    """Kill as told, then finish."""
    folder = Path(arguments[0]).resolve()
    home = folder / "home"
    process = os.fork()
    if process == 0:
        make_home(home)
        os._exit(0)
    os.waitpid(process, 0)
    for place, name in enumerate(arguments[1:]):
        out = folder / name
        out.mkdir()
        child(home, out / "whole", name)
        events = int((out / "whole.events").read_text())
        step = (events - 2) / MOMENTS
        for moment in range(MOMENTS):
            # spread over the run, and shifted by a seventh of the distance from kind to kind
            event = 2 + int(step * (moment + (place % 7) / 7))
            killed = out / f"killed-{event}"
            assert child(home, killed, name, event), f"{name} was over before event {event}"
            child(home, killed, name)


if __name__ == "__main__":
    main(sys.argv[1:])
