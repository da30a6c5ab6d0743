"""Which tasks, where their documents come from, and how they are measured while training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError

if TYPE_CHECKING:
    from glassbox.evaluation.tasks.catalogue import Catalogue, OpenedTasks
    from glassbox.tokenizers import Tokenizer


class TaskSources(Spec):
    """Which tasks, and where they and their documents come from.

    tasks: names of tasks and groups. data: a folder of documents, in place of the hub.
    task_files, include_paths: lm-evaluation-harness's YAML files, and folders of them; the tasks of
        task_files are evaluated beside those named. allow_code: folders whose Python they may run.
    """

    tasks: tuple[str, ...] = ()
    data: str | None = Field(None, description="a folder of documents; None: the hub")
    task_files: tuple[str, ...] = ()
    include_paths: tuple[str, ...] = ()
    allow_code: tuple[str, ...] = ()

    def catalogue(self) -> Catalogue:
        """All tasks that can be named."""
        from glassbox.evaluation.tasks.catalogue import Catalogue

        return Catalogue.of(
            files=self.task_files, include_paths=self.include_paths, allow_code=self.allow_code
        )


class TrainingTasks(TaskSources):
    """Tasks that are evaluated while training: `evaluation.tasks` of a recipe.

    tasks: {tasks: [arc_easy, piqa], data: DIR, limit: 200}
    """

    every: int = Field(0, ge=0, description="steps between them; 0: as evaluation.every")
    limit: int = Field(100, ge=0, description="documents of each task; 0: all")
    num_fewshot: int | None = Field(None, ge=0, description="solved examples; None: the task's own")
    batch_tokens: int = Field(4096, gt=0)
    max_tokens: int | None = Field(None, gt=0, description="of generated answers")

    def check(self) -> None:
        """Raise UserError where a task, its documents or a prompt of theirs is not there."""
        self.open()

    def open(self) -> OpenedTasks:
        """Documents and prompts. Raises UserError where they are not there."""
        from glassbox.evaluation.tasks.catalogue import OpenedTasks, build_tasks
        from glassbox.evaluation.tasks.documents import Data

        catalogue = self.catalogue()
        specs, groups = catalogue.select([*self.tasks, *catalogue.named])
        tasks = build_tasks(specs, Data(self.data), num_fewshot=self.num_fewshot)
        items = {name: task.items(limit=self.limit) for name, task in tasks.items()}
        return OpenedTasks(tasks, groups, items)

    def build(self, tokenizer: Tokenizer, *, every: int) -> Any:
        """The hook of the training loop. Raises UserError where a task or its documents are not there."""
        from glassbox.evaluation.tasks.hook import TaskHook

        if not (self.every or every):
            raise UserError(
                "evaluation.tasks is never measured; set its `every`, or evaluation.every"
            )
        return TaskHook(
            self.open(),
            tokenizer,
            every=self.every or every,
            batch_tokens=self.batch_tokens,
            max_tokens=self.max_tokens,
        )
