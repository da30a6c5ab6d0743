"""How far a quickstart's model is from the best possible loss, by the tokens that it has read.

    python bench/reading_curve.py runs/long-0 runs/long-1 [--goal 0.1] [--output docs/results/long_quickstart.png]

Each run is a finished `glassbox quickstart` (`--long` evaluates every 500 steps). Its losses during
pre-training are of its first held-out documents, whose exact entropy the story world has written down.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import yaml

from glassbox.evaluation.perplexity import make_text
from glassbox.formats.open_model import open_model

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def excess_curve(run: Path) -> list[tuple[float, float]]:
    """(millions of tokens, nats a token above the entropy) at each evaluation of a run."""
    recipe = yaml.safe_load((run / "pretrain" / "recipe.yaml").read_text(encoding="utf-8"))
    _, tokenizer, _ = open_model(run / "pretrain")
    count = recipe["evaluation"]["documents"]
    with (run / "corpus" / "heldout.jsonl").open(encoding="utf-8") as lines:
        documents = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    nats = tokens = 0.0
    for document in documents:
        text = make_text(tokenizer, document["text"], document["log_prob"], prefix="eos")
        nats -= document["log_prob"]
        tokens += len(text.ids) - 1
    step_tokens = recipe["data"]["row_length"] * recipe["data"]["rows_per_step"]
    with (run / "pretrain" / "metrics.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        (row["step"] * step_tokens / 1e6, row["heldout_loss"] - nats / tokens)
        for row in rows
        if row.get("event") == "evaluation" and row["step"]
    ]


def main() -> None:
    """Print every curve and draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--goal", type=float, default=0.1, help="nats; a line in the plot")
    parser.add_argument("--output", type=Path, default=Path("docs/results/long_quickstart.png"))
    args = parser.parse_args()
    figure, axes = plt.subplots(figsize=(6.4, 3.8), dpi=130)
    for number, run in enumerate(args.runs):
        curve = excess_curve(run)
        print(run.name, " ".join(f"{tokens:.1f}M:{excess:.3f}" for tokens, excess in curve))
        axes.plot(*zip(*curve, strict=True), marker=".", label=f"seed {number}")
    axes.axhline(args.goal, color="0.6", linestyle="--", linewidth=1)
    axes.annotate(f"{args.goal} nats", (axes.get_xlim()[1], args.goal), ha="right", va="bottom")
    axes.set(xlabel="tokens read, millions", ylabel="held-out loss above the entropy, nats a token")
    axes.set_ylim(bottom=0, top=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(args.output)


if __name__ == "__main__":
    main()
