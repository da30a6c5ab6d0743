"""A teacher's most probable tokens at every target of a shard's rows, computed once and stored on
disk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from glassbox.core.devices import Precision, autocast
from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.data.loader import PackedRows, PackedSource
from glassbox.inference.evaluating import evaluating
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from glassbox.tuning.distillation.divergences import top_log_probs
from glassbox.tuning.distillation.objective import CachedBatch


class TeacherCache:
    """(rows, row_length, k) ids and log-probabilities, as two memory-mapped .npy files.

    ids.npy is int32, log_probs.npy float16 (rounding errors of about 1e-3 nats); cache.json
    describes them and is written last, so that a folder without it is recomputed.
    """

    def __init__(self, folder: Path) -> None:
        self.info = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
        self.ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
        self.log_probs = np.load(folder / "log_probs.npy", mmap_mode="r", allow_pickle=False)

    @classmethod
    def make(
        cls,
        folder: Path,
        teacher: CausalLM,
        rows: PackedRows,
        *,
        k: int,
        temperature: float,
        vocab_size: int,
        name: str,
        rows_per_batch: int = 8,
        precision: Precision = "float32",
    ) -> TeacherCache:
        """Open the cache in `folder`, or compute it with the teacher if it does not exist.

        Raises UserError if the folder has a cache of other rows or another teacher.
        """
        wanted: dict[str, Any] = {
            "teacher": name,
            "k": min(k, vocab_size),
            "temperature": temperature,
            "rows": len(rows),
            "row_length": rows.row_length,
            "data": rows.shard.info.get("files", {}).get(".bin"),
        }
        if (folder / "cache.json").exists():
            cache = cls(folder)
            for key, value in wanted.items():
                if cache.info.get(key) != value:
                    raise UserError(
                        f"'{folder}' is a cache made with {key} = {cache.info.get(key)}, here it is "
                        f"{value}; delete the folder to have it made again"
                    )
            return cache
        folder.mkdir(parents=True, exist_ok=True)
        shape = (len(rows), rows.row_length, wanted["k"])
        ids = open_memmap(folder / "ids.npy", mode="w+", dtype=np.int32, shape=shape)
        log_probs = open_memmap(folder / "log_probs.npy", mode="w+", dtype=np.float16, shape=shape)
        with torch.no_grad(), evaluating(teacher), autocast(teacher.device, precision):
            for first in range(0, len(rows), rows_per_batch):
                numbers = range(first, min(first + rows_per_batch, len(rows)))
                batch = rows.batch(numbers).to(teacher.device)
                hidden = teacher.hidden_states(batch.ids, documents=batch.documents)
                for place, number in enumerate(numbers):
                    at = batch.targets[place] != IGNORE
                    logits = teacher.logits(hidden[place][at])[:, :vocab_size]
                    best, scores = top_log_probs(logits, wanted["k"], temperature=temperature)
                    here = at.cpu().numpy()
                    ids[number, here] = best.cpu().numpy()
                    log_probs[number, here] = scores.cpu().numpy()
        ids.flush()
        log_probs.flush()
        write_json(folder / "cache.json", wanted)
        return cls(folder)


class CachedSource(PackedSource):
    """A `PackedSource` whose batches include the teacher's cached predictions; positions and
    resuming are the same.
    """

    def __init__(self, rows: PackedRows, cache: TeacherCache, **options: Any) -> None:
        super().__init__(rows, **options)
        self.cache = cache

    def batches(self, numbers: Sequence[Sequence[int]]) -> list[CachedBatch]:  # type: ignore[override]
        """The micro-batches of these rows."""
        batches = []
        for part in numbers:
            plain = self.rows.batch(part)
            batches.append(
                CachedBatch(
                    plain.ids,
                    plain.targets,
                    plain.documents,
                    torch.from_numpy(np.asarray(self.cache.ids[part], dtype=np.int64)),
                    torch.from_numpy(np.asarray(self.cache.log_probs[part], dtype=np.float32)),
                )
            )
        return batches
