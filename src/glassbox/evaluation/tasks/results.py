"""The result files of an evaluation.

`results.json`, format 1:

    format, format_version  "glassbox-evaluation", 1
    model                   name, kind, sha256, tokenizer_sha256, chat_template_sha256, bos, dtype, ...
    settings                tasks, num_fewshot, limit, seed, apply_chat_template, system_prompt, ...
    versions                glassbox, python, torch
    tasks.NAME              alias, version, sha256 (of the spec and its functions), documents_sha256,
                            output, num_fewshot, n (evaluated), n_total, samples (file name or null),
                            metrics."METRIC,FILTER": value, standard_error, n, higher_is_better,
                            aggregation, and where they exist baseline and centred
    tasks.NAME.contamination  where it was asked for: ngram, shards, judged, too_short, clean,
                            contaminated, mean_overlap, items (doc_id, overlap) with any, clean_metrics
    groups.NAME             alias, tasks, metrics as above

`samples_TASK.jsonl`, a line for each document and filter, in the harness's fields: doc_id, doc, target,
arguments, resps, filtered_resps, filter, metrics, doc_hash, prompt_hash, target_hash, and each metric's
value by its name; beside them num_tokens (of each continuation) and cluster (the passage that several
documents share; null where each stands alone). Two files of one task are compared line by line: lines
of equal (doc_id, filter) and doc_hash are the same item. Neither file holds a time: an evaluation that
was killed and resumed writes the same bytes. Times and counts of requests are in `timing.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer, write_json
from glassbox.core.version import __version__

FORMAT, FORMAT_VERSION = "glassbox-evaluation", 1
RESULTS, TIMING = "results.json", "timing.json"


def versions() -> dict[str, str]:
    """Of what decides a score beside model and task."""
    import torch

    return {
        "glassbox": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def folder_name(model: str) -> str:
    """A model's name as a folder's.

    >>> folder_name("runs/quickstart/sft")
    'runs--quickstart--sft'
    """
    name = re.sub(r"[^A-Za-z0-9._@-]+", "--", model).strip("-.") or "model"
    return name if len(name) <= 100 else name[-100:].lstrip("-.")


def samples_name(task: str) -> str:
    """The file of a task's samples."""
    return f"samples_{re.sub(r'[^A-Za-z0-9._-]+', '_', task)}.jsonl"


def write_results(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write `results.json`, whole or not at all."""
    write_json(folder / RESULTS, results)
    return folder / RESULTS


def write_samples(folder: Path, task: str, samples: Sequence[Mapping[str, Any]]) -> str:
    """Write a task's samples, whole or not at all; the file's name."""
    name = samples_name(task)
    with atomic_writer(folder / name) as stream:
        for sample in samples:
            line = json.dumps(plain(sample), ensure_ascii=False)
            stream.write(line.encode("utf-8", "replace") + b"\n")
    return name


def read_results(path: Path | str) -> dict[str, Any]:
    """A result file, or the one in a folder. Raises UserError for what is none."""
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no result file at '{path}': {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"'{path}' is no result file of `glassbox eval --tasks ... --out DIR`")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"'{path}' has format_version {content.get('format_version')}; this version reads "
            f"{FORMAT_VERSION}"
        )
    return content


def read_samples(path: Path | str, task: str) -> Iterator[dict[str, Any]]:
    """The samples of a task beside a result file. Raises UserError where they were not written."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    file = folder / samples_name(task)
    if not file.is_file():
        raise UserError(f"no '{file}'; evaluate with --log-samples")
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def digest(value: Any) -> str:
    """SHA-256 of a value's text, or of its JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON holds it: NaN and infinities as null, tuples as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
