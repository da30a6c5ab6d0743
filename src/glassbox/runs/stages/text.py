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

    path: str | None = Field(None, description="folder or tokenizer.json; null: train a tokenizer")
    vocab_size: int = Field(4096, gt=256)
    kind: str = Field("bpe", description="bpe, wordpiece, unigram or characters")
    pattern: str = Field("gpt4", description="gpt2, gpt4, llama3, qwen2 or a regular expression")
    max_characters: int | None = Field(
        None,
        gt=0,
        description="train on about this many characters from the beginning of the text; null: all",
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
    weight: float = Field(
        1.0,
        gt=0,
        description="weight in the mixture; a source's share of the rows is its weight over the sum of "
        "all",
    )


class TextData(Spec):
    """Text to pre-train on."""

    path: DataPath | None = Field(None, description=TEXT_PLACES)
    sources: tuple[TextSource, ...] = Field(
        (), description="instead of path: several texts, mixed by weight"
    )
    split: Split = Field(
        "passages",
        description="how plain text is split into documents: at <|endoftext|> marks; a file without "
        "marks into passages of about 4,000 characters (passages) or not at all (marks); "
        "or each file is one document (whole)",
    )
    heldout_path: DataPath | None = Field(
        None, description="text to evaluate on; null: hold out a share of the text"
    )
    heldout_share: float = Field(0.05, gt=0, lt=1)
    row_length: int = Field(256, gt=1, description="tokens per row; documents are packed into rows")
    rows_per_step: int = Field(16, gt=0, description="rows per optimizer step, over all ranks")
    rows_per_batch: int | None = Field(None, gt=0, description="rows per forward pass; null: all")
    workers: int = Field(
        0, ge=0, exclude=True, description="threads that prepare batches in advance; 0: none"
    )
    packing: Literal["best_fit", "greedy"] = "best_fit"
    stride: int | None = Field(
        None,
        gt=0,
        description="stride between windows of a long document, in tokens; null: row_length",
    )
    fim: FimConfig | None = Field(
        None, description="fill-in-the-middle: rearrange a share of the documents; null: none"
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
