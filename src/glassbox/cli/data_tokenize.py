"""glassbox data tokenize: text to files of ids, in several processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer


def tokenize(
    sources: Annotated[
        list[str], typer.Argument(help="Text: files, folders, named sets, hf:owner/name.")
    ],
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="A MODEL or a tokenizer.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    form: Annotated[
        str, typer.Option("--format", help="shard, or bin: plain ids as nanoGPT reads them.")
    ] = "shard",
    heldout_share: Annotated[
        float, typer.Option("--heldout-share", help="Share of documents held out.")
    ] = 0.005,
    split: Annotated[
        str,
        typer.Option(
            "--split", help="How plain text is split into documents: passages, marks or whole."
        ),
    ] = "passages",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 2,
) -> None:
    """Tokenize text once, for many runs: OUT/train and OUT/heldout (bin: train.bin and val.bin).

    Example: `glassbox data tokenize tinystories --tokenizer runs/first --out tokens --workers 4`
    """
    from glassbox.core.errors import UserError
    from glassbox.reports.corpus import open_tokenizer
    from glassbox.runs.tokenize import tokenize_corpus

    if form not in ("shard", "bin"):
        raise UserError(f"--format = '{form}'; use shard or bin")
    if split not in ("passages", "marks", "whole"):
        raise UserError(f"--split = '{split}'; use passages, marks or whole")
    if not 0 <= heldout_share < 1:
        raise UserError(f"--heldout-share = {heldout_share}; give a share from 0 to below 1")
    report = tokenize_corpus(
        sources,
        open_tokenizer(tokenizer),
        out,
        form=cast(Literal["shard", "bin"], form),
        split=cast(Literal["passages", "marks", "whole"], split),
        heldout_share=heldout_share,
        workers=workers,
    )
    for name, (documents, tokens) in report.items():
        print(f"{out / name}: {documents:,} documents, {tokens:,} tokens", file=sys.stderr)
    print(
        f"go on with: glassbox train pretrain.yaml data.path={out} tokenizer.path={out / 'tokenizer'}",
        file=sys.stderr,
    )
