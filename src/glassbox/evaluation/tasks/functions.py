"""Python that belongs to a task: ours by name, a user's by file where the user has allowed its folder."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.plugins import load_object

BUILTIN = "glassbox.evaluation.tasks.builtin"


class Function(Spec):
    """A function of a built-in task (`hellaswag:clean`), or of a file of the user's (`FILE.py:name`)."""

    function: str = Field(description="MODULE:NAME of a built-in task, or FILE.py:NAME")

    def load(self) -> Callable[..., Any]:
        """The function itself. Raises UserError where there is none."""
        place, _, name = self.function.rpartition(":")
        if place.endswith(".py"):
            found = load_object(self.function)
        else:
            try:
                found = getattr(importlib.import_module(f"{BUILTIN}.{place}"), name)
            except (ImportError, AttributeError, ValueError):
                raise UserError(f"no function '{self.function}' among the built-in tasks") from None
        if not callable(found):
            raise UserError(f"'{self.function}' is no function")
        return found

    @property
    def digest(self) -> str:
        """Hash of the source, so that a result file shows that a function has changed."""
        place = self.function.rpartition(":")[0]
        if place.endswith(".py"):
            source = Path(place).read_bytes()
        else:
            source = inspect.getsource(inspect.getmodule(self.load())).encode()  # type: ignore[arg-type]
        return hashlib.sha256(source).hexdigest()


class Rows(list[dict[str, Any]]):
    """Documents as a user's `process_docs` expects them: the part of a `datasets.Dataset` that it uses."""

    @property
    def column_names(self) -> list[str]:
        """Names of all columns, in the order of their appearance."""
        return list(dict.fromkeys(name for row in self for name in row))

    @property
    def features(self) -> dict[str, None]:
        """The columns; their types are not known."""
        return dict.fromkeys(self.column_names)

    def map(self, function: Callable[..., dict[str, Any]], **options: Any) -> Rows:
        """Each row with what the function returns for it added; `remove_columns` are left out."""
        gone = options.get("remove_columns") or ()
        gone = {gone} if isinstance(gone, str) else set(gone)
        made = Rows()
        for index, row in enumerate(self):
            new = function(dict(row), index) if options.get("with_indices") else function(dict(row))
            kept = {name: value for name, value in row.items() if name not in gone}
            made.append({**kept, **new})
        return made

    def filter(self, function: Callable[[dict[str, Any]], bool], **options: Any) -> Rows:
        """The rows for which the function is true."""
        return Rows(row for row in self if function(dict(row)))

    def select(self, indices: Any, **options: Any) -> Rows:
        """The rows at these indices."""
        return Rows(self[index] for index in indices)
