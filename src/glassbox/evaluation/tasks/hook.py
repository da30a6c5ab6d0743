"""Tasks while training: their figures at some steps, as metrics of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassbox.evaluation.scoring import BATCH_TOKENS
from glassbox.evaluation.tasks.cache import Cache
from glassbox.evaluation.tasks.catalogue import OpenedTasks
from glassbox.evaluation.tasks.local import LocalModel
from glassbox.evaluation.tasks.run import ask, group_figures, judge_task
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers import Tokenizer


class TaskHook:
    """`task/NAME/METRIC` and `..._error` of each task and group; of several filters `METRIC,FILTER`.

    Documents are opened and all prompts written before it is built, so that what is missing stops a run
    before its first step. Every rank evaluates all of it: what ranks share stays in step.
    """

    def __init__(
        self,
        opened: OpenedTasks,
        tokenizer: Tokenizer,
        *,
        every: int,
        batch_tokens: int = BATCH_TOKENS,
        max_tokens: int | None = None,
    ) -> None:
        self.every = every
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.max_tokens = max_tokens
        self.tasks, self.groups, self.items = opened

    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """The figures of the model as it is now."""
        asked = LocalModel(
            model,
            self.tokenizer,
            "the model in training",
            batch_tokens=self.batch_tokens,
            max_tokens=self.max_tokens,
        )
        requests = {
            r.key: r for some in self.items.values() for item in some for r in item.requests
        }
        with Cache(None, {}) as cache:
            ask(asked, list(requests.values()), cache, label="tasks", show=False)
        found: dict[str, Any] = {
            name: judge_task(task, self.items[name], cache.answers)[0]
            for name, task in self.tasks.items()
        }
        for name, group in self.groups.items():
            if name not in found:
                found[name] = group_figures(group, found, self.groups)
        values: dict[str, float | str] = {}
        for name, figures in found.items():
            for key, entry in figures["metrics"].items():
                short = key.removesuffix(",none")
                values[f"task/{name}/{short}"] = entry["value"]
                if entry["standard_error"] is not None:
                    values[f"task/{name}/{short}_error"] = entry["standard_error"]
        return values
