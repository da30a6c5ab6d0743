"""How long users wait when requests come by chance: time to first token and between tokens, under load.

Requests arrive as a Poisson process of each rate in turn and are answered by one running engine,
step by step, with prompts read in chunks and, in the same run, read whole. The clock is the
processor time of this one thread, so a busy machine does not lengthen the waits: while there is
nothing to do it jumps to the next arrival. Drawn are the 50th and 99th percentile of both waits.

    python bench/serve_load.py [--model smollm2 | --model FOLDER] [--rates 2 5 10 15]
                               [--requests 100] [--new 48] [--plot docs/results/serving_load.png]

Without --model: a random model of the quickstart's shape. For comparison the first fifth of the
requests, each alone in an idle engine that reads in chunks, is measured first: the dotted line.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from glassbox.formats.open_model import open_model
from glassbox.inference import Engine, SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

Percentiles = tuple[float, float, float, float]


@dataclass
class Waits:
    """Seconds: from arrival to first token, from each token to the next; and what the run did."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    busy_seconds: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    preemptions: int = 0

    def percentiles(self) -> Percentiles:
        """TTFT p50 and p99, inter-token p50 and p99, in milliseconds."""
        first, between = (np.percentile(x, [50, 99]) * 1e3 for x in (self.first, self.between))
        return (*first, *between)


@dataclass(frozen=True)
class Arrival:
    """When, and with what prompt."""

    seconds: float
    prompt: list[int]


def small_model() -> CausalLM:
    """The quickstart's shape, with a longer context."""
    mixer = GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary())
    config = ModelConfig(
        vocab_size=1024,
        hidden_size=128,
        context_length=2048,
        blocks=[Repeat(block=BlockSpec(mixer=mixer, ffn=SwiGlu(size=384)), times=6)],
    )
    torch.manual_seed(0)
    return CausalLM(config).eval()


def arrivals(rate: float, number: int, lengths: tuple[int, int], vocab: int) -> list[Arrival]:
    """A Poisson process; prompt lengths log-uniform, so that a few are long. The same every time."""
    chance = np.random.default_rng(0)
    times = np.cumsum(chance.exponential(1 / rate, number))
    sizes = np.exp(chance.uniform(*np.log(lengths), number)).astype(int)
    return [
        Arrival(float(at), chance.integers(1, vocab, size).tolist())
        for at, size in zip(times, sizes, strict=True)
    ]


def serve(engine: Engine, requests: list[Arrival], new: int) -> Waits:
    """Answer them as they come. The clock is this thread's processor time and the idle time skipped."""
    waits, skipped = Waits(), 0.0
    params = SamplingParams(max_tokens=new, temperature=0.8, seed=0, ignore_eos=True)
    coming = sorted(requests, key=lambda request: request.seconds, reverse=True)
    arrived: dict[int, float] = {}
    last: dict[int, float] = {}
    before = engine.stats()
    begin = time.thread_time()
    while coming or engine.has_work:
        now = time.thread_time() - begin + skipped
        if not engine.has_work and coming[-1].seconds > now:
            skipped += coming[-1].seconds - now
            now = coming[-1].seconds
        while coming and coming[-1].seconds <= now:
            request = coming.pop()
            arrived[engine.add(request.prompt, params)] = request.seconds
        events = engine.step()
        now = time.thread_time() - begin + skipped
        for event in events:
            assert event.error is None, event.error
            number = event.request_id
            if number in last:
                waits.between.append(now - last[number])
            else:
                waits.first.append(now - arrived[number])
            last[number] = now
            waits.tokens += 1
    after = engine.stats()
    assert waits.tokens == new * len(requests), "an answer is not complete"
    assert after.blocks_free == after.blocks_total, "a block was not given back"
    waits.busy_seconds = time.thread_time() - begin
    waits.seconds = waits.busy_seconds + skipped
    waits.preemptions = after.preemptions - before.preemptions
    return waits


def plot(
    path: Path,
    title: str,
    rates: list[float],
    runs: dict[str, list[Percentiles]],
    alone: Percentiles,
) -> None:
    """Two panels: the wait for the first token and that between tokens, by rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    labels = ("to the first token", "between tokens")
    for place, (panel, label) in enumerate(zip(panels, labels, strict=True)):
        for colour, (name, measured) in zip(("C0", "C1"), runs.items(), strict=True):
            values = np.array(measured)[:, 2 * place : 2 * place + 2]
            panel.plot(rates, values[:, 0], "o-", color=colour, label=f"{name}, median")
            panel.plot(rates, values[:, 1], "o--", color=colour, label=f"{name}, 99%")
        panel.axhline(alone[2 * place], color="grey", linestyle=":", label="alone, median")
        panel.set(xlabel="requests a second", ylabel=f"milliseconds {label}", yscale="log")
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Each rate, with prompts in chunks and whole, in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--rates", type=float, nargs="+", default=[2, 5, 10, 15])
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--prompts", type=int, nargs=2, default=[16, 1024], metavar=("MIN", "MAX"))
    parser.add_argument("--budget", type=int, default=128, help="tokens a step")
    parser.add_argument("--rows", type=int, default=32, help="answers at the same time")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = small_model() if args.model is None else open_model(args.model)[0]
    engines = {
        name: Engine(
            model,
            max_batch=args.rows,
            token_budget=args.budget,
            chunked_prefill=chunked,
            cache_tokens=args.rows * (args.prompts[1] + args.new),
            prefix_sharing=False,  # every run has the same prompts
            keep_prefixes=True,
        )
        for name, chunked in (("in chunks", True), ("whole", False))
    }
    lengths, vocab = (args.prompts[0], args.prompts[1]), model.config.vocab_size
    alone = serve(
        engines["in chunks"], arrivals(1e-6, max(args.requests // 5, 5), lengths, vocab), args.new
    )
    print("rate  prompts    TTFT p50   p99 (ms)  between p50   p99 (ms)  tokens/s  busy  preempted")

    def row(rate: str, name: str, waits: Waits) -> None:
        first, first99, between, between99 = waits.percentiles()
        print(
            f"{rate:>5} {name:<10} {first:8.1f} {first99:9.1f} {between:12.1f} {between99:10.1f} "
            f"{waits.tokens / waits.seconds:9.1f} {waits.busy_seconds / waits.seconds:5.0%} "
            f"{waits.preemptions:6}",
            flush=True,
        )

    row("-", "alone", alone)
    runs: dict[str, list[Waits]] = {name: [] for name in engines}
    for rate in args.rates:
        for name, engine in engines.items():
            runs[name].append(
                serve(engine, arrivals(rate, args.requests, lengths, vocab), args.new)
            )
            row(f"{rate:g}", name, runs[name][-1])
    if args.plot is not None:
        name = "a 1.4M model" if args.model is None else args.model
        title = (
            f"{name}, one CPU thread: prompts of {lengths[0]}-{lengths[1]} tokens read in chunks of "
            f"at most {args.budget} or whole, answers of {args.new}"
        )
        measured = {name: [waits.percentiles() for waits in all_] for name, all_ in runs.items()}
        plot(args.plot, title, args.rates, measured, alone.percentiles())


if __name__ == "__main__":
    main()
