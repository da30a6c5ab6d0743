"""How long a fine-tuning step and a GRPO step take, beside trl's: same weights, same data, in turns.

SFT: each step learns from the very same conversations; ours packed, trl's padded. GRPO: each step
samples G answers of at most `--new` tokens to the same prompts, grades them with the same function
and learns from them. All in float32, AdamW, gradients clipped. trl's own training loop runs, and
one step of ours after each of its steps, so that drift hits both; a step is all between two steps'
ends. With one thread CPU seconds are counted, which a busy machine disturbs less than the clock.
Peak memory is measured in a process of each one's own, above what it held before the first step.

    python bench/post_training.py [--threads 1] [--repeats 5] [--new 32] [--size tiny]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import Bench, Times

from glassbox.data.conversations import write_chat_shard
from glassbox.data.loader import PackedRows, PackedSource
from glassbox.data.shards import read_shard
from glassbox.data.storyworld import StoryWorldConfig, generate
from glassbox.formats.huggingface import load_pretrained, save_pretrained
from glassbox.inference import Engine
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.optim.adamw import AdamW
from glassbox.optim.groups import decay_groups
from glassbox.tokenizers import Tokenizer, train_bpe
from glassbox.training.config import TrainConfig
from glassbox.training.loop import Trainer
from glassbox.training.next_token import NextToken
from glassbox.tuning.policy.grpo import Grpo, GrpoConfig, RolloutSource

SIZES = {"tiny": (512, 64, 2, 176), "quickstart": (2048, 160, 3, 448)}
"""Vocabulary, width, layers, feed-forward size."""
CHATS, ROW_LENGTH = 24, 512
PROMPTS, GROUP = 8, 8
LR = 1e-5


def chats() -> list[list[dict[str, str]]]:
    """Conversations of the story world, roles and contents alone."""
    found = generate(StoryWorldConfig(), "chat", "train", count=4 * CHATS)
    plain = [
        [{"role": m["role"], "content": m["content"]} for m in chat.messages]
        for chat in found
        if all(isinstance(m.get("content"), str) and len(m) == 2 for m in chat.messages)
    ]
    return plain[:CHATS]


def problems() -> list[dict[str, Any]]:
    """Word problems."""
    found = generate(StoryWorldConfig(), "problem", "train", count=PROMPTS)
    return [{"prompt": problem.to_json()["prompt"], "answer": 0} for problem in found]


def letters(text: str) -> float:
    """What both are rewarded for: the share of small letters."""
    return sum(c.isascii() and c.islower() for c in text) / max(1, len(text))


def build(size: str, folder: Path) -> None:
    """A random model and its tokenizer, in the files of transformers."""
    vocab, width, layers, ffn = SIZES[size]
    texts = [m["content"] for chat in chats() for m in chat]
    tokenizer = train_bpe(texts * 2, vocab)
    mixer = GroupedQuery(num_heads=4, num_kv_heads=4, positions=Rotary())
    block = BlockSpec(mixer=mixer, ffn=SwiGlu(size=ffn))
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=width,
        context_length=512,
        blocks=[Repeat(block=block, times=layers)],
    )
    save_pretrained(CausalLM(config), folder, tokenizer=tokenizer)


def our_step(kind: str, folder: Path, work: Path, new: int) -> Callable[[], None]:
    """A step of the real training loop."""
    model, tokenizer = load_pretrained(folder), Tokenizer.load(folder)
    objective: Any
    source: Any
    if kind == "sft":
        write_chat_shard(work / "chats", chats(), tokenizer, row_length=ROW_LENGTH)
        rows = PackedRows(read_shard(work / "chats"), ROW_LENGTH)
        objective, source = NextToken(), PackedSource(rows, rows_per_step=len(rows))
    else:
        config = GrpoConfig(prompts_per_step=PROMPTS, group_size=GROUP, max_tokens=new)

        def grade(completion: str, problem: Mapping[str, Any]) -> float:
            return letters(completion)

        engine = Engine(model, tokenizer, max_batch=PROMPTS * GROUP)
        objective = Grpo(config)
        source = RolloutSource(engine, problems(), grade, config)
    trainer = Trainer(
        model,
        objective,
        source,
        AdamW(decay_groups(model.named_parameters(), 0.0)),
        TrainConfig(steps=10**6, lr=LR),
        folder=work / "ours",
        tokenizer=tokenizer,
    )
    model.train()
    return trainer._step


def their_run(
    kind: str,
    folder: Path,
    work: Path,
    new: int,
    steps: int,
    after: Callable[[], None],
    begin: Callable[[], None] = lambda: None,
) -> None:
    """trl's own loop for so many steps, with a call before the first and one after each."""
    import transformers
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    common: dict[str, Any] = {
        "output_dir": str(work / "trl"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "max_steps": steps,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }

    class Calls(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            after()

    trainer: Any
    if kind == "sft":
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                **common,
                assistant_only_loss=True,
                max_length=None,
                per_device_train_batch_size=CHATS,
            ),
            train_dataset=Dataset.from_list([{"messages": chat} for chat in chats()]),
            processing_class=tokenizer,
            callbacks=[Calls()],
        )
    else:
        tokenizer.eos_token = "<|im_end|>"
        model.generation_config.eos_token_id = tokenizer.eos_token_id

        def reward(completions: Sequence[Any], **_: Any) -> list[float]:
            return [letters(completion[0]["content"]) for completion in completions]

        rows = [{"prompt": problem["prompt"]} for problem in problems()]
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                **common,
                per_device_train_batch_size=PROMPTS * GROUP,
                num_generations=GROUP,
                max_completion_length=new,
                temperature=1.0,
                beta=0.0,
                loss_type="dapo",
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Calls()],
        )
    trainer.train()


