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
    out: str = Field(description="folder of the documents, the report, and what was dropped")
    source: SourceList = Field(description="a path, an address, a mapping with `kind`, or a list")
    steps: tuple[StepConfig, ...] = Field((), description="in the order in which they run")
    workers: int = Field(2, gt=0, description="processes; the documents do not depend on it")
    runner: Literal["local", "ray"] = Field(
        "local", description="processes of this machine, or tasks of a Ray cluster (extra cluster)"
    )
    keep_dropped: bool = Field(True, description="keep what is dropped in OUT/dropped, to read")
    strict: bool = Field(False, description="a corrupt record ends the run instead of counting")
    format: Format = "jsonl"
    max_record_bytes: int = Field(
        RECORD_BYTES, gt=0, description="a larger record is passed over and counted"
    )
    max_record_seconds: float = Field(
        RECORD_SECONDS, gt=0, description="a step that takes longer for a record drops it"
    )
    shard_bytes: int = Field(8 << 20, ge=1024, description="bytes of the source a shard, about")
