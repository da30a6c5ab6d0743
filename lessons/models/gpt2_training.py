"""A GPT-2 in miniature through all stages of training, on glassbox's public API.

    python gpt2_training.py                    # some six minutes on a CPU, into runs/gpt2-training
    python gpt2_training.py --out runs/mine    # elsewhere; a run that was stopped goes on there
    python gpt2_training.py --share 0.05       # a twentieth of the steps: a look, nothing learned

1 pre-training   2 chats (SFT)   3 preferences: DPO; a reward model and PPO   4 distillation
5 LoRA   6 reinforcement learning on reasoning: a calculator as a tool, and planning.

The world is small, so that a small model learns it: twelve stops on a ring, A to L, where a plan is
the shortest way from one stop to another, and sums of two numbers below 100, which it hands to a
calculator. The chats of stage 2 are wordy in every other plan, and stages 3 and 6 have to make the
plan alone the answer. Some ways and sums are kept apart: what is counted was never trained on.
It needs the package glassbox-lm; everything else in this folder needs torch alone.

How to read the shares that it prints. They are a demonstration of the stages, not a measurement of
the methods: the task and the settings of every stage were chosen while looking at these very counts,
of one seed. 24 ways are held out, so one way is 4 points. Only the plan alone counts as right; a
right plan behind wordy words does not, and half of SFT's chats are wordy, so its 8% are mostly a
matter of form. GRPO starts from the DPO model and does not improve on it. LoRA, which learns another
form, and the distilled student end below the model that they start from.
"""

import argparse
import json
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import glassbox

STOPS = "ABCDEFGHIJKL"
CALCULATOR = r"<tool>{}+{}</tool>"

# -------------------------------------------------------------------------------------- the world


def shortest_way(start: str, end: str) -> list[str]:
    """The stops from `start` to `end` along the ring, the shorter way round."""
    here, there, size = STOPS.index(start), STOPS.index(end), len(STOPS)
    step = 1 if (there - here) % size <= size // 2 else -1
    count = min((there - here) % size, (here - there) % size)
    return [STOPS[(here + step * i) % size] for i in range(count + 1)]


def wordy(plan: str) -> str:
    """The same plan behind words that nobody needs."""
    return f"Of course! A way that you can take is {plan}"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def plan_question(pair: tuple[str, str]) -> str:
    return f"Plan a way from {pair[0]} to {pair[1]}."


def sum_question(pair: tuple[int, int]) -> str:
    return f"What is {pair[0]} + {pair[1]}?"


def plan_chat(pair: tuple[str, str], between: str = " ") -> list[dict[str, str]]:
    return [user(plan_question(pair)), assistant(between.join(shortest_way(*pair)))]


def wordy_chat(pair: tuple[str, str]) -> list[dict[str, str]]:
    return [user(plan_question(pair)), assistant(wordy(" ".join(shortest_way(*pair))))]


def sum_chat(pair: tuple[int, int]) -> list[dict[str, str]]:
    """The answer calls the calculator, is told the result, and says it."""
    result = str(sum(pair))
    call = assistant(CALCULATOR.format(*pair))
    return [user(sum_question(pair)), call, {"role": "tool", "content": result}, assistant(result)]


class World:
    """All ways and some sums, in a training part and a part that is kept apart."""

    def __init__(self, folder: Path) -> None:
        self.folder, draw = folder, random.Random(0)
        half = len(STOPS) // 2  # opposite stops have two shortest ways
        ways = [(a, b) for a in STOPS for b in STOPS if a != b and len(shortest_way(a, b)) <= half]
        sums = [(a, b) for a in range(10, 100) for b in range(10, 100)]
        draw.shuffle(ways)
        draw.shuffle(sums)
        fifth = len(ways) // 5
        self.ways, self.new_ways = ways[fifth:], ways[:fifth]
        self.sums, self.new_sums = sums[300:2000], sums[:300]
        self.draw = draw
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, rows: Iterable[Any]) -> str:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    def text(self) -> str:
        """Documents to pre-train on: journeys of any length round the ring, and sums."""
        rows = []
        for _ in range(3000):
            start, step = self.draw.randrange(len(STOPS)), self.draw.choice((1, -1))
            length = self.draw.randrange(2, 7)
            way = [STOPS[(start + step * i) % len(STOPS)] for i in range(length)]
            if (way[0], way[-1]) not in self.new_ways:
                rows.append({"text": f"From {way[0]} to {way[-1]} we passed {' '.join(way)}."})
            a, b = self.draw.choice(self.sums)
            rows.append({"text": f"The calculator says that {a}+{b} is {a + b}."})
        return self.write("text", rows)

    def chats(self) -> str:
        """Demonstrations as people give them: every other plan is wordy."""
        ways = [chat(pair) for pair in self.ways for chat in (plan_chat, wordy_chat)]
        sums = [sum_chat(pair) for pair in self.sums[: 3 * len(ways)]]
        rows = [{"messages": chat} for chat in [*ways * 3, *sums]]
        self.draw.shuffle(rows)
        return self.write("chats", rows)

    def preferences(self) -> str:
        """The plan alone is preferred to the wordy one."""
        rows = []
        for pair in self.ways:
            chosen, rejected = plan_chat(pair), wordy_chat(pair)
            rows.append({"prompt": chosen[:1], "chosen": chosen[1:], "rejected": rejected[1:]})
        self.draw.shuffle(rows)
        return self.write("preferences", rows)

    def plans(self) -> str:
        rows = [
            {"prompt": plan_question(p), "answer": " ".join(shortest_way(*p))} for p in self.ways
        ]
        return self.write("plans", rows)

    def problems(self) -> str:
        """Plans and sums, each with the answer that a rule can check."""
        rows = [
            {"prompt": plan_question(p), "answer": " ".join(shortest_way(*p))} for p in self.ways
        ]
        rows += [{"prompt": sum_question(p), "answer": str(sum(p))} for p in self.sums[: len(rows)]]
        self.draw.shuffle(rows)
        return self.write("problems", rows)

    def arrows(self) -> str:
        """Plans in another form, for LoRA to learn, among sums as before."""
        ways = [plan_chat(pair, " > ") for pair in self.ways]
        sums = [sum_chat(pair) for pair in self.sums[: 2 * len(ways)]]
        rows = [{"messages": chat} for chat in [*ways * 4, *sums]]
        self.draw.shuffle(rows)
        return self.write("arrows", rows)


