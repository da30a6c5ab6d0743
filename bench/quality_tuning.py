"""What each tuning method teaches a small model: its own held-out measure before and after, over seeds.

Rows of one measure start from one and the same model, and each is a recipe of `recipes/` with a small
budget. A row that is finished is not run again, so the script can be stopped and started:

    python bench/quality_tuning.py --run runs/quickstart-long [--seeds 3] [--minutes 60] [--only DPO] [--write]

`--run` is a finished quickstart. Its pre-trained model is fine-tuned for a few steps only, so that
there is something left to learn. `--write` writes docs/results/quality_tuning.md and its curves.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from glassbox.core.files import atomic_writer, write_json
from glassbox.data.storyworld import StoryWorldConfig, generate, read_jsonl
from glassbox.evaluation.stats import mean
from glassbox.evaluation.storyworld import (
    choose,
    judge_arithmetic,
    judge_preferences,
    judge_questions,
    judge_scores,
)
from glassbox.formats.open_model import open_on
from glassbox.runs.recipe import read_recipe
from glassbox.runs.train import run_recipe

DOCS = Path(__file__).parents[1] / "docs" / "results"
HELD_OUT = 200
PAIRS, SUMS = 2000, 2000
CHAT_STEPS, PAIR_STEPS, ROLLOUTS = 100, 60, 30
PROMPTS, GROUP = 16, 8


class Method(NamedTuple):
    """A row: its recipe, what its measure is, and what is set beside the recipe."""

    recipe: str
    measure: str
    words: tuple[str, ...]


def chats(recipe: str, *words: str) -> Method:
    """A method that learns from conversations."""
    return Method(recipe, "questions", (f"train.steps={CHAT_STEPS}", "evaluation.every=0", *words))


def preference(recipe: str, *words: str) -> Method:
    """A method that learns from pairs, 8 a step."""
    steps = f"train.steps={PAIR_STEPS}"
    return Method(recipe, "preferences", ("data.pairs_per_step=8", steps, *words))


def policy(recipe: str, section: str, *words: str, prompts: int = PROMPTS) -> Method:
    """A method that learns from its own answers: the same number of them, each learnt from twice."""
    sampling = (
        f"{section}.prompts_per_step={prompts}",
        f"{section}.max_tokens=32",
        f"{section}.updates_per_rollout=2",
        f"train.steps={2 * ROLLOUTS}",
        "train.log_every=1",
    )
    return Method(recipe, "arithmetic", (*sampling, *words))


METHODS = {
    "SFT": chats("sft.yaml"),
    "LoRA": chats("lora.yaml", "train.lr=5.0e-3", "adapter.dropout=0", "data.rows_per_batch=4"),
    "QLoRA": chats("qlora.yaml", "train.lr=5.0e-3", "adapter.dropout=0", "data.rows_per_batch=4"),
    "distillation": chats(
        "distill.yaml",
        "model=null",
        "data.row_length=512",
        "data.rows_per_step=4",
        "train.lr=2.0e-3",
    ),
    "DPO": preference("dpo.yaml", "train.lr=3.0e-4"),
    "DPO, label smoothing": preference("preference.yaml", "loss.label_smoothing=0.1"),
    "DPO, robust": preference("preference.yaml", "loss.loss=robust", "loss.label_smoothing=0.1"),
    "DPO, hinge": preference("preference.yaml", "loss.loss=hinge"),
    "DPO, a token": preference("preference.yaml", "loss.loss=sigmoid_norm", "loss.beta=1.0"),
    "IPO": preference("ipo.yaml"),
    "ORPO": preference("orpo.yaml"),
    "SimPO": preference("simpo.yaml"),
    "CPO": preference("cpo.yaml"),
    "KTO": preference("kto.yaml", "data.pairs_per_step=48", "train.lr=1.0e-4"),
    "reward model": Method("reward.yaml", "scores", ()),
    "GRPO": policy("grpo.yaml", "grpo", f"grpo.group_size={GROUP}"),
    "Dr. GRPO": policy("dr-grpo.yaml", "grpo", f"grpo.group_size={GROUP}"),
    "DAPO": policy("dapo.yaml", "grpo", f"grpo.group_size={GROUP}"),
    "GSPO": policy("gspo.yaml", "grpo", f"grpo.group_size={GROUP}"),
    "RLOO": policy("rloo.yaml", "rloo", f"rloo.group_size={GROUP}"),
    "PPO": policy("ppo.yaml", "ppo", "ppo.group_size=1", prompts=PROMPTS * GROUP),
}
MEASURES = {
    "questions": "the greedy answer to a question about a story is right",
    "preferences": "the better answer is the likelier one",
    "scores": "the better answer has the higher score",
    "arithmetic": "the greedy answer to a sum is right",
}
JUDGES = {
    "questions": judge_questions,
    "preferences": judge_preferences,
    "scores": judge_scores,
    "arithmetic": judge_arithmetic,
}
FILES = {"scores": "preferences"}
"""Whose items a measure takes, where not its own."""
START = {"questions": 60, "preferences": 15, "scores": 60, "arithmetic": 150}
"""Steps of fine-tuning behind the model that the rows of a measure start from."""


def slug(name: str) -> str:
    """A folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def prepare(run: Path, out: Path) -> None:
    """Write the data."""
    settings = json.loads((run / "corpus" / "manifest.json").read_text())["settings"]["world"]
    sums = {"arithmetic_max": 10, "arithmetic_min_steps": 1, "arithmetic_max_steps": 1}
    world = StoryWorldConfig(**settings)
    easy = StoryWorldConfig(**{**settings, **sums})
    for name, config, kind, split, count in (
        ("questions.heldout", world, "question", "heldout", HELD_OUT),
        ("preferences.train", world, "preference", "train", PAIRS),
        ("preferences.heldout", world, "preference", "heldout", HELD_OUT),
        ("arithmetic.train", easy, "problem", "train", SUMS),
        ("arithmetic.heldout", easy, "problem", "heldout", HELD_OUT),
    ):
        path = out / f"{name}.jsonl"
        if not path.exists():
            with atomic_writer(path) as file:
                for item in generate(config, kind, split, count=count):
                    file.write(json.dumps(item.to_json()).encode() + b"\n")


