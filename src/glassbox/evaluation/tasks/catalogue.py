"""All tasks and groups by name: the built-in ones, and those of YAML files that the caller names."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from glassbox.core.errors import UserError
from glassbox.evaluation.tasks import builtin
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.harness import HarnessTasks, names_of
from glassbox.evaluation.tasks.python_task import is_path, load_task
from glassbox.evaluation.tasks.spec import GroupSpec
from glassbox.evaluation.tasks.task import Item, Task, TaskSpec


@dataclass
class Catalogue:
    """Tasks and groups by name; `named`: those of files that the caller gave."""

    tasks: dict[str, TaskSpec] = field(default_factory=dict)
    groups: dict[str, GroupSpec] = field(default_factory=dict)
    harness: HarnessTasks = field(default_factory=HarnessTasks)
    named: list[str] = field(default_factory=list)

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

    @classmethod
    def of(
        cls,
        *,
        files: Sequence[str] = (),
        include_paths: Sequence[str] = (),
        allow_code: Sequence[str] = (),
    ) -> Catalogue:
        """The built-in ones, and those of lm-evaluation-harness's YAML files and folders of them.

        A file's task or group comes before a built-in one of its name. Raises UserError for a file
        that is none; what a task in it does that is not supported is said when it is selected.
        """
        found = cls.builtin()
        found.harness = HarnessTasks(allow_code=[Path(one) for one in allow_code])
        for folder in include_paths:
            found.harness.add_folder(Path(folder))
        found.named = [found.harness.add_file(Path(file)) for file in files]
        return found

    def select(self, names: Sequence[str]) -> tuple[list[TaskSpec], dict[str, GroupSpec]]:
        """The tasks of names of tasks and groups, each once, and the groups among them.

        A name may also be the path of a user's task, such as my.py:task.
        Raises UserError for a name that is neither, naming the nearest one.
        """
        tasks: dict[str, TaskSpec] = {}
        groups: dict[str, GroupSpec] = {}
        given: set[str] = set()

        def take(name: str) -> None:
            if name not in given and (converted := self.harness.convert(name)) is not None:
                given.add(name)
                given.update(one.task for one in converted[0])
                self.add(*converted)
            if name in self.tasks:
                tasks.setdefault(name, self.tasks[name])
            elif name in self.groups:
                if name not in groups:
                    groups[name] = self.groups[name]
                    for one in self.groups[name].tasks:
                        take(one)
            elif is_path(name):
                own = load_task(name)
                tasks[own.task] = own
            else:
                known = [*self.tasks, *self.groups, *names_of(self.harness)]
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


class OpenedTasks(NamedTuple):
    """Tasks on their documents, their groups, and what is asked."""

    tasks: Mapping[str, Task]
    groups: Mapping[str, GroupSpec]
    items: Mapping[str, list[Item]]
