"""Writes docs/results/parity.md: every family against transformers, from running the checks of `support.parity`.

Run as `python tests/parity/table.py --write`; without `--write` it prints the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.families import Case, all_cases  # noqa: E402

COLUMNS = (
    "family",
    "configs",
    "among them",
    "config round trip",
    "logits",
    "gradients",
    "20 greedy tokens with the cache",
    "export opened by transformers",
)
INTRODUCTION = """\
# Parity with transformers

Each family is built in transformers from several tiny configs (odd head counts, grouped keys and
values, tied and untied embeddings, biases where the family has them), every weight drawn at random,
and its weights are read into ours. A figure is the largest relative difference over these configs:
the largest entry of |ours - theirs| over the largest of |theirs|; for gradients, that of
the worst weight. Tests hold each to {tolerance:.0e}, unless a note says otherwise. Logits and gradients of the whole
sequence are compared in float64 (what differs there is the angles of positions, ours in float32),
generation and exports in float32.

- **among them**: what differs between the configs of things that conversions get wrong. "biases" are
  those that a config has a word for; BLOOM, GPT-2, Qwen2 and RWKV have theirs always.
- **config round trip**: their config, read as ours and written again, says the same.
- **20 greedy tokens with the cache**: both generate the same tokens; the figure is of the logits on the way.
- **export opened by transformers**: what we write opens there with the same weights to the bit; the figure is of the logits.

The table is written by `python tests/parity/table.py --write`, with transformers {transformers} and torch {torch}.
"""


def row(model_type: str, cases: dict[str, Case], note: str) -> tuple[str, ...]:
    """One family's line, measured."""
    from support import parity

    lost: list[str] = []
    logits = gradients = tokens = export = 0.0
    same = True
    for case in cases.values():
        lost += parity.config_words_lost(case)
        both = parity.logits_and_gradients(case)
        logits, gradients = max(logits, both[0]), max(gradients, both[1])
        same_tokens, on_the_way = parity.greedy(case)
        same, tokens = same and same_tokens, max(tokens, on_the_way)
        with tempfile.TemporaryDirectory() as folder:
            export = max(export, parity.export_difference(case, Path(folder)))
    return (
        f"`{model_type}`{note}",
        str(len(cases)),
        parity.traits_of(cases.values()),
        f"lost: {', '.join(lost)}" if lost else "same",
        _figure(logits),
        _figure(gradients),
        f"{'same' if same else 'DIFFER'}, {_figure(tokens)}",
        _figure(export),
    )


def table() -> str:
    """The whole page."""
    import torch
    import transformers

    from glassbox.models.families import FAMILIES

    def model_type(item: tuple[str, Case]) -> str:
        return item[1].model_type

    rows, notes = [], []
    known = {family.model_type for family in FAMILIES}
    found = sorted(
        (item for item in all_cases().items() if model_type(item) in known), key=model_type
    )
    for name, group in groupby(found, key=model_type):
        cases = dict(group)
        looser = sorted({(case.tolerance, case.reason) for case in cases.values() if case.reason})
        note = f" [{len(notes) + 1}]" if looser else ""
        if looser:
            said = "; ".join(f"within {tolerance:.0e}: {reason}" for tolerance, reason in looser)
            notes.append(f"[{len(notes) + 1}] {said}")
        rows.append(row(name, cases, note))
        print(" | ".join(rows[-1]), file=sys.stderr)
    introduction = INTRODUCTION.format(
        tolerance=Case("").tolerance,
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
    )
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([introduction, body, *(f"\n{note}" for note in notes)]) + "\n"


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/results/parity.md")
    write = parser.parse_args().write
    page = table()
    if write:
        (ROOT / "docs" / "results" / "parity.md").write_text(page, encoding="utf-8")
    else:
        print(page, end="")
