"""Checkpoint folders as files: their names, which are complete, and whether their bytes are those written.

What a checkpoint holds for training is `training.checkpoint`'s.
"""

from __future__ import annotations

import json
from pathlib import Path

from glassbox.core.errors import UserError
from glassbox.core.files import checksum

COMPLETE = "COMPLETE"
PREFIX = "step-"


def checkpoint_name(step: int) -> str:
    """Folder name of a step's checkpoint.

    >>> checkpoint_name(1000)
    'step-00001000'
    """
    return f"{PREFIX}{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in a `checkpoints/` folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.glob(f"{PREFIX}[0-9]*") if (p / COMPLETE).exists()]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix(PREFIX))


def verify_checkpoint(path: Path) -> None:
    """Compare every file with what COMPLETE recorded. Raises UserError naming the first that differs."""
    try:
        manifest = json.loads((path / COMPLETE).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or "training/state.json" not in manifest:
            raise ValueError("it does not list a checkpoint's files")
    except FileNotFoundError:
        raise UserError(f"'{path}' has no COMPLETE file: it is no finished checkpoint") from None
    except ValueError as error:
        raise UserError(
            f"'{path / COMPLETE}' is damaged ({error}); "
            "delete this folder to resume from the checkpoint before it"
        ) from None
    for name, written in manifest.items():
        file = path / name
        found = checksum(file) if file.is_file() else None
        if found != written:
            what = "is missing" if found is None else f"is damaged ({found}, not {written})"
            raise UserError(
                f"checkpoint '{path}': '{name}' {what}; "
                "delete this folder to resume from the checkpoint before it"
            )
