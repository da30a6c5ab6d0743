"""Run tiny_run in forked children and kill them; then let one finish.

python tests/support/kills.py FOLDER (never | events=STRIDE | random=SEED) key=value ...

FOLDER/whole is never killed. `events`: FOLDER/killed-K is killed before its K-th change of a file, for
every STRIDE-th K. `random`: FOLDER/killed is killed at random moments, again and again.

The parent has imported everything and computed nothing, so that a child is as fresh as a process
started anew, some seconds sooner. Prints how many children were killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from support.tiny_run import main as run

FILE_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def kill_before(event_number: int, folder: Path) -> list[int]:
    """Count changes of files under `folder`; die before the one of this number."""
    count = [0]
    root = str(folder)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if not (writes or event in FILE_CHANGES) or not str(arguments[0]).startswith(root):
            return
        count[0] += 1
        if count[0] == event_number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return count


def attempt(
    folder: Path, options: list[str], *, event: int = 0, delay: float | None = None
) -> bool:
    """One child; whether it was killed. An error in it ends this program."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count = kill_before(event, folder)
            status = run([str(folder), *options])
            (folder / "events").write_text(str(count[0]))
        finally:
            os._exit(status)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"the run ended with {os.WEXITSTATUS(status)}")
    return False


def main(arguments: list[str]) -> None:
    """Kill as told, then finish."""
    folder, options = Path(arguments[0]).resolve(), arguments[2:]
    kind, _, number = arguments[1].partition("=")
    whole = folder / "whole"
    began = time.monotonic()
    attempt(whole, options)
    seconds = time.monotonic() - began
    killed = 0
    if kind == "events":
        events = int((whole / "events").read_text())
        for event in range(2, events, int(number)):
            killed += attempt(folder / f"killed-{event}", options, event=event)
            attempt(folder / f"killed-{event}", options)
    elif kind == "random":
        generator = random.Random(int(number))
        run_folder = folder / "killed"
        while killed < 12 and not (run_folder / "DONE.json").exists():
            killed += attempt(run_folder, options, delay=generator.uniform(0.05, 0.3) * seconds)
        attempt(run_folder, options)
    print(killed)


if __name__ == "__main__":
    main(sys.argv[1:])
