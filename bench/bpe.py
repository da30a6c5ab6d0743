"""Byte-pair encoding against `tokenizers` and, where it is installed, tiktoken.

    python bench/bpe.py TEXT_FILE... [--vocab-size 4096] [--rounds 3] [--gpt2] [--one-core]

Trains on the same documents in turns (A B A B), checks that the merges are the same, and encodes the
documents with the result in turns, checks that the ids are the same, and prints medians and
ratios. Encoding is timed from an empty cache and again with the cache that the first pass left.
A .json file is a list of documents; any other is cut at <|endoftext|>. `--gpt2` encodes with GPT-2's
vocabulary (extra gpt2) instead. `--one-core` gives the peer one thread and counts the processor's seconds,
which a busy machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "--one-core" in sys.argv:  # read when the peer is loaded
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers
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


def in_turns(
    contestants: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds and last result of each, run A B A B."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, run in contestants.items():
            began = clock()
            results[name] = run()
            seconds[name].append(clock() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}, results


def report(title: str, seconds: dict[str, float], megabytes: float, peer: str) -> None:
    """One line a contestant: seconds, megabytes a second, and the ratio to the peer."""
    print(f"\n{title}")
    for name, median in seconds.items():
        print(
            f"  {name:<28}{median:8.2f} s{megabytes / median:8.2f} MB/s"
            f"   {seconds[peer] / median:6.2f} x {peer}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pattern", default="gpt4", choices=list(PATTERNS))
    parser.add_argument("--gpt2", action="store_true", help="encode with GPT-2's vocabulary")
    parser.add_argument("--one-core", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.one_core else time.perf_counter
    cores = "one core" if options.one_core else "all cores"
    documents = read_documents(options.files)
    megabytes = sum(len(document.encode()) for document in documents) / 1e6
    print(
        f"{len(documents)} documents, {megabytes:.1f} MB, vocabulary {options.vocab_size},"
        f" pattern {options.pattern}, {os.cpu_count()} cores ({cores} used), medians of {options.rounds}"
    )

    trainer = f"tokenizers ({cores})"
    seconds, trained = in_turns(
        {
            "glassbox (1 process)": lambda: train_bpe(
                documents, options.vocab_size, pattern=options.pattern
            ),
            trainer: lambda: train_peer(documents, options.vocab_size, options.pattern),
        },
        options.rounds,
        clock,
    )
    ours: Tokenizer = trained["glassbox (1 process)"]
    peer = trained[trainer]
    merges = json.loads(peer.to_str())["model"]["merges"]
    assert [list(pair) for pair in ours.model.merges] == merges, "the merges differ"
    report("training (same merges)", seconds, megabytes, trainer)

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
    seconds, encoded = in_turns(contestants, options.rounds, clock)
    for name, result in encoded.items():
        if name == "tiktoken":
            result = [[number + first for number in ids] for ids in result]
        assert result == encoded["glassbox, cold cache"], f"{name}: the ids differ"
    report(
        f"encoding, {ours.vocab_size} entries (same ids)",
        seconds,
        megabytes,
        "tokenizers, one by one",
    )


if __name__ == "__main__":
    main()
