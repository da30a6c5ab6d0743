"""Text from end to end, clean to shards, at two sizes: MB/s of each stage, and whether memory stays flat.

    python bench/curate_scale.py SAMPLE... [--megabytes 100 400] [--folder FOLDER]

Makes a corpus of each size out of the samples (made_text.py: distinct words grow as they do in real text, one
document in eight is a copy of an earlier one with a few words changed).
Then, in a process of its own, curates it (a recipe of thirteen steps), trains a tokenizer on 20 MB of what is left
and writes tokenized shards. One worker, and the processor's clock, which a busy machine disturbs less
than the wall's. Peak memory is the process's own high-water mark.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from made_text import read_samples, write_json_lines

STEPS = [
    {"kind": "repair"},
    {"kind": "html_to_text"},
    {"kind": "normalize", "unicode": "nfc", "whitespace": "collapse"},
    {"kind": "boilerplate_lines", "min_documents": 10},
    {"kind": "language", "keep": ["en"]},
    {"kind": "gopher_quality"},
    {"kind": "gopher_repetition"},
    {"kind": "fineweb_quality"},
    {"kind": "privacy"},
    {"kind": "exact_duplicates"},
    {"kind": "near_duplicates"},
    {"kind": "simhash_duplicates"},
    {"kind": "chunk", "by": "paragraph", "size": 20000},
]
TOKENIZER_BYTES = 20_000_000


def carry_out(folder: Path) -> dict[str, Any]:
    """Curate FOLDER/web, train a tokenizer, write a shard; seconds by stage, bytes, memory."""
    from glassbox.data.curation import passes, runner
    from glassbox.data.shards import write_shard
    from glassbox.data.text import read_documents
    from glassbox.runs.curate import curate
    from glassbox.runs.shards import encode_documents
    from glassbox.runs.stages.curate import CurateRecipe
    from glassbox.tokenizers import train_bpe

    clocks = {"perf_counter": time.process_time, "monotonic": time.monotonic}
    passes.time = runner.time = SimpleNamespace(**clocks)  # type: ignore[attr-defined]
    clock = time.process_time
    began = clock()
    out = folder / "out"
    recipe = {"out": str(out), "source": str(folder / "web"), "steps": STEPS, "workers": 1}
    summary = curate(CurateRecipe.model_validate({**recipe, "keep_dropped": False}))
    curated = clock()
    assert summary["status"] == "finished"
    report = json.loads((out / "report.json").read_text())
    timing = json.loads((out / "timing.json").read_text())
    memory = {"curate": peak()}

    def some() -> Iterator[str]:
        left = TOKENIZER_BYTES
        for text in read_documents(out):
            left -= len(text)
            if left < 0:
                return
            yield text

    tokenizer = train_bpe(some(), 4096)
    trained = clock()
    memory["tokenizer"] = peak()
    info = write_shard(
        folder / "shard",
        encode_documents(read_documents(out), tokenizer),
        vocab_size=tokenizer.vocab_size,
        fingerprint=tokenizer.fingerprint,
    )
    memory["shards"] = peak()
    read, kept = report["read_bytes"] / 1e6, report["kept_bytes"] / 1e6
    stages = {name: [read, seconds] for name, seconds in timing["worker_seconds"].items()}
    stages["curate, whole"] = [read, curated - began]
    stages["tokenizer"] = [min(kept, TOKENIZER_BYTES / 1e6), trained - curated]
    stages["shards"] = [kept, clock() - trained]
    stages["end to end"] = [read, clock() - began]
    counts = {"read": report["read"], "kept": report["kept"], "tokens": info["num_tokens"]}
    return {"stages": stages, "memory": memory, **counts, "kept_megabytes": kept}


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def show(results: dict[int, dict[str, Any]]) -> None:
    """The table: a stage a line, a size a column."""
    for megabytes, result in results.items():
        print(
            f"{megabytes} MB: {result['read']:,} documents, {result['kept']:,} kept "
            f"({result['kept_megabytes']:.0f} MB), {result['tokens']:,} tokens"
        )
    print(f"\n{'stage':<24}" + "".join(f"{m:>8} MB, MB/s" for m in results))
    for name in next(iter(results.values()))["stages"]:
        cells = [result["stages"][name] for result in results.values()]
        print(f"{name:<24}" + "".join(f"{size / max(s, 1e-9):>16,.1f}" for size, s in cells))
    print(f"\n{'peak memory, MB':<24}" + "".join(f"{m:>16}" for m in results))
    for name in next(iter(results.values()))["memory"]:
        cells = [result["memory"][name] for result in results.values()]
        print(f"{'after ' + name:<24}" + "".join(f"{cell:>16,.0f}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("samples", nargs="*", type=Path)
    parser.add_argument("--megabytes", nargs="+", type=int, default=[100, 400])
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one if not named")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(carry_out(options.child)))
        return
    sentences = read_samples(options.samples)
    results = {}
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            write_json_lines(sentences, megabytes, Path(name) / "web")
            command = [sys.executable, __file__, "--child", name]
            shown = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            results[megabytes] = json.loads(shown.stdout)
        show(results)  # what is measured is shown, should a larger size be stopped


if __name__ == "__main__":
    main()
