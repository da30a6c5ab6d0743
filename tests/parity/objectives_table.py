"""Writes docs/parity_objectives.md: preference objectives and reward models against trl, measured.

Run as `python tests/parity/objectives_table.py --write`; without `--write` it prints the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

SEEDS = range(3)
INTRODUCTION = """\
# Parity of preference objectives and reward models

Each loss and its gradients, on random tiny models in float64 and random batches with ragged lengths, answers of
a single token and prompts cut from the left, against trl {trl} (transformers {transformers}, torch {torch}). trl's batches
are padded on the left and on the right; ours are always padded on the right. A figure is the largest over {seeds} seeds
and both sides: |ours - theirs| over |theirs| for the loss, and over the largest entry of all gradients for the worst
weight. Tests hold each to 1e-05 (`tests/parity/test_preferences.py`); the norms and rotary tables of transformers'
models and trl's ORPO pass through float32 whatever the weights are.

"""
DIFFERENCES = """
## Where we differ from trl, on purpose

| what | trl | here | why |
|---|---|---|---|
| The chosen answer's own loss in ORPO, SimPO and CPO | mean over a batch's tokens | mean over each answer's tokens, then over pairs, as the papers write it | a pair then counts alike however pairs share batches and ranks; pair by pair the two are the same, and that is how they are compared |
| That loss in ORPO | over prompt and answer | over the answer; `prompt_loss: true` gives theirs | prompts are not trained on |
| The same with padding on the left | the prompt's first token is trained as well, read off padding | no such padding | the row above compares them with padding on the right |
| An empty answer in ORPO, SimPO, CPO | NaN (0 / 0) | SimPO and CPO take its mean log-probability as 0; ORPO, whose odds would be infinite, leaves out the pair's odds | one bad row must not end a run |
| Label smoothing of `sigmoid` DPO | ignored in 1.16, but for `aot` and others | -(1 - e) log sigmoid(m) - e log sigmoid(-m) | Mitchell's formula; compared with trl's `aot` of single pairs, which is the same |
| KTO's KL | mean over the batches of all ranks at once | over each micro-batch | its clamp at 0 makes it a matter of batches anyway; larger micro-batches estimate it better |
| KTO's mismatched answers | the neighbours in the data, whatever their prompts, in one fixed order | the neighbours in the step, those to the very same prompt passed over | a pair taken apart would stand in for itself |
| Process rewards | no trainer in 1.16 | one score a step | compared with torch's binary cross-entropy on transformers' hidden states |
"""


def table() -> str:
    """The whole page."""
    import torch
    import transformers
    import trl

    from support.preference_parity import CASES, difference

    torch.set_num_threads(1)
    lines = ["| objective | settings | against | loss | gradients |", "|---|---|---|---|---|"]
    for name, case in CASES.items():
        found = [difference(case, seed, side) for seed in SEEDS for side in case.sides]
        loss, gradients = (max(column) for column in zip(*found, strict=True))
        settings = case.config.model_dump(exclude_defaults=True, exclude={"kind"})
        words = ", ".join(f"{key} {value}" for key, value in settings.items()) or "as they are"
        against = case.against + (
            ", pair by pair" if case.alone and "pair" not in case.against else ""
        )
        lines.append(f"| {name} | {words} | {against} | {loss:.0e} | {gradients:.0e} |")
        print(lines[-1], file=sys.stderr)
    introduction = INTRODUCTION.format(
        trl=trl.__version__,
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        seeds=len(SEEDS),
    )
    how = "\nThe page is written by `python tests/parity/objectives_table.py --write`.\n"
    return introduction + "\n".join(lines) + "\n" + DIFFERENCES + how


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/parity_objectives.md")
    write = parser.parse_args().write
    page = table()
    if write:
        (ROOT / "docs" / "parity_objectives.md").write_text(page, encoding="utf-8")
    else:
        print(page, end="")
