"""The models that the studio was started with, each opened when it is first used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.formats.checkpoints import checkpoint_step, list_checkpoints
from glassbox.formats.open_model import OFFLINE, STAGE_ORDER, find_model, open_on
from glassbox.inference import Engine
from glassbox.inference.cache_size import choose_cache_tokens
from glassbox.models.causal_lm import CausalLM
from glassbox.serving.bodies import Limits
from glassbox.serving.service import Service
from glassbox.tokenizers import Tokenizer
from glassbox.tokenizers.prefix import text_prefix

MAX_RUNNING = 8
"""Answers that one model gives at the same time."""
_CACHE_TOKENS = 65_536
_DEPTH = 4


@dataclass(frozen=True)
class Opened:
    """A model that is in memory: its engine runs in the thread of `service.worker`.

    shared: the thread is another server's, which starts and ends it.
    """

    name: str
    model: CausalLM
    tokenizer: Tokenizer
    engine: Engine
    service: Service
    path: Path
    shared: bool = False

    def facts(self) -> dict[str, Any]:
        """What the page shows of it."""
        config = self.model.config
        return {
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "num_layers": len(self.model.blocks),
            "hidden_size": config.hidden_size,
            "num_parameters": sum(p.numel() for p in self.model.parameters()),
            "chats": self.tokenizer.chat_template is not None,
            "path": str(self.path),
        }


def open_for_studio(name: str, device: str = "cpu") -> Opened:
    """Open a model by what the command line would call it, ready to answer.

    Raises UserError for what is missing or damaged.
    """
    model, tokenizer, path = open_on(name, device)
    context = model.config.context_length
    wanted = min(MAX_RUNNING * context, max(context, _CACHE_TOKENS))
    engine = Engine(
        model,
        tokenizer,
        max_batch=MAX_RUNNING,
        cache_tokens=choose_cache_tokens(wanted, model).tokens,
        token_budget=512,
        keep_prefixes=True,
    )
    service = Service(
        engine,
        tokenizer,
        name=name,
        model=model,
        limits=Limits(max_running=MAX_RUNNING, max_queue=64),
        prompt_prefix=text_prefix(tokenizer),
    )
    return Opened(name, model, tokenizer, engine, service, path)


class Shelf:
    """Models by name; those least recently used are closed once more than `most` are open.

    names: as on the command line: a folder, a file, a run, RUN@step-N, a name. Only these, and the
    checkpoints of runs that lie under `runs`, can be opened: the page cannot name other files.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        runs: Callable[[], Sequence[str]] = tuple,
        device: str = "cpu",
        most: int = 4,
        opening: Callable[[str, str], Opened] = open_for_studio,
    ) -> None:
        self._names = list(dict.fromkeys(names))
        self._runs = runs
        self._device = device
        self._most = most
        self._opening = opening
        self._open: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._faults: dict[str, str] = {}

    def names(self) -> list[str]:
        """Everything that can be opened, in the order of the command line, then by run and step."""
        found = dict.fromkeys(self._names)
        for run in self._runs():
            steps = [checkpoint_step(path) for path in list_checkpoints(Path(run) / "checkpoints")]
            if steps:
                found[run] = None
            found |= dict.fromkeys(f"{run}@step-{step}" for step in steps)
        return list(found)

    def cards(self) -> list[dict[str, Any]]:
        """Each name, whether it is open, and if so its facts."""
        with self._lock:
            opened = dict(self._open)
        return [
            {
                "name": name,
                "open": name in opened,
                "fault": self._faults.get(name),
                **(opened[name].facts() if name in opened else {}),
            }
            for name in self.names()
        ]

    def open(self, name: str) -> Opened:
        """The model, opened where it is not. Takes seconds: call it in a thread.

        Raises UserError for a name that is not among `names`.
        """
        with self._lock:
            found = self._open.get(name)
            if found is not None:
                self._open.move_to_end(name)
                return found
            if name not in self.names():
                raise UserError(
                    f"there is no model {name[:100]!r} here; start glassbox studio with it"
                )
            try:
                found = self._opening(name, self._device)
            except UserError as error:
                self._faults[name] = str(error)
                raise
            self._faults.pop(name, None)
            if not found.shared:
                found.service.worker.start()
            self._open[name] = found
            self._close_the_oldest()
            return found

    def opened(self) -> list[Opened]:
        """Those in memory."""
        with self._lock:
            return list(self._open.values())

    def close(self) -> None:
        """Close all."""
        with self._lock:
            for one in self._open.values():
                if not one.shared:
                    one.service.close()
            self._open.clear()

    def _close_the_oldest(self) -> None:
        older = list(self._open.items())[:-1]
        idle = [name for name, one in older if one.service.idle and not one.shared]
        while len(self._open) > self._most and idle:
            self._open.pop(idle.pop(0)).service.close()


def look_at(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """What the command line names: models to chat with, and folders in which runs lie.

    A run is both. Raises UserError for what is neither, and for a named model that is not installed.
    """
    models: list[str] = []
    folders: list[Path] = []
    for word in words:
        path = Path(word)
        runs = find_runs(path) if path.is_dir() else []
        if runs:
            folders.append(path)
        if _is_model(word):
            models.append(word)
        elif not runs and not path.is_dir():
            find_model(word)  # says what it looked for
        elif not runs:
            folders.append(path)  # runs may come
    return models, folders


def _is_model(word: str) -> bool:
    if word in OFFLINE:
        find_model(word)  # says what to install
        return True
    try:
        find_model(word)
    except UserError:
        return False
    return True


def find_runs(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """Folders of training runs in a folder, itself included, in order of name and stage."""
    if (folder / "metrics.jsonl").is_file():
        return [folder]
    if depth == 0:
        return []
    try:
        inner = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError:
        return []
    stages = {name: place for place, name in enumerate(STAGE_ORDER)}
    inner.sort(key=lambda path: (stages.get(path.name, len(stages)), path.name))
    skipped = ("checkpoints", "data", "corpus", "tokenizer")
    return [run for path in inner if path.name not in skipped for run in find_runs(path, depth - 1)]
