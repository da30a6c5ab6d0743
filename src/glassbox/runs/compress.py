"""A model compressed by one method and written, for `glassbox compress`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from glassbox.compression import Calibration, draw_windows, named_codes, plan_for, weight_bytes
from glassbox.compression.methods import METHODS, PRUNE_METHODS, Method, compress, prune
from glassbox.core.errors import UserError
from glassbox.core.progress import ProgressLine
from glassbox.data.text import find_corpus, read_documents
from glassbox.formats.convert import load_model
from glassbox.formats.huggingface import refuse_taken, write_folder
from glassbox.formats.open_model import check_pair, find_model, find_whole_model
from glassbox.tokenizers import Tokenizer
from glassbox.tokenizers.prefix import text_prefix

READ = 16
"""Calibration windows are drawn from the first so many times the text that they hold."""


@dataclass(frozen=True)
class CalibrationText:
    """Where calibration windows come from. name: a file, a folder, a set by its name."""

    name: str | None = None
    windows: int = 128
    window_tokens: int = 512
    seed: int = 0

    def read(self, tokenizer: Tokenizer, context_length: int) -> Calibration | None:
        """The windows, each at most a context long; None without a name. Raises UserError as `find_corpus`."""
        if self.name is None:
            return None
        if self.windows < 1 or self.window_tokens < 2:
            raise UserError(
                f"windows = {self.windows}, window_tokens = {self.window_tokens}: give at least 1 and 2"
            )
        length = min(self.window_tokens, context_length)
        documents = encoded(tokenizer, self.name, READ * self.windows * length)
        return draw_windows(
            documents, count=self.windows, length=length, seed=self.seed, source=self.name
        )


def encoded(tokenizer: Tokenizer, name: str, most: int) -> list[list[int]]:
    """The first documents of a text by name, as ids behind their prefix, up to about `most` tokens."""
    start = text_prefix(tokenizer)
    found: list[list[int]] = []
    total = 0
    for text in read_documents(find_corpus(name)):
        found.append([*start, *tokenizer.encode(text)])
        total += len(found[-1])
        if total >= most:
            break
    return found


@dataclass(frozen=True)
class Compressed:
    """What was written: bytes of the weights before and after."""

    before: int
    after: int
    what: str

    def __str__(self) -> str:
        """As the command says it.

        >>> str(Compressed(6_300_000, 1_400_000, "gptq, int4"))
        'gptq, int4: 6.3 MB became 1.4 MB'
        """
        return f"{self.what}: {self.before / 1e6:.1f} MB became {self.after / 1e6:.1f} MB"


@dataclass(frozen=True)
class Settings:
    """How a model is compressed. codes: a name of `compression.named_codes`, for what is quantized."""

    method: str = "rtn"
    codes: str = "int4"
    sparsity: float | Literal["2:4"] = 0.5
    act_order: bool = True
    damping: float = 0.01
    calibration: CalibrationText = field(default_factory=CalibrationText)

    def check(self) -> None:
        """Raise UserError for names that are none, before anything is read."""
        if self.method not in (*METHODS, *PRUNE_METHODS):
            known = ", ".join((*METHODS, *PRUNE_METHODS))
            raise UserError(f"--method {self.method} is unknown; use one of {known}")
        if self.method in METHODS:
            named_codes(self.codes)
        if self.method in ("gptq", "awq", "wanda") and self.calibration.name is None:
            raise UserError(
                f"--method {self.method} looks at text that the model reads; give --calibration FILE"
            )
        if not self.damping > 0:
            raise UserError(f"--damping {self.damping}: give a number above 0")


def compress_files(
    source: str, destination: Path, settings: Settings, *, code: Sequence[str] = ()
) -> Compressed:
    """Compress the model at `source` and write it as a folder. Raises UserError before anything is changed."""
    settings.check()
    refuse_taken(destination)
    found = find_whole_model(source)
    loaded = load_model(found, find_base=find_model, code=code)
    tokenizer, model = check_pair(loaded, found), loaded.model
    before = weight_bytes(model)
    calibration = settings.calibration.read(tokenizer, model.config.context_length)
    with ProgressLine(settings.method, len(model.blocks) + 1) as line:

        def progress(done: int, total: int) -> None:
            line.update(done, f"block {done} of {total - 1}" if done < total else "output matrix")

        if settings.method in METHODS:
            method: Method = settings.method  # type: ignore[assignment]
            compress(
                model,
                plan_for(model, settings.codes),
                method,
                calibration=calibration,
                act_order=settings.act_order,
                damping=settings.damping,
                progress=progress,
            )
            what = f"{settings.method}, {settings.codes}"
        else:
            prune(
                model,
                settings.sparsity,
                "wanda" if settings.method == "wanda" else "magnitude",
                calibration=calibration,
                progress=progress,
            )
            what = f"{settings.method}, sparsity {settings.sparsity}"
    write_folder(model, destination, tokenizer=tokenizer, stop_token_ids=loaded.stop_token_ids)
    return Compressed(before, weight_bytes(model), what)


def first_texts(name: str, limit: int) -> list[str]:
    """The first documents of a text by name. Raises UserError where there is none."""
    found = list(itertools.islice(read_documents(find_corpus(name)), limit))
    if not found:
        raise UserError(f"'{name}' holds no document")
    return found
