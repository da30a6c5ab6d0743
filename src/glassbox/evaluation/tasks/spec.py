"""The parts of a task as data: documents, prompt, few-shot examples; and groups of tasks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.evaluation.tasks.functions import Function

Text = int | str | Function
"""A column's name, a template, a number, or a function of the document."""
Options = str | tuple[str, ...] | Function
Target = int | str | tuple[int | str, ...] | Function


class Documents(Spec):
    """Where a task's rows come from.

    path, name: a data set of the hub and its configuration; or json, csv, parquet with
        `kwargs.data_files`; or a folder.
    test, validation, train: names of splits. The first two of these that is named is evaluated.
    process: rows to rows, before anything else.
    rows: split to rows, in place of all others.
    local: (folder, split) to rows in the hub's columns, for `--data` folders of another form.
    cluster: the column of the passage that several rows share, for the standard error.
    """

    path: str | None = None
    name: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    test: str | None = None
    validation: str | None = None
    train: str | None = None
    process: Function | None = None
    rows: Function | None = None
    local: Function | None = None
    cluster: str | None = None

    @property
    def evaluated(self) -> str | None:
        """The split whose rows are evaluated."""
        return self.test or self.validation


class Prompt(Spec):
    """How a document is put to the model.

    text, choices, target: of the document; see `Text`. Choices are the options of a multiple choice.
    description: stands before all; gen_prefix: begins the answer.
    """

    text: Text = ""
    choices: Options | None = None
    target: Target = ""
    description: str = ""
    gen_prefix: str | None = None
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"


class FewShot(Spec):
    """Solved examples before the question.

    count: how many unless the caller says; 0 here forbids any.
    split: where they come from: train, else validation, else the evaluated split, unless given.
    sampler: default (drawn by chance, seed 1234, document after document), first_n, or per_document
        (drawn from the evaluated documents themselves, seed 1234 + the document's number).
    samples: the examples themselves, in place of a split.
    The rest replaces the prompt's own for examples.
    """

    count: int | None = Field(None, ge=0)
    split: str | None = None
    sampler: Literal["default", "first_n", "per_document"] = "default"
    samples: tuple[dict[str, Any], ...] | Function | None = None
    process: Function | None = None
    text: Text | None = None
    choices: Options | None = None
    target: Target | None = None
    gen_prefix: str | None = None
    target_delimiter: str | None = None
    fewshot_delimiter: str | None = None


class GroupMetric(Spec):
    """A figure over a group's tasks: their mean, weighted by items or not."""

    metric: str
    weight_by_size: bool = True
    filters: tuple[str, ...] = ()


class GroupSpec(Spec):
    """Tasks (and groups) under one name.

    centred: the group's figure is the mean of (value - baseline) / (1 - baseline) over its tasks.
    """

    group: str
    alias: str | None = None
    about: str = ""
    tasks: tuple[str, ...]
    metrics: tuple[GroupMetric, ...] = ()
    centred: bool = False
