"""Byte-pair encoding against `tokenizers` and, where it is installed, tiktoken.

    python bench/bpe.py TEXT_FILE... [--vocab-size 4096] [--repeats 3] [--gpt2] [--one-core]

Trains on the same documents in turns (A B A B), checks that the merges are the same, and encodes the
documents with the result in turns, checks that the ids are the same, and prints medians and
ratios. Encoding is timed from an empty cache and again with the cache that the first pass left.
A .json file is a list of documents; any other is cut at <|endoftext|>. `--gpt2` encodes with GPT-2's
vocabulary (extra gpt2) instead. `--one-core` gives the peer one thread and counts the processor's seconds,
which a busy machine disturbs less than the clock.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if "--one-core" in sys.argv:  # read when the peer is loaded
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers
from harness import Bench
from tokenizers import models, pre_tokenizers, trainers

from glassbox.tokenizers import PATTERNS, SPECIAL_TOKENS, Tokenizer, train_bpe
from glassbox.tokenizers.bytelevel import BYTES_IN_ORDER

try:
    import tiktoken
except ImportError:
    tiktoken = None


def read_documents(paths: list[Path]) -> list[str]:
    """The documents of all files, long ones in parts, so that the peer's threads all have work."""
    documents: list[str] = []
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        whole = json.loads(text) if path.suffix == ".json" else text.split("<|endoftext|>")
        for document in whole:
            part = ""
            for paragraph in document.split("\n\n"):
                part += paragraph + "\n\n"
                if len(part) > 20_000:
                    documents.append(part)
                    part = ""
            documents.append(part)
    return [document for document in documents if document.strip()]


def train_peer(documents: list[str], vocab_size: int, pattern: str) -> Any:
    """The same training by `tokenizers`."""
    peer = tokenizers.Tokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    peer.train_from_iterator(documents, trainer)
    return peer


def as_peer(tokenizer: Tokenizer) -> Any:
    """The same tokenizer in `tokenizers`, by its file."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def as_tiktoken(tokenizer: Tokenizer, pattern: str, first: int) -> Any:
    """The same tokenizer in tiktoken, whose ranks are ids without the special tokens that come first."""
    special = set(tokenizer.special_tokens.values())
    ids = [i for i in range(first, tokenizer.vocab_size) if i not in special]
    ranks = {tokenizer.token_bytes(i): i - first for i in ids}
    assert [ranks[bytes([byte])] for byte in BYTES_IN_ORDER] == list(range(256))
    return tiktoken.Encoding(
        "bench", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={}
    )


def main() -> None:
    bench = Bench(__doc__, repeats=3)
    add = bench.parser.add_argument
    add("files", nargs="+", type=Path)
    add("--vocab-size", type=int, default=4096)
    add("--pattern", default="gpt4", choices=list(PATTERNS))
    add("--gpt2", action="store_true", help="encode with GPT-2's vocabulary")
    add("--one-core", action="store_true", help="as --threads 1, for the peer too")
    options = bench.options()
    if options.one_core:
        bench.threads = 1
    cores = "one core" if options.one_core else "all cores"
    documents = read_documents(options.files)
    megabytes = sum(len(document.encode()) for document in documents) / 1e6
    bench.fact(
        documents=len(documents),
        megabytes=megabytes,
        vocab_size=options.vocab_size,
        pattern=options.pattern,
        cores=cores,
    )

    def contest(
        what: str, runs: dict[str, Callable[[], Any]], against: str, entries: int
    ) -> dict[str, Any]:
        """A row a contestant, and the last result of each."""
        results: dict[str, Any] = {}

        def kept(name: str, run: Callable[[], Any]) -> None:
            results[name] = run()

        times = bench.in_turns(
            {name: partial(kept, name, run) for name, run in runs.items()}, warm=0
        )
        for name, one in times.items():
            bench.row(
                what=what,
                entries=entries,
                contestant=f"{name:28}",
                seconds=one.median,
                megabytes_s=megabytes / one.median,
                ratio=times[against] / one,
                against=against,
            )
        return results

    trainer = f"tokenizers ({cores})"
    trained = contest(
        "training",
        {
            "glassbox (1 process)": lambda: train_bpe(
                documents, options.vocab_size, pattern=options.pattern
            ),
            trainer: lambda: train_peer(documents, options.vocab_size, options.pattern),
        },
        trainer,
        options.vocab_size,
    )
    ours: Tokenizer = trained["glassbox (1 process)"]
    peer = trained[trainer]
    merges = json.loads(peer.to_str())["model"]["merges"]
    assert [list(pair) for pair in ours.model.merges] == merges, "the merges differ"

    pattern, first = options.pattern, len(SPECIAL_TOKENS)
    if options.gpt2:
        ours, pattern, first = Tokenizer.load("gpt2"), "gpt2", 0
        peer = as_peer(ours)

    def cold() -> list[list[int]]:
        return pickle.loads(pickle.dumps(ours)).encode_batch(documents)

    def one_by_one() -> list[list[int]]:
        fresh = tokenizers.Tokenizer.from_str(peer.to_str())
        return [fresh.encode(document).ids for document in documents]

    def batch() -> list[list[int]]:
        fresh = tokenizers.Tokenizer.from_str(peer.to_str())
        return [encoding.ids for encoding in fresh.encode_batch(documents)]

    contestants: dict[str, Callable[[], list[list[int]]]] = {
        "glassbox, cold cache": cold,
        "tokenizers, one by one": one_by_one,
        "glassbox, warm cache": lambda: ours.encode_batch(documents),
        f"tokenizers, batch, {cores}": batch,
    }
    if tiktoken is not None:
        encoding = as_tiktoken(ours, pattern, first)
        contestants["tiktoken"] = lambda: [encoding.encode_ordinary(d) for d in documents]
    ours.encode_batch(documents)
    encoded = contest("encoding", contestants, "tokenizers, one by one", ours.vocab_size)
    for name, result in encoded.items():
        if name == "tiktoken":
            result = [[number + first for number in ids] for ids in result]
        assert result == encoded["glassbox, cold cache"], f"{name}: the ids differ"
    bench.fact(same_merges=True, same_ids=True)  # or an assertion above has ended the run
    bench.finish()


if __name__ == "__main__":
    main()
