"""An evaluation that is killed and started again: `python -m support.kill_evaluation FOLDER MOMENTS`.

Each attempt is a child process that is killed (SIGKILL) once so many groups of answers are on the disk. What is asked
is logged to FOLDER/asked.txt before it is answered.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.catalogue import Catalogue, build_tasks
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.local import LocalModel
from glassbox.evaluation.tasks.run import evaluate_tasks
from support.harness import write_rows
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TASKS = ("arc_easy", "lambada_openai", "mmlu_anatomy_generative", "wikitext")


class Logged(LocalModel):
    """Writes down which requests are answered, group by group, once they are."""

    log: Path
    pause: float = 0.0

    def answer(self, requests: Any, group: Any, wanted: set[int]) -> Iterator[tuple[int, Any]]:
        answers = list(super().answer(requests, group, wanted))
        time.sleep(self.pause)
        yield from answers


def evaluate(folder: Path, *, pause: float = 0.0) -> None:
    """One attempt."""
    tokenizer = tiny_tokenizer()
    model = Logged(
        tiny_chat_model(tokenizer, context_length=512),
        tokenizer,
        "tiny",
        batch_tokens=256,
        max_tokens=8,
    )
    model.pause = pause
    data = folder / "data"
    for name in TASKS:
        if not (data / name).exists():
            write_rows(data, name)
    specs, groups = Catalogue.builtin().select(TASKS)
    tasks = build_tasks(specs, Data(data), num_fewshot=1)
    evaluate_tasks(model, tasks, groups, folder=folder / "out", log_samples=True)


def lines(folder: Path) -> int:
    """Groups of answers on the disk."""
    return sum(file.read_bytes().count(b"\n") for file in (folder / "out").glob("requests-*.jsonl"))


def main(folder: Path, moments: list[int]) -> None:
    for moment in [*moments, None]:
        child = os.fork()
        if child == 0:
            evaluate(folder, pause=0.02)
            os._exit(0)
        if moment is None:
            assert os.waitpid(child, 0)[1] == 0
            return
        while lines(folder) < moment:
            done, status = os.waitpid(child, os.WNOHANG)
            assert not done, f"it ended before {moment} groups were there: {status}"
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(f"killed at {lines(folder)} groups", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(one) for one in sys.argv[2].split(",")])
