"""Checkpoint folders: their names, completeness, and checksums.

The training state in them is described in `training.checkpoint`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from glassbox.core.errors import UserError
from glassbox.core.files import checksum, read_limited

COMPLETE = "COMPLETE"
PREFIX = "step-"
BEST = "best.json"
"""In a run folder: the step of the checkpoint that was the best by the run's own measure."""
MAX_MANIFEST_BYTES = 8 << 20
_READ = (
    "*.safetensors", "training/*", "model.safetensors.index.json", "config.json",
    "generation_config.json", "adapter_config.json", "adapter_base.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja", "tokenizer.model", "vocab.bpe", "encoder.json",
)  # fmt: skip
"""Every file of a checkpoint that is read; who adds a note does no harm."""


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


def choose_checkpoint(run: Path, which: str | None = None) -> Path | None:
    """A complete checkpoint of a run folder, or None.

    which: "best" (by best.json), "last", "step-N"; None: the best if one is recorded, else the
        last. Raises UserError if it does not exist; prints a note if a newer one is incomplete.
    """
    found = list_checkpoints(run / "checkpoints")
    if not found:
        return None
    if which is None or which == "best":
        best = _best_step(run)
        chosen = next((path for path in found if checkpoint_step(path) == best), None)
        if chosen is not None:
            return chosen
        lost = None if best is None else run / "checkpoints" / checkpoint_name(best)
        if lost is not None and which == "best":
            raise UserError(f"'{lost}', the best, is not whole (no COMPLETE file); take {run}@last")
        if lost is not None:
            print(
                f"  '{lost}', the best checkpoint, is not whole (no COMPLETE file); taking the last",
                file=sys.stderr,
            )
        if which == "best":
            raise UserError(
                f"'{run}' keeps no best checkpoint; train with train.best_metric, or take {run}@last"
            )
    elif which != "last":
        step = int(which.removeprefix(PREFIX))
        chosen = next((path for path in found if checkpoint_step(path) == step), None)
        if chosen is None:
            steps = ", ".join(str(checkpoint_step(path)) for path in found)
            raise UserError(f"'{run}' has no complete checkpoint of step {step}; it has {steps}")
        return chosen
    newest = [p for p in (run / "checkpoints").glob(f"{PREFIX}[0-9]*") if p.name > found[-1].name]
    if newest:
        print(
            f"  '{max(newest)}' has no COMPLETE file, so it is not whole; taking '{found[-1].name}'",
            file=sys.stderr,
        )
    return found[-1]


def say_if_unfinished(path: Path) -> None:
    """Print a note on standard error if a folder looks like a checkpoint but has no COMPLETE."""
    ours = re.fullmatch(rf"{PREFIX}\d+", path.name) or (path / "training" / "state.json").exists()
    if path.is_dir() and ours and not (path / COMPLETE).exists():
        print(
            f"  '{path}' has no COMPLETE file: it was not finished or was copied in part, and its files "
            "cannot be checked for damage",
            file=sys.stderr,
        )


def _best_step(run: Path) -> int | None:
    try:
        return int(json.loads(read_limited(run / BEST, 1 << 16))["step"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def verify_checkpoint(path: Path) -> None:
    """Compare every file with what COMPLETE recorded. Raises UserError naming the first that differs."""
    try:
        manifest = json.loads(read_limited(path / COMPLETE, MAX_MANIFEST_BYTES))
        if not isinstance(manifest, dict) or "training/state.json" not in manifest:
            raise ValueError("it does not list a checkpoint's files")
        for name, written in manifest.items():
            inside = Path(name).parts
            if (
                not inside
                or Path(name).is_absolute()
                or ".." in inside
                or not isinstance(written, str)
            ):
                raise ValueError(f"it lists {name[:100]!r}, which is no file of a checkpoint")
    except FileNotFoundError:
        raise UserError(f"'{path}' has no COMPLETE file: it is no finished checkpoint") from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(
            f"'{path / COMPLETE}' is damaged ({error}); "
            "delete this folder to resume from the checkpoint before it"
        ) from None
    files = [file for pattern in _READ for file in path.glob(pattern)]
    present = [file.relative_to(path).as_posix() for file in files]
    for name in sorted(present):
        if name not in manifest:
            raise UserError(
                f"checkpoint '{path}': '{name}' is not among the files that were written "
                "(COMPLETE does not list it); delete this folder to resume from the checkpoint before it"
            )
    for name, written in manifest.items():
        file = path / name
        found = None
        if file.is_file():  # of another length, or a device, it need not be read
            size = file.stat().st_size
            found = checksum(file) if written.startswith(f"{size}-") else f"{size} bytes"
        if found != written:
            what = "is missing" if found is None else f"is damaged ({found}, not {written})"
            raise UserError(
                f"checkpoint '{path}': '{name}' {what}; "
                "delete this folder to resume from the checkpoint before it"
            )
