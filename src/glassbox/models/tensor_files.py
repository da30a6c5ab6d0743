"""Safetensors files, one or several with an index: checked before use, read a tensor at a time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.core.files import sync_folder

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping. Raises UserError naming the file and the line where it breaks."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"'{path.parent}' has no {path.name}; is it a model's folder?") from None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"'{path}' is no UTF-8 text; the file is damaged") from None
    except (json.JSONDecodeError, RecursionError) as error:
        place = (
            f" line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise UserError(f"'{path}' is not valid JSON{place}") from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds a {type(content).__name__}; expected a mapping of keys")
    return content


class TensorFiles:
    """All tensors of a model's folder, by name; a context manager that closes the files.

    Raises UserError for a folder without safetensors (pickles are never opened), for files that
    are truncated or otherwise damaged, and for an index that names what is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[str, tuple[str, Any]] = {}  # tensor -> file name, handle
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        if (self.folder / SINGLE).is_file():
            handle = self._open_one(SINGLE)
            self._files = dict.fromkeys(handle.keys(), (SINGLE, handle))
            return
        if not (self.folder / INDEX).is_file():
            raise UserError(self._no_weights())
        weight_map = read_json(self.folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"'{self.folder / INDEX}' has no 'weight_map'; the file is damaged")
        handles: dict[str, Any] = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise UserError(
                    f"'{self.folder / INDEX}': tensor '{name}' is said to be in {file!r}, "
                    "which is no file name"
                )
            if file not in handles:
                handles[file] = self._open_one(file)
                for held in handles[file].keys():  # noqa: SIM118
                    self._files[held] = (file, handles[file])
            if self._files.get(name, ("",))[0] != file:
                raise UserError(
                    f"'{self.folder / INDEX}' says that tensor '{name}' is in {file}, which lacks it"
                )

    def _open_one(self, file: str) -> Any:
        path = self.folder / file
        try:
            return self._stack.enter_context(safetensors.safe_open(path, framework="pt"))
        except FileNotFoundError:
            raise UserError(f"'{path}' is missing; copy the whole model again") from None
        except (safetensors.SafetensorError, OSError) as error:
            size = path.stat().st_size if path.is_file() else 0
            raise UserError(
                f"'{path}' ({size} bytes) is no whole safetensors file: {error}; "
                "it may be truncated: copy it again"
            ) from None

    def _no_weights(self) -> str:
        pickles = sorted([*self.folder.glob("*.bin"), *self.folder.glob("*.pt*")])
        if pickles:
            return (
                f"'{self.folder}' holds its weights only as '{pickles[0].name}', a pickle, which can "
                "run code when it is opened; open it once where you trust it with transformers and "
                "write it again with save_pretrained, which makes model.safetensors"
            )
        return f"'{self.folder}' has neither {SINGLE} nor {INDEX}; it holds no weights"

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """Every tensor there is."""
        return sorted(self._files)

    def path(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self.folder / self._files[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return tuple(self._files[name][1].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """A tensor's type in safetensors' words (F32, BF16, I64), without reading it."""
        return str(self._files[name][1].get_slice(name).get_dtype())

    def get(self, name: str) -> Tensor:
        """Read one tensor."""
        return self._files[name][1].get_tensor(name)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file so that `path` holds either its old content or all of the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(ready, temporary, metadata={"format": "pt"})
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