# ------------------------------------------------------------------------------------ measurement


def calls_and_plans(world: World, run: glassbox.RunResult, between: str = " ") -> dict[str, float]:
    """Share of new ways planned rightly, and of new sums handed to the calculator unchanged."""
    llm = run.load().llm()
    params = glassbox.SamplingParams(max_tokens=40, temperature=0)
    questions = [plan_question(pair) for pair in world.new_ways]
    questions += [sum_question(pair) for pair in world.new_sums[:40]]
    expected = [between.join(shortest_way(*pair)) for pair in world.new_ways]
    expected += [CALCULATOR.format(*pair) for pair in world.new_sums[:40]]
    answers = llm.chat([[user(question)] for question in questions], params)
    right = [a.text.strip() == wanted for a, wanted in zip(answers, expected, strict=True)]
    ways = len(world.new_ways)
    return {"plans": sum(right[:ways]) / ways, "calls": sum(right[ways:]) / (len(right) - ways)}


def train(recipe: dict[str, Any], share: float) -> glassbox.RunResult:
    """`share` of the recipe's steps, at least one."""
    steps = max(1, round(share * recipe["train"]["steps"]))
    recipe["train"] |= {"steps": steps, "checkpoint_every": steps}
    return glassbox.run_recipe(recipe)


# ---------------------------------------------------------------------------------------- stages


def pretrain(world: World, out: str) -> dict[str, Any]:
    """Next-token prediction on text, from random weights; the tokenizer is learned on the way."""
    return {
        "stage": "pretrain",
        "out": out,
        "tokenizer": {"vocab_size": 320, "pattern": "qwen2"},  # every digit is a token of its own
        "data": {"path": world.text(), "row_length": 128, "rows_per_step": 16},
        "model": {
            "kind": "gpt2",
            "hidden_size": 96,
            "num_layers": 3,
            "num_heads": 4,
            "context_length": 128,
        },
        "train": {"steps": 200, "lr": 3e-3, "schedule": {"kind": "warmup_cosine"}},
    }


def sft(world: World, out: str, init: str) -> dict[str, Any]:
    """Next-token prediction on the assistant's words alone: questions are read, not learned."""
    return {
        "stage": "sft",
        "out": out,
        "init": init,
        "data": {"path": world.chats(), "row_length": 128, "rows_per_step": 16},
        "train": {"steps": 250, "lr": 2e-3, "schedule": {"kind": "warmup_cosine"}},
    }


def dpo(world: World, out: str, init: str) -> dict[str, Any]:
    """Chosen answers gain on rejected ones, compared with the model as it was at the start."""
    return {
        "stage": "dpo",
        "out": out,
        "init": init,
        "data": {"path": world.preferences(), "pairs_per_step": 16, "max_length": 96},
        "train": {"steps": 40, "lr": 5e-5},
    }


def reward(world: World, out: str, init: str) -> dict[str, Any]:
    """The same pairs teach a scalar head to tell better answers from worse."""
    return {
        "stage": "reward",
        "out": out,
        "init": init,
        "data": {"path": world.preferences(), "pairs_per_step": 16, "max_length": 96},
        "train": {"steps": 30, "lr": 1e-3},
    }


