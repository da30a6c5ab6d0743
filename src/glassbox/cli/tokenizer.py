"""glassbox tokenizer: train one, and look through it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from glassbox.tokenizers import Tokenizer

TOKENIZER = "Folder, run, tokenizer.json, .model, .tiktoken, or gpt2 (extra gpt2)."


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Train a tokenizer, encode and decode with it. Example: "
        "`glassbox tokenizer train --corpus book.txt --vocab-size 4096 --out tok`",
        no_args_is_help=True,
    )
    for command in (train, encode, decode, inspect, compare):
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
    kind: Annotated[
        str, typer.Option("--kind", help="bpe, wordpiece, unigram or characters.")
    ] = "bpe",
    pattern: Annotated[
        str,
        typer.Option(
            "--pattern", help="For bpe: gpt2, gpt4, llama3, qwen2 or a regular expression."
        ),
    ] = "gpt4",
    unknown: Annotated[
        str,
        typer.Option("--unknown", help="For characters, unknown ones become: bytes, token, error."),
    ] = "bytes",
    workers: Annotated[
        int, typer.Option("--workers", help="Number of processes that count words for bpe.")
    ] = 1,
) -> None:
    """Train a tokenizer and write OUT/tokenizer.json (transformers opens OUT).

    Example: `glassbox tokenizer train --corpus book.txt --vocab-size 4096 --out tok`
    """
    from glassbox.core.errors import UserError
    from glassbox.core.progress import ProgressLine
    from glassbox.data.text import AS_IT_IS, find_corpus, read_documents
    from glassbox.tokenizers.training import train_tokenizer

    paths = [find_corpus(name) for name in [*corpus, *(more or [])]]
    for path in paths:
        if next(iter(read_documents(path, size=AS_IT_IS)), None) is None:
            raise UserError(f"'{path}' holds no text; give a file with at least one document")
    texts = (text for path in paths for text in read_documents(path, size=AS_IT_IS))
    with ProgressLine("tokenizer", vocab_size) as line:

        def report(stage: str, done: int, total: int | None) -> None:
            if total is not None and stage == "learn merges":
                line.update(done * vocab_size / max(1, total), stage)
            elif stage == "count words":
                line.update(0, f"{stage}, {done / 1e6:,.0f} million characters")

        tokenizer = train_tokenizer(
            texts,
            vocab_size,
            kind=kind,
            pattern=pattern,
            unknown=unknown,
            workers=workers,
            progress=report,
        )
    tokenizer.save(out)
    note = (
        ""
        if tokenizer.vocab_size == vocab_size
        else f" (the text gave no more than that of {vocab_size})"
    )
    print(f"{out / 'tokenizer.json'}: {tokenizer.vocab_size} entries{note}", file=sys.stderr)


def _open(name: str) -> Tokenizer:
    """The tokenizer of a file or folder, or of the model that a run has made."""
    from glassbox.tokenizers import Tokenizer

    if Path(name).is_dir() and not (Path(name) / "tokenizer.json").exists():
        from glassbox.reports.corpus import open_tokenizer

        return open_tokenizer(name)
    return Tokenizer.load(name)


def encode(
    tokenizer: Annotated[str, typer.Argument(help=TOKENIZER)],
    text: Annotated[str, typer.Argument(help="Text; - reads standard input.")] = "-",
    pieces: Annotated[
        bool, typer.Option("--pieces", help="Print the tokens next to their ids.")
    ] = False,
) -> None:
    """Print the ids of a text. Example: `glassbox tokenizer encode tok "Hello there"`"""
    loaded = _open(tokenizer)
    ids = loaded.encode(sys.stdin.read() if text == "-" else text)
    if pieces:
        for token in ids:
            print(f"{token}\t{loaded.token_bytes(token).decode('utf-8', 'backslashreplace')!r}")
    else:
        print(*ids)


def decode(
    tokenizer: Annotated[str, typer.Argument(help=TOKENIZER)],
    ids: Annotated[list[int], typer.Argument(help="Token ids.")],
) -> None:
    """Print the text of ids. Example: `glassbox tokenizer decode tok 72 105`"""
    from glassbox.core.errors import UserError

    loaded = _open(tokenizer)
    for token in ids:
        if not 0 <= token < loaded.vocab_size:
            raise UserError(f"id {token} is outside the vocabulary of {loaded.vocab_size}")
    sys.stdout.write(loaded.decode(ids) + "\n")


def inspect(
    tokenizer: Annotated[str, typer.Argument(help=TOKENIZER)],
    text: Annotated[str, typer.Argument(help="Text; - reads standard input.")] = "",
    corpus: Annotated[
        list[str] | None, typer.Option("--corpus", help="A file or folder to measure on.")
    ] = None,
) -> None:
    """Show a text in coloured pieces, and on a corpus: fertility by writing system, use of the vocabulary.

    Example: `glassbox tokenizer inspect tok "Hello there" --corpus book.txt`
    """
    from rich.console import Console

    from glassbox.cli.tokenizer_view import coloured, usage_table
    from glassbox.data.text import AS_IT_IS, find_corpus, read_documents
    from glassbox.tokenizers.inspection import inspect_texts, pieces_of

    loaded, console = _open(tokenizer), Console()
    console.print(
        f"{type(loaded.model).__name__}: {loaded.vocab_size} entries, special: "
        f"{', '.join(loaded.special_tokens) or 'none'}",
        markup=False,
        highlight=False,
    )
    if text:
        content = sys.stdin.read() if text == "-" else text
        if len(text) < 1024 and Path(text).is_file():
            print(f"these are the words '{text}'; of the file: --corpus {text}", file=sys.stderr)
        pieces = pieces_of(loaded, content)
        console.print(coloured([piece for _, piece in pieces]))
        console.print(f"{len(pieces)} tokens, {len(content)} characters", highlight=False)
    if corpus:
        texts = (one for name in corpus for one in read_documents(find_corpus(name), size=AS_IT_IS))
        found = inspect_texts(loaded, texts)
        console.print(usage_table({"": found}))
        console.print(
            f"{len(found.counts)} of {found.vocab_size} entries used ({found.used:.1%})",
            highlight=False,
        )


def compare(
    first: Annotated[str, typer.Argument(help=TOKENIZER)],
    second: Annotated[str, typer.Argument(help=TOKENIZER)],
    file: Annotated[str, typer.Argument(help="A file or folder of text.")],
    lines: Annotated[
        int, typer.Option("--lines", help="Number of lines to compare side by side.")
    ] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show two tokenizers side by side on a file. Example: `glassbox tokenizer compare tok gpt2 book.txt`"""
    from rich.console import Console

    from glassbox.cli.tokenizer_view import side_by_side, usage_table
    from glassbox.data.text import AS_IT_IS, find_corpus, read_documents
    from glassbox.tokenizers.inspection import inspect_texts

    names = (first, second) if first != second else (first, f"{second} ")
    tokenizers = {name: _open(name.strip()) for name in names}
    path = find_corpus(file)
    shown: list[str] = []
    for document in read_documents(path, size=AS_IT_IS):
        shown += [line for line in document.splitlines() if line.strip()][: lines - len(shown)]
        if len(shown) >= lines:
            break
    usage = {
        name: inspect_texts(one, read_documents(path, size=AS_IT_IS))
        for name, one in tokenizers.items()
    }
    if as_json:
        print(json.dumps({name.strip(): one.to_json() for name, one in usage.items()}, indent=2))
        return
    console = Console()
    console.print(side_by_side(tokenizers, shown))
    console.print(usage_table(usage))
