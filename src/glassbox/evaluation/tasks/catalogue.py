"""All tasks and groups by name: the built-in ones, and those of YAML files that the caller names."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from glassbox.core.errors import UserError
from glassbox.evaluation.tasks import builtin
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.spec import GroupSpec
from glassbox.evaluation.tasks.task import Task, TaskSpec


@dataclass
class Catalogue:
    """Tasks and groups by name."""

    tasks: dict[str, TaskSpec] = field(default_factory=dict)
    groups: dict[str, GroupSpec] = field(default_factory=dict)

    @classmethod
    def builtin(cls) -> Catalogue:
        """The built-in ones, from all modules of `builtin`."""
        found = cls()
        for info in sorted(pkgutil.iter_modules(builtin.__path__), key=lambda one: one.name):
            module = importlib.import_module(f"{builtin.__name__}.{info.name}")
            found.add(getattr(module, "TASKS", ()), getattr(module, "GROUPS", ()))
        return found

    def add(self, tasks: Iterable[TaskSpec], groups: Iterable[GroupSpec] = ()) -> None:
        """Add tasks and groups; one of the same name replaces what was there."""
        self.tasks.update({one.task: one for one in tasks})
        self.groups.update({one.group: one for one in groups})

    def select(self, names: Sequence[str]) -> tuple[list[TaskSpec], dict[str, GroupSpec]]:
        """The tasks of names of tasks and groups, each once, and the groups among them.

        Raises UserError for a name that is neither, naming the nearest one.
        """
        tasks: dict[str, TaskSpec] = {}
        groups: dict[str, GroupSpec] = {}

        def take(name: str) -> None:
            if name in self.tasks:
                tasks.setdefault(name, self.tasks[name])
            elif name in self.groups:
                if name not in groups:
                    groups[name] = self.groups[name]
                    for one in self.groups[name].tasks:
                        take(one)
            else:
                known = [*self.tasks, *self.groups]
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "`glassbox eval --list` names all"
                raise UserError(f"no task or group '{name}'; {hint}")

        for name in names:
            take(name)
        if not tasks:
            raise UserError("no task to evaluate; give --tasks NAME,NAME")
        return list(tasks.values()), groups


def build_tasks(
    specs: Iterable[TaskSpec], data: Data, *, num_fewshot: int | None = None
) -> Mapping[str, Task]:
    """Each task on its documents."""
    return {spec.task: spec.build(data, num_fewshot=num_fewshot) for spec in specs}