def start_of(what: str, run: Path, out: Path) -> Path:
    """The model that the rows of this measure start from, made where it is not there."""
    steps = START[what]
    if not steps:
        return run / "pretrain"
    folder = out / f"start-{steps}"
    words = [f"init={run / 'pretrain'}", f"data.path={run / 'corpus' / 'chats.train.jsonl'}"]
    words += [f"out={folder}", f"train.steps={steps}", "evaluation.every=0", "device=cpu"]
    if not (folder / "DONE.json").exists():
        run_recipe(read_recipe("sft.yaml", words))
    return folder


def measure(folder: Path, out: Path, what: str) -> float:
    """A model's figure on the held-out items."""
    model, tokenizer, _ = open_on(str(folder), "cpu")
    path = out / f"{FILES.get(what, what)}.heldout.jsonl"
    field = "question" if what == "questions" else "prompt"
    rows = choose(list(read_jsonl(path, (field,))), HELD_OUT, 0)
    return float(JUDGES[what](model, tokenizer, rows)["accuracy"]["value"])


def row(name: str, seed: int, run: Path, out: Path) -> None:
    """Run one method with one seed and note its figure; nothing where that was done before."""
    method, folder = METHODS[name], out / f"{slug(name)}-{seed}"
    noted = folder / "quality.json"
    if noted.exists():
        return
    chats = run / "corpus" / "chats.train.jsonl"
    data = out / f"{FILES.get(method.measure, method.measure)}.train.jsonl"
    words = [f"data.path={chats if method.measure == 'questions' else data}", f"out={folder}"]
    words += [
        f"init={start_of(method.measure, run, out)}",
        f"seed={seed}",
        "device=cpu",
        *method.words,
    ]
    words += [f"teacher={run / 'sft'}"] if name == "distillation" else []
    began = time.process_time()
    if run_recipe(read_recipe(method.recipe, words))["status"] == "interrupted":
        raise SystemExit(f"{name} was interrupted; run this again to go on")
    seconds = time.process_time() - began
    value = measure(folder, out, method.measure)
    write_json(noted, {"value": value, "seconds": seconds})
    print(f"{name}, seed {seed}: {value:.3f} after {seconds:.0f} CPU seconds", file=sys.stderr)


def before(run: Path, out: Path) -> dict[str, float]:
    """The starting models' figures. A model without a head has no scores: chance."""
    path = out / "before.json"
    if not path.exists():
        figures = {w: measure(start_of(w, run, out), out, w) for w in MEASURES if w != "scores"}
        write_json(path, {**figures, "scores": 0.5})
    return dict(json.loads(path.read_text()))


