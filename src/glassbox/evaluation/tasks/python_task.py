"""Tasks of the user's own: `--tasks my.py:task`.

`path` names a `TaskSpec`, or a function without arguments that returns one. It is FILE.py:NAME,
PACKAGE.MODULE:NAME, or the name of an entry point of the group `glassbox`.
"""

from __future__ import annotations

from glassbox.core.errors import UserError
from glassbox.core.plugins import check_call, entry_point_names, explained, load_object
from glassbox.evaluation.tasks.task import TaskSpec

_WHAT = "--tasks"


def is_path(name: str) -> bool:
    """Whether a name of a task is a path to code, or an entry point's name."""
    return ":" in name or name in entry_point_names()


def load_task(path: str) -> TaskSpec:
    """The task that a path names.

    Raises UserError if it cannot be loaded, is no TaskSpec and returns none.
    """
    found = load_object(path)
    if not isinstance(found, TaskSpec) and callable(found):
        check_call(found, _WHAT, path, [], {})
        with explained(_WHAT, path):
            found = found()
    if not isinstance(found, TaskSpec):
        raise UserError(
            f"{_WHAT}: '{path}' is a {type(found).__name__}; name a TaskSpec, or a function that "
            "returns one"
        )
    return found
