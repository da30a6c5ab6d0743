"""HellaSwag by lm-evaluation-harness, over HTTP and in transformers: the same weights, the same score?

    python bench/serve_hellaswag.py --items hellaswag_val_full.txt.bz2 [--count 100] [--letters] [--out DIR]

The file is the validation set as llama.cpp has it: six lines an item, the context, the number of the
right ending, four endings. `--count` items are taken evenly from all of it, for the file is sorted by
where they came from. They become a local task with the harness's own clean-up of texts, its kind
of answers (multiple choice, in one token's step after the context) and its metrics, acc and acc_norm.
With `--letters` the endings stand in the question and the answers are A to D, one token each, so that
the last entry of an echo's log-probabilities is the answer itself.
SmolLM2 is written as a Hugging Face folder; `lm_eval --model local-completions` asks `glassbox serve`
of it, `lm_eval --model hf` transformers. Needs `pip install 'lm_eval[api,hf]'`, no dependency of ours.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from glassbox.formats.convert import convert
from glassbox.formats.open_model import find_model

TASK = "hellaswag_local"


def read_items(path: Path, count: int, letters: bool) -> list[dict[str, object]]:
    """`count` items, evenly from the whole file, as the harness's own task has them; or by letters."""
    from lm_eval.tasks.hellaswag.utils import preprocess

    opened = bz2.open if path.suffix == ".bz2" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    number = len(lines) // 6
    items: list[dict[str, object]] = [
        {
            "query": preprocess(lines[6 * at]),
            "choices": [preprocess(ending) for ending in lines[6 * at + 2 : 6 * at + 6]],
            "gold": int(lines[6 * at + 1]),
        }
        for at in (number * place // count for place in range(count))
    ]
    return [by_letters(item) for item in items] if letters else items


def by_letters(item: dict[str, Any]) -> dict[str, object]:
    """The endings listed in the question, the answers their letters."""
    listed = "\n".join(f"{x}. {text}" for x, text in zip("ABCD", item["choices"], strict=True))
    query = f"{item['query']}\n{listed}\nAnswer:"
    return {**item, "query": query, "choices": list("ABCD")}


def write_task(folder: Path, items: list[dict[str, object]]) -> None:
    """A task for `lm_eval --include_path`."""
    data = folder / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ]
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "choices",
        "metric_list": metrics,
    }
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML


def harness(folder: Path, model: str, options: str, batch: int) -> tuple[Path, float]:
    """Run it: where its results lie, and the seconds it took."""
    out = folder / model
    began = time.monotonic()
    command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", options]
    command += ["--tasks", TASK, "--include_path", str(folder), "--output_path", str(out)]
    command += ["--batch_size", str(batch), "--device", "cpu", "--log_samples"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return out, time.monotonic() - began


def scores(out: Path) -> tuple[dict[str, float], list[list[float]]]:
    """acc and acc_norm, and of each item the log-probabilities of its endings."""
    (results,) = out.rglob("results_*.json")
    found = json.loads(results.read_text())["results"][TASK]
    (samples,) = out.rglob("samples_*.jsonl")
    lines = sorted(map(json.loads, samples.open()), key=lambda line: line["doc_id"])
    endings = [[float(one[0]) for one in line["filtered_resps"]] for line in lines]
    return {name: found[f"{name},none"] for name in ("acc", "acc_norm")}, endings


def main() -> None:
    """Print both scores, and how far the endings' log-probabilities are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--letters", action="store_true", help="answers are A to D")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--out", type=Path, default=None, help="keep task and results here")
    args = parser.parse_args()
    folder = (args.out or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_task(folder, read_items(args.items, args.count, args.letters))
    weights = folder / "smollm2"
    convert(find_model("smollm2"), weights, dtype="f32")

    command = [Path(sys.executable).with_name("glassbox"), "serve", str(weights)]
    server = subprocess.Popen([*command, "--name", "smollm2", "--port", str(args.port)])
    base = f"http://127.0.0.1:{args.port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{base}/health").close()
                break
            except OSError:
                time.sleep(1)
        options = f"model=smollm2,base_url={base}/v1/completions,tokenizer={weights}"
        options += ",tokenizer_backend=huggingface,num_concurrent=2"
        ours, seconds = harness(folder, "local-completions", options, 8)
    finally:
        server.terminate()
        server.wait()
    options = f"pretrained={weights},dtype=float32"
    theirs, their_seconds = harness(folder, "hf", options, 8)

    (found, ends), (expected, their_ends) = scores(ours), scores(theirs)
    pairs = [
        (a, b) for x, y in zip(ends, their_ends, strict=True) for a, b in zip(x, y, strict=True)
    ]
    same = sum(
        max(range(4), key=x.__getitem__) == max(range(4), key=y.__getitem__)
        for x, y in zip(ends, their_ends, strict=True)
    )
    print(f"HellaSwag, {args.count} items, SmolLM2-135M in float32, lm_eval")
    for name, got, took in (
        ("glassbox serve", found, seconds),
        ("transformers", expected, their_seconds),
    ):
        print(f"{name:>15}: acc {got['acc']:.4f}  acc_norm {got['acc_norm']:.4f}  {took:.0f} s")
    print(
        f"same ending chosen in {same} of {args.count}; log-probabilities of {len(pairs)} endings "
        f"at most {max(abs(a - b) for a, b in pairs):.1e} apart"
    )


if __name__ == "__main__":
    main()
