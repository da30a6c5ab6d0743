"""Fields of a task's prompt: a column's name, a template, a function, or the value itself."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from typing import Any

import jinja2

from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.functions import Function
from glassbox.sandbox.template_process import shared_template_process
from glassbox.sandbox.templates import TemplateSandbox

Doc = dict[str, Any]


class Renderer:
    """Renders the templates of one task: ours here, others' in a process of their own.

    where: how messages name the task.
    """

    def __init__(self, where: str, *, trusted: bool) -> None:
        self.where = where
        self._here = TemplateSandbox("task") if trusted or os.name != "posix" else None
        self._compiled: dict[str, jinja2.Template] = {}

    def render(self, template: str, doc: Mapping[str, Any], field: str) -> str:
        """The text of a template. Raises UserError naming task and field, whatever the template does."""
        if "{{" not in template and "{%" not in template and "{#" not in template:
            return template
        try:
            if self._here is None:
                return shared_template_process().render(template, doc, "task")
            if template not in self._compiled:
                self._compiled[template] = self._here.compile_guarded(template)
            return self._here.render_guarded(self._compiled[template], dict(doc))
        except UserError as error:
            said = str(error).removeprefix("chat_template ")
            raise UserError(f"{self.where}: the template of '{field}' {said}") from None

    def value(self, source: Any, doc: Doc, features: Mapping[str, Any], field: str) -> Any:
        """What a field is for a document: of text a column's value or the rendered template."""
        if isinstance(source, Function):
            try:
                return source.load()(doc)
            except UserError:
                raise
            except Exception as error:  # a row that lacks what the function reads
                raise UserError(
                    f"{self.where}: '{field}' cannot be made of a document: "
                    f"{type(error).__name__}: {error}; are these the task's columns? "
                    f"there are {', '.join(features)}"
                ) from None
        if isinstance(source, str):
            return doc[source] if source in features else self.render(source, doc, field)
        return source

    def literal(self, text: str, field: str) -> Any:
        """A Python literal. Raises UserError where the text is none."""
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise UserError(
                f"{self.where}: '{field}' is {shown!r}, which is no list of options"
            ) from None
