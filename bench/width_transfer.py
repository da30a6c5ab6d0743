"""Where the best learning rate lies over widths, with `width_transfer` and without.

    python bench/width_transfer.py [--kinds adamw] [--widths 32 64 128] [--steps 100] [--write]

Two layers on stories of the story world, one token a byte, the same rows in the same order for every run;
a rate is judged by the mean training loss of the last tenth of the steps. Rates go by factors of 2, and
each width's minimum is that of a parabola through the best rate and its neighbours. --write makes
docs/results/width_transfer.md and its drawing.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt

from glassbox.core.config import parse_any
from glassbox.core.files import write_json, write_text
from glassbox.data.storyworld import CorpusSizes, StoryWorldConfig, write_corpus
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import Initialization
from glassbox.models.shapes import LlamaShape
from glassbox.optim.schedules.warmup_cosine import WarmupCosine
from glassbox.optim.specs import OptimizerConfig
from glassbox.optim.width_transfer import WidthTransfer

ROWS, LENGTH, BASE = 8, 64, 32
RATES = {
    "adamw": [2.0**e for e in range(-11, -3)],
    "muon": [2.0**e for e in range(-8, 0)],
}
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def stories() -> torch.Tensor:
    """The bytes of a generated corpus, one long row."""
    small = dict.fromkeys(set(CorpusSizes.model_fields) - {"train_bytes"}, 1)
    with tempfile.TemporaryDirectory() as name:
        write_corpus(StoryWorldConfig(), name, CorpusSizes(train_bytes=600_000, **small))
        lines = (Path(name) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def loss_of(
    text: torch.Tensor, kind: str, width: int, rate: float, steps: int, transfer: bool
) -> float:
    """The mean loss of the last tenth of a run; infinite where it diverged."""
    torch.manual_seed(0)
    rule = WidthTransfer(base_width=BASE)
    config = LlamaShape(
        hidden_size=width,
        num_layers=2,
        num_heads=width // 16,
        ffn_size=2 * width,
        context_length=LENGTH,
        tie_embeddings=False,
        init=Initialization(std=0.1, embedding_std=1.0),
    ).config(256)
    model = CausalLM(rule.config(config) if transfer else config)
    spec = parse_any(OptimizerConfig, {"kind": kind}, where="optim")
    optimizer = spec.build(model)
    if transfer:
        rule.scale_rates(optimizer, model, spec.width_exponent)
    schedule = WarmupCosine(warmup_steps=steps // 10)
    order = torch.Generator().manual_seed(1)
    losses = []
    for step in range(steps):
        starts = torch.randint(len(text) - LENGTH - 1, (ROWS,), generator=order)
        rows = torch.stack([text[s : s + LENGTH + 1] for s in starts]).long()
        loss = model.cross_entropy(model.hidden_states(rows[:, :-1]), rows[:, 1:]) / (ROWS * LENGTH)
        if not torch.isfinite(loss):
            return math.inf
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate * schedule.factor(step, steps))
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-max(1, steps // 10) :]))


def minimum(rates: list[float], losses: list[float]) -> float:
    """log2 of the rate at the minimum of the parabola through the best rate and its neighbours."""
    best = int(np.argmin(losses))
    x = [math.log2(rate) for rate in rates]
    if best in (0, len(rates) - 1) or not all(map(math.isfinite, losses[best - 1 : best + 2])):
        return x[best]
    left, here, right = losses[best - 1 : best + 2]
    return x[best] + 0.5 * (left - right) / (left - 2 * here + right)


def draw(rows: list[dict[str, object]], kinds: list[str], widths: list[int], path: Path) -> None:
    """Loss over rate, one line a width; a row of panels a kind."""
    figure, axes = plt.subplots(
        len(kinds), 2, figsize=(9, 3.4 * len(kinds)), sharey="row", sharex="row", squeeze=False
    )
    for line, kind in zip(axes, kinds, strict=True):
        for axis, transfer in zip(line, (False, True), strict=True):
            for place, width in enumerate(widths):
                one = [
                    r
                    for r in rows
                    if (r["kind"], r["width"], r["transfer"]) == (kind, width, transfer)
                ]
                color = plt.get_cmap("viridis")(place / max(1, len(widths) - 1) * 0.85)
                finite = [r for r in one if math.isfinite(float(r["loss"]))]  # type: ignore[arg-type]
                axis.plot(
                    [r["rate"] for r in finite],
                    [r["loss"] for r in finite],
                    "o-",
                    ms=3,
                    color=color,
                    label=f"width {width}",
                )
            axis.set_xscale("log", base=2)
            axis.set_title(f"{kind}, {'with width_transfer' if transfer else 'as it is'}")
            axis.set_xlabel("train.lr (log scale)")
            axis.grid(alpha=0.3)
        low = min(float(r["loss"]) for r in rows if r["kind"] == kind)  # type: ignore[arg-type]
        line[0].set_ylim(low - 0.05, low + 1.2)
        line[0].set_ylabel("training loss at the end, nats a byte")
        line[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", default=["adamw"], choices=list(RATES))
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="docs/results/width_transfer.md, .png")
    options = parser.parse_args()
    text = stories()
    rows: list[dict[str, object]] = []
    table = []
    for kind in options.kinds:
        for transfer in (False, True):
            found = []
            for width in options.widths:
                losses = [
                    loss_of(text, kind, width, rate, options.steps, transfer)
                    for rate in RATES[kind]
                ]
                for rate, loss in zip(RATES[kind], losses, strict=True):
                    rows.append(
                        {
                            "kind": kind,
                            "transfer": transfer,
                            "width": width,
                            "rate": rate,
                            "loss": loss,
                        }
                    )
                found.append((minimum(RATES[kind], losses), min(losses)))
                print(kind, "transfer" if transfer else "plain", width, f"{found[-1][0]:.2f}", f"{min(losses):.4f}", flush=True)  # fmt: skip
            cells = " | ".join(f"2^{x:.1f} ({loss:.3f})" for x, loss in found)
            shift = found[-1][0] - found[0][0]
            table.append(f"| {kind} | {'yes' if transfer else 'no'} | {cells} | {shift:+.1f} |")
    if options.json:
        write_json(options.json, rows)
    if options.write:
        widths = " | ".join(f"width {w}" for w in options.widths)
        head = f"| optimizer | width_transfer | {widths} | shift of log2 |\n|{'---|' * (len(options.widths) + 3)}"
        body = "\n".join(table)
        write_text(
            RESULTS / "width_transfer.md",
            "# Best rate over widths\n\n"
            f"Two layers on the story world's text, one token a byte, {options.steps} steps of "
            f"{ROWS} rows of {LENGTH}, one seed, base_width {BASE}. Cells: the best learning rate "
            "(by a parabola through the best of a grid of factors of 2 and its neighbours) and, in "
            "brackets, the lowest training loss, nats a byte. The last column is how far the best "
            "rate moved from the narrowest model to the widest.\n\n"
            f"{head}\n{body}\n\n"
            "![Training loss over the learning rate, a line a width](width_transfer.png)\n\n"
            "Made by `python bench/width_transfer.py --write`.\n",
        )
        draw(rows, options.kinds, options.widths, RESULTS / "width_transfer.png")


if __name__ == "__main__":
    main()
