"""Text and tokenizers, as recipes name them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.data.infilling import FimConfig
from glassbox.data.python_source import DataPath, PythonSource
from glassbox.data.text import Split


class TokenizerConfig(Spec):
    """A tokenizer to load, or how to train one on the run's own text."""

    path: str | None = Field(None, description="folder or tokenizer.json; None: train one")
    vocab_size: int = Field(4096, gt=256)
    kind: str = Field("bpe", description="bpe, wordpiece, unigram or characters")
    pattern: str = Field("gpt4", description="gpt2, gpt4, llama3, qwen2 or a regular expression")
    max_characters: int | None = Field(
        None,
        gt=0,
        description="train on about so many from the beginning of the text; None: on all",
    )


TEXT_PLACES = (
    "text: a file or folder (text, JSON lines, CSV, Parquet, compressed or not), a set by its name "
    "(`glassbox data get --list`), hf:owner/name[:split]; or ids: train.bin, train.npy, a shard; or {kind: python, path: my.py:texts}"
)
ROW_PLACES = (
    "a file or folder (JSON lines, JSON, CSV, Parquet, compressed or not), a set by its name "
    "(`glassbox data get --list`), hf:owner/name[:split], or {kind: python, path: my.py:rows}, of "
)


class TextSource(Spec):
    """One text of a mixture."""

    path: DataPath = Field(description=TEXT_PLACES)
    weight: float = Field(1.0, gt=0, description="its share of the rows, over the sum of all")


class TextData(Spec):
    """Text to pre-train on."""

    path: DataPath | None = Field(None, description=TEXT_PLACES)
    sources: tuple[TextSource, ...] = Field(
        (), description="instead of path (null): texts that are mixed by weight"
    )
    split: Split = Field(
        "passages",
        description="what a document of plain text is: what stands between <|endoftext|> marks, or "
        "(passages) a passage of about 4,000 characters of a file without marks, (marks) all of such "
        "a file, (whole) a file, whatever stands in it",
    )
    heldout_path: DataPath | None = Field(None, description="None: a share of the text is held out")
    heldout_share: float = Field(0.05, gt=0, lt=1)
    row_length: int = Field(256, gt=1, description="tokens a row, several documents packed into it")
    rows_per_step: int = Field(16, gt=0, description="rows an optimizer step, over all ranks")
    rows_per_batch: int | None = Field(None, gt=0, description="rows a forward pass; None: all")
    workers: int = Field(
        0, ge=0, exclude=True, description="threads that make batches ahead of the step; 0: none"
    )
    packing: Literal["best_fit", "greedy"] = "best_fit"
    stride: int | None = Field(
        None, gt=0, description="tokens between windows on a long document; None: row_length"
    )
    fim: FimConfig | None = Field(
        None, description="rearrange a share of the documents to learn filling in; None: none"
    )

    @model_validator(mode="after")
    def _one_place(self) -> TextData:
        if (self.path is None) == (not self.sources):
            raise ValueError(
                f"data.path = {self.path} and data.sources = {list(self.sources)}: give one of "
                "them (data.path=null leaves the path out)"
            )
        if self.stride is not None and self.stride > self.row_length:
            raise ValueError(
                f"data.stride = {self.stride} is more than data.row_length = {self.row_length}, "
                "which would leave tokens out"
            )
        return self

    @property
    def paths(self) -> tuple[str | PythonSource, ...]:
        """Where the text is."""
        return tuple(source.path for source in self.sources) or (self.path or "",)

    @property
    def names(self) -> list[str]:
        """What each text is called where figures are told apart: its file's name, with a number where two are alike."""
        stems = [
            path.object_name if isinstance(path, PythonSource) else Path(path).stem
            for path in self.paths
        ]
        return [
            stem if stems.count(stem) == 1 else f"{stem}-{number}"
            for number, stem in enumerate(stems)
        ]
