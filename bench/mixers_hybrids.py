"""The recipes that mix kinds of layer beside the plain one: the same stories, as many parameters.

    python bench/mixers_hybrids.py [--recipes pretrain hybrid-delta] [--steps 930] [--seeds 0 1]
        [--out runs/hybrids] [change=value ...]

Each recipe is trained as it is written, on the same rows in the same order; held-out documents are
compared one by one with those of pretrain.yaml by the same seed. A run that is there is not done
again, one that was interrupted goes on. Changes are of the recipes, as on the command line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glassbox.core.config import load_recipe, parse
from glassbox.core.files import write_json
from glassbox.data.storyworld import CorpusSizes, StoryWorldConfig, write_corpus
from glassbox.evaluation.perplexity import make_text
from glassbox.evaluation.scoring import token_log_probs
from glassbox.formats.open_model import open_model
from glassbox.runs.recipe import PretrainRecipe, read_recipe, recipe_folders
from glassbox.runs.shards import prepare_tokenizer
from glassbox.runs.stages.text import TokenizerConfig
from glassbox.runs.train import run_recipe

PLAIN, CONTEXT = "pretrain", 512


def make_world(out: Path, num_bytes: int) -> list[dict[str, Any]]:
    """Write the quickstart's corpus unless it is there; its held-out documents."""
    world = load_recipe("quickstart.yaml", search=recipe_folders())["world"]
    few = dict.fromkeys(CorpusSizes.model_fields, 20)
    sizes = CorpusSizes(**{**few, "train_bytes": num_bytes, "heldout": 300})
    write_corpus(parse(StoryWorldConfig, world, where="world"), out / "world", sizes)
    lines = (out / "world" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def learn(
    name: str, seed: int, out: Path, steps: int, documents: list[dict[str, Any]], changes: list[str]
) -> dict[str, Any]:
    """Train a recipe, or go on, or find it done; its loss on each held-out document."""
    words = [
        f"out={out / f'{name}-{seed}'}",
        f"tokenizer.path={out / 'tokenizer'}",
        f"data.path={out / 'world' / 'train.jsonl'}",
        f"data.heldout_path={out / 'world' / 'heldout.jsonl'}",
        f"train.steps={steps}",
        f"seed={seed}",
        "evaluation.every=0",
        *changes,
    ]
    recipe = read_recipe(f"{name}.yaml", words)
    assert isinstance(recipe, PretrainRecipe)
    prepare_tokenizer(TokenizerConfig(vocab_size=2048, pattern="qwen2"), recipe.data, out)
    summary = run_recipe(recipe)
    if summary["status"] == "interrupted":
        raise SystemExit("interrupted; run it again to go on")
    model, tokenizer, _ = open_model(recipe.out)
    texts = [make_text(tokenizer, d["text"], d["log_prob"], prefix="eos") for d in documents]
    scores = token_log_probs(model, [text.ids for text in texts])
    states = (sum(s.cache_bytes for s in model.init_state(1, n)) for n in (CONTEXT, 16 * CONTEXT))
    return {
        "parameters": model.num_parameters,
        "tokens": summary["tokens"],
        "loss": [-float(values.sum()) for values in scores],
        "entropy": [-float(d["log_prob"]) for d in documents],
        "counts": [len(values) for values in scores],
        "state_bytes": list(states),
    }


def per_token(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """A ratio of sums over documents and its standard error."""
    mean = sums.sum() / counts.sum()
    off = sums - mean * counts
    return float(mean), float(np.sqrt((off**2).sum()) / counts.sum())


def line(name: str, row: dict[str, Any], plain: dict[str, Any] | None) -> str:
    """A row of the table."""
    loss, counts = np.array(row["loss"]), np.array(row["counts"])
    mean, _ = per_token(loss, counts)
    excess, error = per_token(loss - np.array(row["entropy"]), counts)
    beside = ""
    if plain is not None:
        less, spread = per_token(loss - np.array(plain["loss"]), counts)
        beside = f"{less:+.4f} ± {spread:.4f}"
    states = " | ".join(f"{size / 1e3:,.0f} kB" for size in row["state_bytes"])
    return (
        f"| {name} | {row['parameters']:,} | {row['tokens'] / 1e6:.2f} M | {mean:.4f} "
        f"| {excess:.4f} ± {error:.4f} | {beside} | {states} |"
    )


def main() -> None:
    """Train what is missing and print the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    recipes = [PLAIN, "hybrid-delta", "hybrid-mamba2"]
    parser.add_argument("--recipes", nargs="+", default=recipes)
    parser.add_argument("--steps", type=int, default=930, help=f"of {4 * CONTEXT} tokens")
    parser.add_argument("--bytes", type=int, default=8_000_000, help="of training text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/hybrids"))
    parser.add_argument("changes", nargs="*", help="of the recipes, key.path=value")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    documents = make_world(args.out, args.bytes)
    print("| recipe | parameters | tokens | loss | excess | less the plain one's "
          f"| state at {CONTEXT} | at {16 * CONTEXT:,} |", flush=True)  # fmt: skip
    for seed in args.seeds:
        for name in args.recipes:
            kept = args.out / f"{name}-{seed}.json"
            if not kept.exists():
                write_json(
                    kept, learn(name, seed, args.out, args.steps, documents, list(args.changes))
                )
            beside = args.out / f"{PLAIN}-{seed}.json"
            plain = json.loads(beside.read_text()) if name != PLAIN and beside.exists() else None
            print(line(f"{name}, seed {seed}", json.loads(kept.read_text()), plain), flush=True)


if __name__ == "__main__":
    main()
