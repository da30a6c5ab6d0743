"""The rows of tasks, from a folder (`--data`), a file, or the hub."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.core.plugins import explained
from glassbox.data.text import byte_lines
from glassbox.evaluation.tasks.functions import Rows
from glassbox.evaluation.tasks.spec import Documents

Row = dict[str, Any]
_ENDINGS = tuple(
    kind + packed
    for kind in (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".ndjson")
    for packed in ("", ".gz", ".zst", ".bz2", ".xz")
)
_FORMATS = {
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
}


class Data:
    """Opens documents, each split once.

    folder: looked in first. It may hold `TASK/SPLIT.jsonl` (or .json, .csv, .parquet, compressed
        or not) in the hub's columns, `TASK` being the task's name, the data set's (with or without
        its configuration as a folder below it), or the data as their authors publish them, in the
        forms that the built-in tasks know.
    offline: never ask the hub.
    """

    def __init__(self, folder: Path | str | None = None, *, offline: bool = False) -> None:
        self.folder = None if folder is None else Path(folder)
        self.offline = offline
        self._read: dict[str, Rows] = {}
        if self.folder is not None and not self.folder.is_dir():
            raise UserError(f"--data '{folder}' is no folder")

    def rows(self, documents: Documents, split: str, task: str) -> Rows:
        """The rows of a split as they are stored. Raises UserError that says what was looked for."""
        key = json.dumps(
            [
                documents.path,
                documents.name,
                documents.kwargs,
                str(documents.local),
                str(documents.rows),
                split,
                task,
            ],
            sort_keys=True,
            default=str,
        )
        if key not in self._read:
            self._read[key] = self._open(documents, split, task)
        return self._read[key]

    def _open(self, documents: Documents, split: str, task: str) -> Rows:
        found = self._made(documents, split, task)
        if found is None:
            found = self._in_folder(documents, split, task)
        if found is None:
            found = self._by_path(documents, split, task)
        if not found:
            raise UserError(f"task '{task}': its split '{split}' has no documents")
        columns = list(dict.fromkeys(name for row in found for name in row))
        return Rows({name: row.get(name) for name in columns} for row in found)

    def _made(self, documents: Documents, split: str, task: str) -> list[Row] | None:
        if documents.rows is None:
            return None
        with explained(f"task '{task}'", documents.rows.function):
            found = list(documents.rows.load()(split))
        for number, row in enumerate(found, start=1):
            if not isinstance(row, Mapping):
                raise UserError(
                    f"task '{task}': '{documents.rows.function}' gave a {type(row).__name__} as row "
                    f"{number} of split '{split}'; give mappings from column to value"
                )
        return [dict(row) for row in found]

    def _in_folder(self, documents: Documents, split: str, task: str) -> list[Row] | None:
        if self.folder is None:
            return None
        repo = (documents.path or "").rpartition("/")[2]
        places = [task, *([f"{repo}/{documents.name}"] if documents.name else []), repo]
        for place in dict.fromkeys(filter(None, places)):
            for ending in _ENDINGS:
                file = self.folder / place / f"{split}{ending}"
                if file.is_file():
                    return read_rows(file)
        if documents.local is not None:
            rows: list[Row] | None = documents.local.load()(self.folder, split)
            return rows
        return None

    def _by_path(self, documents: Documents, split: str, task: str) -> list[Row]:
        path = documents.path
        if path in (*_FORMATS, "text"):
            return self._named_files(documents, split, task)
        if path is not None and Path(path).is_dir():
            for ending in _ENDINGS:
                file = Path(path) / f"{split}{ending}"
                if file.is_file():
                    return read_rows(file)
        looked = "" if self.folder is None else f" in '{self.folder}' (nor {task}/{split}.jsonl)"
        if path is None:
            raise UserError(
                f"task '{task}': no documents of split '{split}'{looked}; give a folder that has "
                "them with --data"
            )
        if self.folder is not None or self.offline:
            raise UserError(
                f"task '{task}': no documents of split '{split}'{looked}; put {task}/{split}.jsonl "
                f"there, in the columns of hf:{path}, or leave --data out to fetch them from the hub"
            )
        return self._from_hub(documents, split, task)

    def _named_files(self, documents: Documents, split: str, task: str) -> list[Row]:
        files = documents.kwargs.get("data_files")
        if isinstance(files, Mapping):
            files = files.get(split)
        elif split != "train" and files is not None and not isinstance(files, Mapping):
            raise UserError(
                f"task '{task}': data_files name no split, so theirs is 'train', not '{split}'"
            )
        names = [files] if isinstance(files, str) else list(files or [])
        if not names:
            raise UserError(
                f"task '{task}': dataset_kwargs.data_files names no file of split '{split}'"
            )
        rows: list[Row] = []
        for name in map(str, names):
            if name.startswith("hf://datasets/"):
                rows += self._fetch(f"hf:{name.removeprefix('hf://datasets/')}", task)
            else:
                rows += read_rows(self._find_file(name, task), kwargs=documents.kwargs)
        return rows

    def _find_file(self, name: str, task: str) -> Path:
        for place in (Path(), *([self.folder] if self.folder is not None else [])):
            if (place / name).is_file():
                return place / name
        raise UserError(f"task '{task}': no file '{name}' (dataset_kwargs.data_files)")

    def _from_hub(self, documents: Documents, split: str, task: str) -> list[Row]:
        name = f"hf:{documents.path}"
        if documents.name:
            name += f"/{documents.name}"
        return self._fetch(f"{name}:{split}", task)

    def _fetch(self, name: str, task: str) -> list[Row]:
        from glassbox.data.hub import parse_name
        from glassbox.data.sources import data_files, fetch_hub

        try:
            folder = fetch_hub(parse_name(name))
        except UserError as error:
            raise UserError(f"task '{task}': {error}") from None
        rows: list[Row] = []
        for file in data_files(folder, ("jsonl", "json", "csv", "parquet")):
            rows += read_rows(file)
        return rows


def read_rows(file: Path, *, kwargs: Mapping[str, Any] | None = None) -> list[Row]:
    """The rows of a file of JSON lines, JSON, CSV or Parquet.

    Numbers in a CSV column whose every value is one are numbers. Raises UserError naming file and
    line for what cannot be read.
    """
    names = file.name.lower()
    kind = next(
        (one for one in (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson") if one in names), ".json"
    )
    if kind == ".parquet":
        return _read_parquet(file)
    if kind in (".csv", ".tsv"):
        return _read_csv(file, "\t" if kind == ".tsv" else ",", kwargs or {})
    if kind == ".json":
        whole = _decode(b"\n".join(byte_lines(file)), file)
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(whole)
            if isinstance(content, dict):
                field = (kwargs or {}).get("field")
                lists = [v for v in content.values() if isinstance(v, list)]
                content = content.get(field, lists[0] if len(lists) == 1 else [content])
            if isinstance(content, list) and all(isinstance(row, dict) for row in content):
                return content
    return _read_lines(file)


def _decode(content: bytes, file: Path, line: int = 0) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        where = f" line {line}" if line else ""
        raise UserError(f"'{file}'{where} is not UTF-8; convert the file") from None


def _read_lines(file: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(byte_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(_decode(line, file, number))
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"'{file}' line {number} is no JSON ({reason}); mend or remove it"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"'{file}' line {number}: expected an object, not {str(row)[:40]!r}")
        rows.append(row)
    return rows


def _read_csv(file: Path, delimiter: str, kwargs: Mapping[str, Any]) -> list[Row]:
    text = "\n".join(_decode(line, file, n) for n, line in enumerate(byte_lines(file), start=1))
    delimiter = str(kwargs.get("delimiter") or kwargs.get("sep") or delimiter)
    table = read_csv(text, file, delimiter)
    names = kwargs.get("column_names") or kwargs.get("names")
    if names is None:
        names, table = table[0], table[1:]
    elif kwargs.get("header") == 0:
        table = table[1:]
    for number, row in enumerate(table, start=1):
        if len(row) != len(names):
            raise UserError(
                f"'{file}' row {number} has {len(row)} columns, not {len(names)}; mend or remove it"
            )
    columns = {name: _typed([row[n] for row in table]) for n, name in enumerate(names)}
    return [{name: columns[name][n] for name in names} for n in range(len(table))]


def read_csv(text: str, file: Path, delimiter: str = ",") -> list[list[str]]:
    """Rows of a CSV text. Raises UserError naming the file for what is none."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:
        raise UserError(f"'{file}' is no CSV: {error}") from None
    if not rows:
        raise UserError(f"'{file}' is empty")
    return rows


def _typed(values: Sequence[str]) -> list[Any]:
    """A column's values: whole numbers, numbers or text, whichever all of them are."""
    for kind, pattern in ((int, r"-?\d{1,18}"), (float, r"-?\d+\.?\d*([eE][-+]?\d+)?")):
        if values and all(re.fullmatch(pattern, value) for value in values):
            return [kind(value) for value in values]
    return [value if value != "" else None for value in values]


def _read_parquet(file: Path) -> list[Row]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"'{file}' is Parquet: pip install 'glassbox-lm[data]'") from None
    from glassbox.data.curation.pieces import json_value

    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except Exception as error:  # whatever a damaged file raises
        raise UserError(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None
    return [{str(name): json_value(value) for name, value in row.items()} for row in rows]
