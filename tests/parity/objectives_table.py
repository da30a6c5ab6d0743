"""Writes docs/results/parity_objectives.md: tuning objectives against trl, measured.

Run as `python tests/parity/objectives_table.py --write`; without `--write` it prints the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

SEEDS = range(3)
INTRODUCTION = """\
# Parity of tuning objectives

Each loss and its gradients, on random tiny models in float64 and random batches with ragged lengths, answers of
a single token and prompts cut from the left, against trl {trl} (transformers {transformers}, torch {torch}). trl's batches
are padded on the left and on the right; ours are always padded on the right. A figure is the largest over {seeds} seeds
and both sides: |ours - theirs| over |theirs| for the loss, and over the largest entry of all gradients for the worst
weight. Tests hold each to 1e-05 (`tests/parity/tuning/test_preferences.py`); the norms and rotary tables of transformers'
models and trl's ORPO pass through float32 whatever the weights are.

"""
POLICY = """
## Objectives of a policy's own answers, and distillation

The same, with answers in groups of one prompt, one of a single token and, in tests, one of none; prompts cut from the
left. For policies trl pads prompts on the left and answers on the right of them; distillation is compared with padding
on either side. The policy has moved away from the one that sampled, so that some ratios are clipped, but for rows that
say otherwise. A policy's loss is a sum of terms that nearly cancel: one below 0.1 is compared on the scale of 0.1.
PPO is compared with a loop over tokens of our own model's logits, policy and value model alike, and held to 1e-09; its
advantages with the sums of their definition (`tests/unit/tuning/test_policy.py`). Tests: `tests/parity/tuning/test_policy_objectives.py`.

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
| DAPO's divisor with several optimizer steps a rollout | tokens of the whole rollout, shared evenly by the steps | tokens of the step's own minibatch | each step is then the mean over what it learns from |
| Answers of one prompt | each reads the prompt anew | the prompt is read once for all of them, where it pays | `tests/unit/inference/test_shared_prompts.py` holds values and gradients to those of rows apart |
| PPO | no trainer in 1.16 | clipped policy and value losses, advantages over tokens, KL in the reward or in the loss | |
| Process rewards | no trainer in 1.16 | one score a step | compared with torch's binary cross-entropy on transformers' hidden states |
"""


HEADER = ["| objective | settings | against | loss | gradients |", "|---|---|---|---|---|"]


def line(
    name: str, case: Any, against: str, measure: Callable[[Any, int, str], tuple[float, float]]
) -> str:
    """One row: the largest difference over seeds and sides."""
    found = [measure(case, seed, side) for seed in SEEDS for side in case.sides]
    loss, gradients = (max(column) for column in zip(*found, strict=True))
    settings = case.config.model_dump(exclude_defaults=True, exclude={"kind"})
    words = ", ".join(f"{key} {value}" for key, value in settings.items()) or "as they are"
    text = f"| {name} | {words} | {against} | {loss:.0e} | {gradients:.0e} |"
    print(text, file=sys.stderr)
    return text


def table() -> str:
    """The whole page."""
    import torch
    import transformers
    import trl

    from support.policy_parity import POLICY_CASES, policy_difference
    from support.preference_parity import CASES, difference

    torch.set_num_threads(1)
    lines = list(HEADER)
    for name, case in CASES.items():
        apart = ", pair by pair" if case.alone and "pair" not in case.against else ""
        lines.append(line(name, case, case.against + apart, difference))
    policies = list(HEADER)
    for name, policy in POLICY_CASES.items():
        fresh = "" if policy.moved else ", the policy unmoved"
        policies.append(line(name, policy, policy.against + fresh, policy_difference))
    introduction = INTRODUCTION.format(
        trl=trl.__version__,
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        seeds=len(SEEDS),
    )
    tables = "\n".join(lines) + "\n" + POLICY + "\n".join(policies) + "\n"
    how = "\nThe page is written by `python tests/parity/objectives_table.py --write`.\n"
    return introduction + tables + DIFFERENCES + how


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="write docs/results/parity_objectives.md"
    )
    write = parser.parse_args().write
    page = table()
    if write:
        (ROOT / "docs" / "results" / "parity_objectives.md").write_text(page, encoding="utf-8")
    else:
        print(page, end="")