def ppo(world: World, out: str, init: str, judge: str) -> dict[str, Any]:
    """The model writes plans, the reward model judges them, a value model is learned along."""
    return {
        "stage": "ppo",
        "out": out,
        "init": init,
        "value_init": judge,
        "data": {"path": world.plans()},
        "graders": [{"kind": "reward_model", "model": judge}],
        "ppo": {"prompts_per_step": 32, "group_size": 1, "max_tokens": 40, "kl_beta": 0.05},
        "train": {"steps": 30, "lr": 1e-4, "schedule": {"kind": "constant"}},
    }


def distill(world: World, out: str, teacher: str) -> dict[str, Any]:
    """A student of a third of the size learns the teacher's distributions, not its words alone."""
    return {
        "stage": "distill",
        "out": out,
        "teacher": teacher,
        "model": {
            "kind": "gpt2",
            "hidden_size": 48,
            "num_layers": 3,
            "num_heads": 4,
            "context_length": 128,
        },
        "data": {"path": world.chats(), "form": "chats", "row_length": 128, "rows_per_step": 16},
        "distill": {"mode": "logits", "temperature": 2.0, "hard_weight": 0.2},
        "train": {"steps": 350, "lr": 4e-3, "schedule": {"kind": "warmup_cosine"}},
    }


def lora(world: World, out: str, init: str) -> dict[str, Any]:
    """Another form of answer by matrices of rank 8 beside frozen weights."""
    return {
        "stage": "sft",
        "out": out,
        "init": init,
        "data": {"path": world.arrows(), "row_length": 128, "rows_per_step": 8},
        "adapter": {"kind": "lora", "targets": ["all-linear"], "rank": 8, "alpha": 16},
        "train": {"steps": 120, "lr": 3e-3, "schedule": {"kind": "warmup_cosine"}},
    }


def reasoning(world: World, out: str, init: str) -> dict[str, Any]:
    """GRPO: several answers to each problem, and those that a rule finds right are made likelier.

    A turn that ends in a call is answered by the calculator, and the model goes on from there; what
    the tool said is read and never trained on.
    """
    return {
        "stage": "grpo",
        "out": out,
        "init": init,
        "data": {"path": world.problems()},
        "graders": [{"kind": "exact", "last_line": True}],
        "grpo": {
            "prompts_per_step": 12,
            "group_size": 6,
            "max_tokens": 40,
            "tools": {"names": ["calculator"], "rounds": 2},
        },
        "train": {"steps": 30, "lr": 2e-4, "schedule": {"kind": "constant"}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpt2-training"))
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of every stage")
    options = parser.parse_args()
    if not 0 < options.share <= 1:
        parser.error("--share takes more than 0 and at most 1")
    world, began = World(options.out / "data"), time.perf_counter()
    lines: list[str] = []

    def stage(name: str, recipe: dict[str, Any], between: str | None = " ") -> str:
        """Train, and say what the model can do with ways and sums that it never saw."""
        run = train({"device": "cpu", **recipe}, options.share)
        size = run.load().model.num_parameters
        line = f"{name:<22}{size:>9,} parameters  {time.perf_counter() - began:5.0f} s"
        if between is not None:
            shares = calls_and_plans(world, run, between)
            line += "".join(f"   {what} {share:4.0%}" for what, share in shares.items())
        lines.append(line)
        print(line, flush=True)
        return str(run.folder)

    def out(name: str) -> str:
        return str(options.out / name)

    base = stage("1 pre-training", pretrain(world, out("1-pretrain")), None)
    chat = stage("2 chats", sft(world, out("2-sft"), base))
    aligned = stage("3 preferences, DPO", dpo(world, out("3-dpo"), chat))
    judge = stage("3 reward model", reward(world, out("3-reward"), chat), None)
    stage("3 PPO", ppo(world, out("3-ppo"), chat, judge))
    stage("4 distillation", distill(world, out("4-distill"), aligned))
    stage("5 LoRA, with arrows", lora(world, out("5-lora"), aligned), " > ")
    final = stage("6 tools and planning", reasoning(world, out("6-reasoning"), aligned))

    print("\nAll stages; shares of new plans and of new calls of the calculator that are right")
    print("\n".join(lines))
    model = glassbox.load(final)
    print(f"\n{plan_question(world.new_ways[0])}")
    print(f"  {model.chat(plan_question(world.new_ways[0]), max_tokens=40, temperature=0)}")
    messages = [user(sum_question(world.new_sums[0]))]
    print(messages[0]["content"])
    messages.append(assistant(model.chat(messages, max_tokens=40, temperature=0)))
    messages.append({"role": "tool", "content": str(sum(world.new_sums[0]))})
    answer = model.chat(messages, max_tokens=40, temperature=0)
    print(f"  {messages[1]['content']} -> the calculator says {messages[2]['content']} -> {answer}")


if __name__ == "__main__":
    main()
