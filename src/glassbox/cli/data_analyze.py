"""glassbox data analyze: what a corpus is like, on one page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def analyze(
    paths: Annotated[
        list[str], typer.Argument(help="Files or folders of text in any supported format.")
    ],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("analysis.html"),
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="A MODEL or tokenizer to count tokens with.")
    ] = None,
    text_field: Annotated[
        str | None, typer.Option("--text-field", help="Key of the text; detected by default.")
    ] = None,
) -> None:
    """Lengths, frequent words, Zipf's and Heaps' laws, duplicates, documents to read: one HTML page.

    Languages too, where the extra `language` is installed.

    Example: `glassbox data analyze web.jsonl --tokenizer runs/first --out web.html`
    """
    from glassbox.data.curation.language import language_teller
    from glassbox.reports.corpus import open_tokenizer, write_analysis

    tokens = open_tokenizer(tokenizer) if tokenizer is not None else None
    found = write_analysis(
        paths, out, tokenizer=tokens, text_field=text_field, language_of=language_teller()
    )
    print(
        f"{found.documents:,} documents, {found.exact:,} exact and {found.near:,} near duplicates; "
        f"read the page: {out}",
        file=sys.stderr,
    )
