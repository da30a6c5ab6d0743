"""What a stage is built with: the run folder, this rank, and each model and file opened once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from glassbox.adapters.base import weights_fingerprint
from glassbox.core.devices import resolve_device
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.core.runs import follow
from glassbox.core.yaml12 import load_yaml
from glassbox.data.heldout import Split, split_heldout
from glassbox.formats.open_model import find_model, open_model
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.stages.settings import RunSettings
from glassbox.tokenizers import Tokenizer
from glassbox.training.parallel.layout import Layout
from glassbox.training.protocols import BatchSource, Hook, Objective
from glassbox.tuning.reference import Reference

T = TypeVar("T")
MODELS = "models.json"
HELDOUT = "heldout.json"


@dataclass
class Stage:
    """What a recipe becomes before the loop runs."""

    model: CausalLM
    tokenizer: Tokenizer
    objective: Objective[Any]
    source: BatchSource[Any]
    hooks: Sequence[Hook] = ()
    chats: bool = True


class Setup:
    """Opens what a recipe names, each thing once, so that checking and building share it.

    A MODEL that is named by a run is resolved once: `models.json` in the run folder records which
    checkpoint it was and a hash of its weights, and a resumed run opens that very one.
    """

    def __init__(self, recipe: RunSettings, *, group: Group | None = None) -> None:
        self.recipe = recipe
        self.folder = Path(recipe.out)
        self.world = group or Group()
        self.group = self.world
        self.layout = Layout(self.world)
        self.device = resolve_device(recipe.device, local_rank=self.group.local_rank)
        self.split: dict[str, Any] | None = None
        self._kept: dict[str, Any] = {}
        self._models: dict[str, dict[str, str]] = {}
        self._given: set[str] = set()
        record = self.folder / MODELS
        if record.exists():
            self._models = json.loads(record.read_text(encoding="utf-8"))
            if (written := self.folder / "recipe.yaml").exists():
                self._models = follow(self._models, load_yaml(written).get("out"), recipe.out)

    @property
    def data_ranks(self) -> int:
        """Number of ranks that train on different rows."""
        parallel = self.recipe.parallel
        return self.world.world_size // (1 if parallel is None else parallel.tensor)

    def arrange(self) -> None:
        """Lay the ranks out as the recipe's `parallel` says; every rank calls it, once."""
        if self.recipe.parallel is None:
            return
        self.layout = self.recipe.parallel.build(
            self.world, self.device.type, precision=self.recipe.train.stated_precision
        )
        self.group = self.layout.data

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Return the result of `make`, called the first time that `key` is requested."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def forget(self, *keys: str) -> None:
        """Discard cached results, such as text that has been written to a shard."""
        for key in keys:
            self._kept.pop(key, None)

    def restart(self) -> None:
        """Forget which checkpoints an earlier run in this folder began from."""
        self._models.clear()

    def model(self, reference: str) -> tuple[CausalLM, Tokenizer]:
        """Open a MODEL on this rank's device; the same object is returned each time."""
        return self.once(f"model {reference}", lambda: self._open(reference))

    def another(self, reference: str) -> CausalLM:
        """Open a MODEL again, with separate weights."""
        return self._open(reference)[0]

    def apart(self, reference: str) -> tuple[CausalLM, Tokenizer]:
        """A MODEL that is a reward model or a teacher: opened once, and never the object that is trained."""
        return self.once(f"apart {reference}", lambda: self._open(reference))

    def path_of(self, reference: str) -> Path:
        """The folder or file of a MODEL, as recorded if the run has begun."""
        recorded = self._models.get(reference)
        if recorded is not None and Path(recorded["path"]).exists():
            return Path(recorded["path"])
        return find_model(reference)

    def _open(self, reference: str) -> tuple[CausalLM, Tokenizer]:
        path = self.path_of(reference)
        model, tokenizer, _ = open_model(path, code=self.recipe.code)
        fingerprint = weights_fingerprint(model)
        recorded = self._models.get(reference)
        if recorded is not None and recorded["weights"] != fingerprint:
            raise UserError(
                f"'{reference}' ('{path}') has other weights than when this run began; put the old "
                "ones back, or train into another folder"
            )
        self._models[reference] = {"path": path.resolve().as_posix(), "weights": fingerprint}
        return model.to(self.device), tokenizer

    def reference(self, init: str) -> Reference:
        """The model at the start: with an adapter that switches off the model itself, else a copy."""
        adapter = self.recipe.adapter
        if adapter is not None and not (adapter.trains_base or adapter.stands_alone):
            return Reference(self.model(init)[0], adapted=True)
        return Reference(self.another(init))

    def hold_out(self, prompts: Sequence[Any], share: float) -> Split:
        """The seeded split of examples by their prompts; all are trained on where nothing is evaluated."""
        share = share if self.recipe.evaluates else 0.0
        split = split_heldout(prompts, share, self.recipe.seed)
        self.split = {
            "share": share,
            "seed": self.recipe.seed,
            "examples": len(prompts),
            "heldout": split.heldout,
        }
        return split

    def record(self) -> None:
        """Record which checkpoints the models were, and which examples are held out."""
        write_json(self.folder / MODELS, self._models)
        if self.split is not None and self.split["heldout"]:
            write_json(self.folder / HELDOUT, self.split, indent=None)

    def main_first(self, prepare: Callable[[], object]) -> None:
        """Let rank 0 make the files that all ranks then read."""
        if self.group.is_main:
            prepare()
        self.world.barrier()

    def metric_hooks(self, tokenizer: Tokenizer) -> list[Hook]:
        """The recipe's user-defined metrics."""
        config = self.recipe.evaluation
        return [
            metric.build(tokenizer, every=config.every, group=self.group)
            for metric in config.metrics
        ]

    def task_hooks(self, tokenizer: Tokenizer) -> list[Hook]:
        """The recipe's evaluation tasks."""
        config = self.recipe.evaluation
        if config.tasks is None:
            return []
        return [config.tasks.build(tokenizer, every=config.every)]

    def sample_hooks(self, tokenizer: Tokenizer) -> list[Hook]:
        """The hook that samples from the recipe's prompts, if it has any."""
        from glassbox.evaluation.hooks import SampleHook

        config = self.recipe.evaluation
        if not (config.prompts and config.sample_every):
            return []
        return [
            SampleHook(
                tokenizer,
                config.prompts,
                every=config.sample_every,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=self.recipe.seed,
            )
        ]
