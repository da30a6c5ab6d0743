"""Training BPE on a large file as a user does: peak memory of all processes, and seconds.

    python bench/bpe_memory.py SAMPLE... [--megabytes 100 1000] [--vocab-size 32000] [--workers 1] [--folder FOLDER]

Makes a text of each size out of the samples (made_text.py: distinct words grow as they do in real text)
and carries out `glassbox tokenizer train`. Memory is the sum of all its processes' resident memory, looked
at twice a second, and the high-water mark of the first one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from made_text import make_documents, read_samples


def resident(root: int) -> tuple[int, int]:
    """Bytes of a process and all that it started, and its own high-water mark."""
    total, todo = 0, [root]
    while todo:
        process = todo.pop()
        total += _status(process, "VmRSS")
        for file in Path(f"/proc/{process}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += map(int, file.read_text().split())
    return total, _status(root, "VmHWM")


def _status(process: int, key: str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def measure(corpus: Path, vocab_size: int, workers: int, out: Path) -> None:
    """Train once, and print one line."""
    command = [sys.executable, "-m", "glassbox", "tokenizer", "train", "--corpus", str(corpus)]
    command += ["--vocab-size", str(vocab_size), "--workers", str(workers), "--out", str(out)]
    began, before = time.perf_counter(), os.times()
    process = subprocess.Popen(command)
    total = highest = 0
    while process.poll() is None:
        now, mark = resident(process.pid)
        total, highest = max(total, now), max(highest, mark)
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(process.returncode)
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    print(
        f"{corpus.stat().st_size / 1e6:,.0f} MB, vocabulary {vocab_size}, {workers} workers: peak "
        f"{max(total, highest) / 1e6:,.0f} MB of all processes, {highest / 1e6:,.0f} MB of the first; "
        f"{cpu:,.0f} s of processors, {time.perf_counter() - began:,.0f} s by the clock",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", nargs="+", type=Path)
    parser.add_argument("--megabytes", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--workers", nargs="+", type=int, default=[1])
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one if not named")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        for megabytes in options.megabytes:
            corpus = Path(options.folder or temporary) / f"made-{megabytes}.txt"
            if not corpus.exists():
                sentences = read_samples(options.samples)
                with corpus.open("w", encoding="utf-8") as stream:
                    for text in make_documents(sentences, megabytes * 1_000_000, megabytes):
                        stream.write(text + "\n<|endoftext|>\n")
                del sentences
            for workers in options.workers:
                measure(corpus, options.vocab_size, workers, Path(temporary) / "tok")


if __name__ == "__main__":
    main()
