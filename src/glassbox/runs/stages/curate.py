"""Curation: messy text to clean documents. It trains nothing; `runs.curate` carries it out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.data.curation.limits import RECORD_BYTES, RECORD_SECONDS
from glassbox.data.curation.shard_files import Format
from glassbox.data.curation.sources import SourceList
from glassbox.data.curation.steps import StepConfig


class CurateRecipe(Spec):
    """Messy text to clean documents, carried out by `glassbox data curate`."""

    stage: Literal["curate"] = "curate"
    out: str = Field(description="output folder for documents, report and dropped records")
    source: SourceList = Field(
        description="a path, a URL, a mapping with `kind`, or a list of these"
    )
    steps: tuple[StepConfig, ...] = Field((), description="steps, in order")
    workers: int = Field(
        2, gt=0, description="number of processes; the documents do not depend on it"
    )
    runner: Literal["local", "ray"] = Field(
        "local", description="processes of this machine, or tasks of a Ray cluster (extra cluster)"
    )
    keep_dropped: bool = Field(True, description="write dropped records to OUT/dropped")
    strict: bool = Field(False, description="stop at a corrupt record instead of counting it")
    format: Format = "jsonl"
    max_record_bytes: int = Field(
        RECORD_BYTES, gt=0, description="larger records are skipped and counted"
    )
    max_record_seconds: float = Field(
        RECORD_SECONDS, gt=0, description="records for which a step takes longer are dropped"
    )
    shard_bytes: int = Field(
        8 << 20, ge=1024, description="approximate bytes of the source per shard"
    )
