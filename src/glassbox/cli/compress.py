"""glassbox compress: a model in fewer bits, or with fewer weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from glassbox.core.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compress", rich_help_panel="Use")(compress)


def compress(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="Any MODEL: run, folder, .gguf, .bin, name.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="OUT", help="Destination folder.")],
    method: Annotated[
        str, typer.Option("--method", help="rtn, gptq, awq; to prune: magnitude, wanda.")
    ] = "rtn",
    bits: Annotated[int, typer.Option("--bits", help="4 or 8.")] = 4,
    group: Annotated[
        int, typer.Option("--group", help="Weights that share a scale; 0: one scale per row.")
    ] = 64,
    symmetric: Annotated[
        bool, typer.Option("--symmetric/--asymmetric", help="Without zero points, or with.")
    ] = False,
    codes: Annotated[
        str | None,
        typer.Option("--codes", help="In place of --bits: nf4, fp8, mxfp4, q8_0, q4_0, q4_1."),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration", help="Calibration text for gptq, awq and wanda: a file or a named set."
        ),
    ] = None,
    windows: Annotated[int, typer.Option("--windows", help="Number of calibration windows.")] = 128,
    window_tokens: Annotated[
        int, typer.Option("--window-tokens", help="Tokens per window, at most the context length.")
    ] = 512,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the windows.")] = 0,
    act_order: Annotated[
        bool,
        typer.Option(
            "--act-order/--no-act-order",
            help="gptq: quantize columns in the order of decreasing activations.",
        ),
    ] = True,
    damping: Annotated[
        float,
        typer.Option("--damping", help="gptq: dampening, as a fraction of the mean diagonal of H."),
    ] = 0.01,
    sparsity: Annotated[
        str, typer.Option("--sparsity", help="Pruning: a share of each row's weights, or 2:4.")
    ] = "0.5",
    code: Annotated[
        list[str] | None,
        typer.Option("--code", help="FILE.py:NAME of a layer of your own that MODEL has."),
    ] = None,
) -> None:
    """Write MODEL in fewer bits, or with weights set to zero; chat, serve and eval open OUT as any model.

    Example: `glassbox compress runs/quickstart small --method gptq --calibration stories.txt`
    """
    from glassbox.runs.compress import CalibrationText, Settings, compress_files

    settings = Settings(
        method=method,
        codes=codes or _codes(bits, group, symmetric),
        sparsity=_sparsity(sparsity),
        act_order=act_order,
        damping=damping,
        calibration=CalibrationText(calibration, windows, window_tokens, seed),
    )
    written = compress_files(source, destination, settings, code=code or ())
    print(f"{destination}: {written}", file=sys.stderr)


def _codes(bits: int, group: int, symmetric: bool) -> str:
    if bits not in (4, 8):
        raise UserError(f"--bits {bits}: use 4 or 8")
    if group < 0:
        raise UserError(f"--group {group}: use 0 for a scale a row, or 8 and more")
    return f"int{bits}-{f'g{group}' if group else 'row'}-{'sym' if symmetric else 'asym'}"


def _sparsity(words: str) -> Any:
    if words == "2:4":
        return words
    try:
        return float(words)
    except ValueError:
        raise UserError(f"--sparsity {words}: give a share such as 0.5, or 2:4") from None
