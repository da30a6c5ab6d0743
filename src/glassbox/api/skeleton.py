"""`glassbox new KIND NAME`: a commented file for a part of one's own, and its test."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path

from glassbox.core.errors import UserError

KINDS = (
    "mixer",
    "optimizer",
    "schedule",
    "objective",
    "grader",
    "source",
    "step",
    "metric",
    "task",
)


def write_skeleton(kind: str, name: str, folder: Path) -> list[Path]:
    """Write NAME.py and test_NAME.py into `folder` and return both paths.

    Raises UserError for an unknown kind, for a name that is not a lower-case Python identifier, and if
    one of the files exists.
    """
    if kind not in KINDS:
        raise UserError(f"'{kind}' is no kind of part; use one of {', '.join(KINDS)}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"name '{name}': use small letters, digits and '_', such as my_{kind}")
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.py", folder / f"test_{name}.py"]
    for path in written:
        if path.exists():
            raise UserError(f"'{path}' is there already; give another name or delete it")
    sources = resources.files("glassbox.api") / "skeletons"
    class_name = "".join(part.capitalize() for part in name.split("_"))
    for path, source in zip(written, (f"{kind}.py.txt", f"test_{kind}.py.txt"), strict=True):
        text = (sources / source).read_text(encoding="utf-8")
        path.write_text(
            text.replace("@name@", name).replace("@Name@", class_name), encoding="utf-8"
        )
    return written