def compare(
    kind: str, folder: Path, new: int, repeats: int, clock: Callable[[], float]
) -> dict[str, Times]:
    """Seconds of a step of each."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as name:
        step = our_step(kind, folder, Path(name), new)
        step()
        mark = [clock()]

        def after() -> None:
            times["theirs"].append(clock() - mark[0])
            began = clock()
            step()
            mark[0] = clock()
            times["ours"].append(mark[0] - began)

        their_run(kind, folder, Path(name), new, repeats + 1, after)
    # the first of theirs has its start-up in it
    return {who: Times(tuple(taken[1:])) for who, taken in times.items()}


def memory(kind: str, folder: Path, new: int, who: str) -> None:
    """In a process of its own: MB above what was held before the first step."""
    steps = 3
    with tempfile.TemporaryDirectory() as name:
        if who == "ours":
            step = our_step(kind, folder, Path(name), new)
            before = held()
            for _ in range(steps):
                step()
        else:
            marks: list[int] = []
            their_run(
                kind, folder, Path(name), new, steps, lambda: None, lambda: marks.append(held())
            )
            before = marks[0]
    print(json.dumps({"mb": (held("VmHWM") - before) / 1e6}))


def held(which: str = "VmRSS") -> int:
    """Bytes of memory this process holds now, or (VmHWM) has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = [line.split()[1] for line in lines if line.startswith(which + ":")]
    return int(found) * 1024


def main() -> None:
    """A line for each size of model and kind of step."""
    bench = Bench(__doc__, threads=1)
    add = bench.parser.add_argument
    add("--new", type=int, default=32, help="the most tokens of an answer")
    add("--size", choices=SIZES, action="append", help="both unless given")
    add("--memory", nargs=3, help=argparse.SUPPRESS)
    args = bench.options()
    if args.memory:
        kind, folder, who = args.memory
        memory(kind, Path(folder), args.new, who)
        return
    for size in args.size or SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model"
            build(size, folder)
            vocab, width, layers, _ = SIZES[size]
            bench.fact(
                size=size,
                vocab_size=vocab,
                layers=layers,
                hidden_size=width,
                sft_chats=CHATS,
                grpo_answers=f"{PROMPTS} x {GROUP} of {args.new} tokens",
            )
            for kind in ("sft", "grpo"):
                times = compare(kind, folder, args.new, args.repeats, bench.clock)
                megabytes = {}
                for who in times:
                    words = ["--threads", str(args.threads), "--new", str(args.new)]
                    command = [sys.executable, __file__, *words, "--memory", kind, str(folder), who]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    megabytes[who] = json.loads(done.stdout.strip().splitlines()[-1])["mb"]
                bench.row(
                    model=size,
                    step=kind,
                    ours_s=times["ours"].median,
                    trl_s=times["theirs"].median,
                    ratio=times["theirs"] / times["ours"],
                    ours_MB=megabytes["ours"],
                    trl_MB=megabytes["theirs"],
                )
    bench.finish()


if __name__ == "__main__":
    main()