def results(out: Path, seeds: int) -> dict[str, list[dict[str, Any]]]:
    """What is there of each method."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in METHODS:
        paths = [out / f"{slug(name)}-{seed}" / "quality.json" for seed in range(seeds)]
        found[name] = [json.loads(path.read_text()) for path in paths if path.exists()]
    return {name: rows for name, rows in found.items() if rows}


def page(run: Path, out: Path, seeds: int) -> str:
    """docs/results/quality_tuning.md."""
    start, found = before(run, out), results(out, seeds)
    summary = json.loads((run / "pretrain" / "DONE.json").read_text())
    model, _, _ = open_on(str(run / "pretrain"), "cpu")
    lines = [
        "# What each tuning method teaches",
        "",
        "Every row is a recipe of `recipes/` with a small budget, from a model of "
        f"{model.num_parameters / 1e6:.1f}M parameters that has read",
        f"{summary['tokens'] / 1e6:.1f}M tokens of the story world and then, before rows of some measures, a few steps "
        "of chats. The measures are of held-out items:",
        "",
        *(
            f"- {name}: {words} (from {START[name]} steps of chats);"
            for name, words in MEASURES.items()
        ),
        "",
        f"of {HELD_OUT} each, so that one figure of about 0.8 has a binomial error of "
        f"{(0.8 * 0.2 / HELD_OUT) ** 0.5:.3f}. Chats: {CHAT_STEPS} steps of 4 x 512 tokens; the teacher of the",
        f"distillation is the run's own fine-tuned model. Pairs: {PAIR_STEPS} steps of 8 (KTO: 48 answers), of {PAIRS:,}; "
        "the reward model: its recipe as it is.",
        f"Sums: {ROLLOUTS} rollouts of {PROMPTS * GROUP} answers, each learnt from twice, sums of one step up to 10; "
        "rates are the recipes' own.",
        "After: mean over seeds, +- its standard error where there is more than one seed; of one seed alone, "
        "differences under 0.04 may be chance.",
        "CPU seconds are of one thread.",
        "",
        "| method | measure | before | after | seeds | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        after, what = mean([row["value"] for row in rows]), METHODS[name].measure
        error = "" if after.standard_error is None else f" +- {after.standard_error:.3f}"
        seconds = mean([row["seconds"] for row in rows]).value
        lines.append(
            f"| {name} | {what} | {start[what]:.3f} | {after.value:.3f}{error} | {len(rows)} | {seconds:.0f} |"
        )
    if curves(out, found, seeds):
        lines += ["", "![Mean reward of each rollout](quality_tuning.png)", ""]
        lines += ["Mean reward of each rollout's answers, sampled at temperature 1, five rollouts"]
        lines += [
            "averaged; thin lines are single seeds. DAPO's rewards hold its penalty for long answers."
        ]
    lines += [
        "",
        "The page is written by `python bench/quality_tuning.py --run RUN --write`; RUN is of `glassbox quickstart --long`.",
        "",
    ]
    return "\n".join(lines)


def rewards(folder: Path) -> list[float]:
    """Mean reward of each rollout, five averaged."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    found = [line["reward"] for line in lines if "reward" in line]
    return [sum(found[i : i + 5]) / 5 for i in range(len(found) - 4)]


def curves(out: Path, found: dict[str, Any], seeds: int) -> bool:
    """docs/results/quality_tuning.png: rewards of the policy methods; False where there are none."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=110)
    for number, name in enumerate(n for n in found if METHODS[n].measure == "arithmetic"):
        folders = [out / f"{slug(name)}-{seed}" for seed in range(seeds)]
        lines = [rewards(folder) for folder in folders if (folder / "quality.json").exists()]
        color = f"C{number}"
        for line in lines:
            axes.plot(range(3, len(line) + 3), line, color=color, linewidth=0.6, alpha=0.5)
        means = [sum(values) / len(values) for values in zip(*lines, strict=True)]
        axes.plot(range(3, len(means) + 3), means, color=color, linewidth=1.8, label=name)
    drawn = bool(axes.lines)
    if drawn:
        axes.set(xlabel="rollout", ylabel="mean reward", ylim=(0, None))
        axes.legend(frameon=False)
        figure.tight_layout()
        figure.savefig(DOCS / "quality_tuning.png")
    pyplot.close(figure)
    return drawn


def main() -> None:
    """Run what is not there yet, for as long as asked; print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, help="a finished quickstart")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="CPU time; then no row begins")
    parser.add_argument(
        "--only", default="", help="methods whose name this regular expression finds"
    )
    parser.add_argument("--write", action="store_true", help="write docs/results/quality_tuning.md")
    args = parser.parse_args()
    if args.run is None:  # as `make bench` calls it
        print("this takes an hour and a finished quickstart: give it as --run FOLDER")
        return
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    prepare(args.run, args.out)
    print(f"before: {before(args.run, args.out)}", file=sys.stderr)
    for seed in range(args.seeds):  # one seed of all methods first
        for name in METHODS:
            if re.search(args.only, name) and time.process_time() < 60 * args.minutes:
                row(name, seed, args.run, args.out)
    text = page(args.run, args.out, args.seeds)
    if args.write:
        (DOCS / "quality_tuning.md").write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
