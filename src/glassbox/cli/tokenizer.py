"""glassbox tokenizer: train one, and look through it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Train a tokenizer, encode and decode with it. Example: "
        "`glassbox tokenizer train --corpus book.txt --vocab-size 4096 --out tok`",
        no_args_is_help=True,
    )
    for command in (train, encode, decode):
        group.command(command.__name__)(command)
    app.add_typer(group, name="tokenizer", rich_help_panel="Prepare")


def train(
    corpus: Annotated[
        list[str], typer.Option("--corpus", help="A file or folder of text; may be repeated.")
    ],
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", help="Entries, bytes and specials included.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for tokenizer.json.")],
    more: Annotated[
        list[str] | None, typer.Argument(help="More files.", show_default=False)
    ] = None,
    pattern: Annotated[
        str, typer.Option("--pattern", help="gpt2, gpt4, llama3, qwen2 or a regular expression.")
    ] = "gpt4",
) -> None:
    """Train a byte-level BPE tokenizer and write OUT/tokenizer.json (transformers opens OUT).

    Example: `glassbox tokenizer train --corpus book.txt --vocab-size 4096 --out tok`
    """
    from glassbox.core.progress import ProgressLine
    from glassbox.data.text import find_corpus, read_documents
    from glassbox.tokenizers import train_bpe

    paths = [find_corpus(name) for name in [*corpus, *(more or [])]]
    texts = (text for path in paths for text in read_documents(path))
    with ProgressLine("tokenizer", vocab_size) as line:

        def report(stage: str, done: int, total: int | None) -> None:
            if total is not None and stage.startswith("merg"):
                line.update(done * vocab_size / max(1, total), stage)

        tokenizer = train_bpe(texts, vocab_size, pattern=pattern, progress=report)
    tokenizer.save(out)
    note = (
        ""
        if tokenizer.vocab_size == vocab_size
        else f" (the text gave no more than that of {vocab_size})"
    )
    print(f"{out / 'tokenizer.json'}: {tokenizer.vocab_size} entries{note}", file=sys.stderr)


def encode(
    tokenizer: Annotated[str, typer.Argument(help="Folder or tokenizer.json.")],
    text: Annotated[str, typer.Argument(help="Text; - reads standard input.")] = "-",
    pieces: Annotated[
        bool, typer.Option("--pieces", help="Show the pieces beside their ids.")
    ] = False,
) -> None:
    """Print the ids of a text. Example: `glassbox tokenizer encode tok "Hello there"`"""
    from glassbox.tokenizers import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    ids = loaded.encode(sys.stdin.read() if text == "-" else text)
    if pieces:
        for token in ids:
            print(f"{token}\t{loaded.token_bytes(token).decode('utf-8', 'backslashreplace')!r}")
    else:
        print(*ids)


def decode(
    tokenizer: Annotated[str, typer.Argument(help="Folder or tokenizer.json.")],
    ids: Annotated[list[int], typer.Argument(help="Token ids.")],
) -> None:
    """Print the text of ids. Example: `glassbox tokenizer decode tok 72 105`"""
    from glassbox.core.errors import UserError
    from glassbox.tokenizers import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    for token in ids:
        if not 0 <= token < loaded.vocab_size:
            raise UserError(f"id {token} is outside the vocabulary of {loaded.vocab_size}")
    sys.stdout.write(loaded.decode(ids) + "\n")
