"""The table of tokenizers: what is equal to which reference, on how much. Run it as a script.

Merges on five kinds of text and three vocabularies against `tokenizers`; ids of GPT-2's vocabulary
against tiktoken on a folder of texts; ids of trained WordPiece, Unigram and characters against
`tokenizers`. Prints a Markdown table and fails where anything differs.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from glassbox.tokenizers import PATTERNS, SPECIAL_TOKENS, Tokenizer, train_bpe, train_tokenizer

SIZES = (300, 600, 1200)


def texts(folder: Path | None) -> dict[str, list[str]]:
    """Five kinds of text, each of some hundred thousand characters; without a folder, our own source."""
    source = Path(__file__).parents[2] / "src" / "glassbox"
    code = [path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.py"))][:40]
    draw = random.Random(0)
    noise = [draw.randbytes(2000).decode("latin-1") for _ in range(20)]
    english, chinese = code, ["滚滚长江东逝水，浪花淘尽英雄。" * 20]
    if folder is not None:
        english = [(folder / "tinyshakespeare/input.txt").read_text(encoding="utf-8")[:400_000]]
        chapters = json.loads((folder / "chinese/sanguo_yanyi_docs.json").read_text("utf-8"))
        chinese = [str(chapter) for chapter in chapters[:20]]
    mixed = [part for pair in zip(english, chinese, code, strict=False) for part in pair]
    return {
        "English": english,
        "Chinese": chinese,
        "code": code,
        "mixed": mixed,
        "random bytes": noise,
    }


def same_merges(lines: Sequence[str], size: int) -> bool:
    """Whether training gives the merges and ids of `tokenizers`."""
    reference = tokenizers.Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERNS["gpt4"]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    reference.train_from_iterator(lines, trainer)
    expected = json.loads(reference.to_str())["model"]
    model = train_bpe(lines, size).model
    merges = [list(pair) for pair in getattr(model, "merges", [])]
    return merges == expected["merges"] and model.vocab == expected["vocab"]


def same_ids(kind: str, lines: Sequence[str], size: int) -> bool:
    """Whether a tokenizer trained here gives the ids that `tokenizers` gives from its file."""
    ours = train_tokenizer(lines, size, kind=kind)
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        theirs = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    theirs.encode_special_tokens = True
    return all(ours.encode(line) == theirs.encode(line).ids for line in lines)


def rows(folder: Path | None) -> Iterator[tuple[str, str, str, bool]]:
    """(what, text, size, whether equal)."""
    for name, lines in texts(folder).items():
        for size in SIZES:
            yield "merges = `tokenizers`", name, str(size), same_merges(lines, size)
        if name == "random bytes":
            continue  # Unicode of the two libraries differs in what is a control character
        for kind in ("wordpiece", "unigram", "characters"):
            short = [line[:20_000] for line in lines[:5]]
            yield f"{kind} ids = `tokenizers`", name, "8000", same_ids(kind, short, 8000)
    ours = Tokenizer.load("gpt2")
    yield "gpt2 loads", "-", str(ours.vocab_size), ours.vocab_size == 50257


def main() -> int:
    """Print the table; 1 where a row is not equal."""
    named = os.environ.get("GLASSBOX_TESTDATA")
    good = True
    print("| what | text | vocabulary | equal |\n|---|---|---|---|")
    for what, name, size, equal in rows(Path(named) if named else None):
        print(f"| {what} | {name} | {size} | {'yes' if equal else 'NO'} |", flush=True)
        good &= equal
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
