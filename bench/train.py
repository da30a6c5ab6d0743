"""Tokens a second, memory and first step of pre-training, beside transformers and nanoGPT.

Every contender is a process of its own with the same shape, batch and optimizer (AdamW, gradients clipped
at a norm of 1); they take turns, a few steps each, and medians are compared. `ours-*` is the training
loop's own step on a batch that is already there; `packed` adds documents packed into rows, as
`glassbox train` has them. `peers` are transformers' Llama or GPT-2 (AdamW fused) and, with --nanogpt, a
checkout of nanoGPT (its own model and optimizer), eager and compiled.

The limit is the time of the step's matrix products alone, each measured at its own shape in the same
run (`torch.mm`, best of several): no step can be faster, whatever it fuses. `mfu` is the share of the
fastest of those products that the step's model FLOPs reach: 6 a weight and token for every matrix, the
tied embedding once, and 6 L T D a token for causal attention.

    python bench/train.py --size 12M --precision bfloat16 [--nanogpt PATH] [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import Bench, Times, peak_memory, read_rate

LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class Size:
    """A model's shape and the step's batch."""

    kind: str  # llama or gpt2
    vocab: int
    layers: int
    width: int
    heads: int
    ffn: int
    rows: int
    length: int
    tied: bool = True

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.rows * self.length

    def products(self) -> dict[str, tuple[int, int, int]]:
        """(outputs, inputs, times a step) of each weight matrix."""
        up = 2 * self.ffn if self.kind == "llama" else self.ffn
        return {
            "qkv": (3 * self.width, self.width, self.layers),
            "output": (self.width, self.width, self.layers),
            "up": (up, self.width, self.layers),
            "down": (self.width, self.ffn, self.layers),
            "head": (self.vocab, self.width, 1),
        }

    def flops(self) -> float:
        """Model FLOPs of a step: three products a matrix, and two of causal attention with theirs."""
        matrices = sum(m * k * times for m, k, times in self.products().values())
        return 6.0 * self.tokens * (matrices + self.layers * self.length * self.width)


SIZES = {
    "1.6M": Size("llama", 2048, 3, 160, 4, 448, 4, 512, tied=False),
    "12M": Size("llama", 4096, 6, 384, 6, 1024, 8, 256),
    "124M": Size("gpt2", 50304, 12, 768, 12, 3072, 2, 512),
}


def ours(size: Size, precision: str, mode: str, packed: bool) -> Callable[[], float]:
    """A step of our training loop; `mode` is eager or compiled."""
    from glassbox.data.loader import TokenBatch
    from glassbox.models.causal_lm import CausalLM
    from glassbox.models.shapes import GPT2Shape, LlamaShape
    from glassbox.optim.adamw import AdamWConfig
    from glassbox.training.config import TrainConfig
    from glassbox.training.next_token import NextToken
    from glassbox.training.step import build_step

    common = {
        "hidden_size": size.width, "num_layers": size.layers, "num_heads": size.heads,
        "context_length": size.length,
    }  # fmt: skip
    shape = (
        LlamaShape(**common, ffn_size=size.ffn, tie_embeddings=size.tied)
        if size.kind == "llama"
        else GPT2Shape(**common)
    )
    torch.manual_seed(0)
    model = CausalLM(shape.config(size.vocab)).train()
    config = TrainConfig(
        steps=1000, lr=LEARNING_RATE, precision=precision, compile=mode == "compiled"
    )
    step = build_step(model, NextToken(), AdamWConfig().build(model), config)
    ids, targets = batch_of(size)
    documents = torch.zeros_like(ids)
    if packed:  # stories of about 150 tokens
        documents = torch.arange(size.length).expand_as(ids) // 150
    batch = TokenBatch(ids, targets, documents)

    def run() -> float:
        return step.take([batch], LEARNING_RATE).loss

    return run


def transformers(size: Size, precision: str, mode: str) -> Callable[[], float]:
    """A step of transformers' model with torch's fused AdamW; `weights` holds weights in bfloat16."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if size.kind == "llama":
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size.vocab, hidden_size=size.width, intermediate_size=size.ffn,
                num_hidden_layers=size.layers, num_attention_heads=size.heads,
                max_position_embeddings=size.length, tie_word_embeddings=size.tied,
            )
        )  # fmt: skip
    else:
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=size.vocab, n_embd=size.width, n_layer=size.layers, n_head=size.heads,
                n_positions=size.length, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )
        )  # fmt: skip
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    ids, targets = batch_of(size)
    labels = torch.cat((ids[:, :1], targets[:, :-1]), dim=1)  # it shifts them itself
    forward = torch.compile(model) if mode == "compiled" else model

    def run() -> float:
        with _autocast(precision):
            loss = forward(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return run


def nanogpt(size: Size, precision: str, mode: str, path: str) -> Callable[[], float]:
    """A step of nanoGPT's train.py: its model of the same size, its optimizer, its clipping."""
    sys.path.insert(0, path)
    with contextlib.redirect_stdout(sys.stderr):
        from model import GPT, GPTConfig

        torch.manual_seed(0)
        bias = size.kind == "gpt2"
        model: Any = GPT(
            GPTConfig(
                block_size=size.length, vocab_size=size.vocab, n_layer=size.layers,
                n_head=size.heads, n_embd=size.width, dropout=0.0, bias=bias,
            )
        )  # fmt: skip
        optimizer = model.configure_optimizers(0.1, LEARNING_RATE, (0.9, 0.95), "cpu")
    ids, targets = batch_of(size)
    forward = torch.compile(model) if mode == "compiled" else model

    def run() -> float:
        with _autocast(precision):
            _, loss = forward(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return run


def batch_of(size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """The same random batch for everybody."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(size.vocab, (size.rows, size.length + 1), generator=draw)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def _autocast(precision: str) -> contextlib.AbstractContextManager[object]:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


class Contender:
    """A process that holds one model and takes steps when it is told to."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        words = [
            sys.executable, __file__, "--worker", name, "--size", options.size,
            "--precision", options.precision, "--threads", str(options.threads),
        ]  # fmt: skip
        if options.nanogpt:
            words += ["--nanogpt", options.nanogpt]
        self.name = name
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = self._answer()

    def steps(self, count: int) -> float:
        """Seconds of a step, the mean of `count`."""
        return float(self._ask(str(count))["seconds"]) / count

    def finish(self) -> dict[str, Any]:
        """Peak memory of its steps."""
        answer = self._ask("end")
        self.process.wait()
        return answer

    def _ask(self, words: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed; its error stands above")
        found: dict[str, Any] = json.loads(line)
        return found


def work(name: str, options: argparse.Namespace) -> None:
    """What a contender's process does."""
    torch.set_num_threads(options.threads)
    kind, _, mode = name.partition("-")
    size = SIZES[options.size]
    if kind in ("ours", "packed"):
        build = partial(ours, size, options.precision, mode, kind == "packed")
        importlib.import_module("glassbox.training.step")
    elif kind == "transformers":
        build = partial(transformers, size, options.precision, mode)
        for module in ("llama.modeling_llama", "gpt2.modeling_gpt2"):
            importlib.import_module(f"transformers.models.{module}")
    else:
        build = partial(nanogpt, size, options.precision, mode, options.nanogpt)
    with peak_memory() as peak:
        began = time.perf_counter()
        run = build()
        loss = run()
        first = time.perf_counter() - began
        with contextlib.suppress(OSError):  # the compiler's own peak is not the step's
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        loss = run()
        print(json.dumps({"first": first}), flush=True)
        for line in sys.stdin:
            if line.strip() == "end":
                break
            began = time.perf_counter()
            for _ in range(int(line)):
                loss = run()
            seconds = time.perf_counter() - began
            print(json.dumps({"seconds": seconds, "loss": loss}), flush=True)
    print(json.dumps({"bytes": peak["bytes"], "loss": loss}), flush=True)


def products_seconds(size: Size, precision: str, seconds: float = 0.15) -> tuple[float, float]:
    """Seconds of all matrix products of a step, and the FLOP/s of the fastest of them."""
    dtype = getattr(torch, precision)
    total, fastest = 0.0, 0.0
    for outputs, inputs, times in size.products().values():
        x, w = torch.randn(size.tokens, inputs), torch.randn(outputs, inputs)
        grad = torch.randn(size.tokens, outputs)
        x, w, grad = x.to(dtype), w.to(dtype), grad.to(dtype)
        for a, b in ((x, w.t()), (grad, w), (grad.t(), x)):
            best, until = float("inf"), time.perf_counter() + seconds
            while time.perf_counter() < until:
                start = time.perf_counter()
                torch.mm(a, b)
                best = min(best, time.perf_counter() - start)
            total += times * best
            fastest = max(fastest, 2.0 * size.tokens * outputs * inputs / best)
    return total, fastest


def main() -> None:
    """Print a row a contender."""
    bench = Bench(__doc__)
    parser = bench.parser
    parser.add_argument("--size", choices=SIZES, default="12M")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--nanogpt", help="a checkout of nanoGPT")
    parser.add_argument("--steps", type=int, default=0, help="of a turn; 0: about a second")
    parser.add_argument("--only", nargs="*", help="these contenders, such as ours-compiled")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    if "--worker" in sys.argv:
        options = parser.parse_args()
        work(options.worker, options)
        return
    options = bench.options()
    size = SIZES[options.size]
    kinds = ["ours", "packed", "transformers", *(["nanogpt"] if options.nanogpt else [])]
    names = options.only or [f"{kind}-{mode}" for kind in kinds for mode in ("eager", "compiled")]
    # one after another, so that nobody's first step is slowed by another's compiler
    contenders = {name: Contender(name, options) for name in names}
    limit, fastest = products_seconds(size, options.precision)
    bench.fact(
        size=options.size, precision=options.precision, tokens_a_step=size.tokens,
        products_ms=1e3 * limit, fastest_product_gflops=fastest / 1e9, read_gb_s=read_rate() / 1e9,
        model_gflops=size.flops() / 1e9,
    )  # fmt: skip
    counts = {
        name: options.steps or max(1, round(1.0 / contender.steps(2)))
        for name, contender in contenders.items()
    }
    times: dict[str, Times] = bench.in_turns_by(
        {name: partial(one.steps, counts[name]) for name, one in contenders.items()}, warm=0
    )
    limit = min(limit, products_seconds(size, options.precision)[0])  # as quiet as it became
    ends = {name: contender.finish() for name, contender in contenders.items()}
    peers = [name for name in names if name.partition("-")[0] in ("transformers", "nanogpt")]
    best = min((times[name].median for name in peers), default=float("nan"))
    memory = min(
        (ends[name]["bytes"] for name in peers if name.startswith("transformers")), default=0
    )
    for name in names:
        median = times[name].median
        bench.row(
            contender=name,
            tokens_s=size.tokens / median,
            step_ms=1e3 * median,
            spread=times[name].spread,
            over_best_peer=best / median,
            of_products=limit / median,
            mfu=size.flops() / median / fastest,
            peak_mb=ends[name]["bytes"] / 1e6,
            of_transformers_mb=ends[name]["bytes"] / memory if memory else float("nan"),
            first_step_s=contenders[name].ready["first"],
        )
    bench.finish()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
