"""What one more token costs as the context grows: time and bytes, for every kind of cache.

    python bench/context_cost.py [--lengths 1024 4096 8192] [--kinds "full attention" mamba2]
        [--layers 4] [--steps 24] [--repeats 2] [--threads 1] [--write]

A random model of each kind, width 128, `--layers` mixers and no feed-forward, one stream through the
engine: a prompt that leaves room for `--steps` tokens before the length named, then the lower
quartile of those steps, and of `--repeats` such runs the quicker, for a busy machine slows some. Bytes are what the cache holds of that length, weights apart. With one thread CPU seconds
are counted, which a busy machine disturbs less than the clock. --write makes docs/results/context_cost.md
and docs/results/context_cost.png.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import Bench
from mixers_length import KINDS, SIZE

from glassbox.core.config import Spec
from glassbox.inference import Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

VOCAB = 256
CACHES = {
    "full attention": "pages",
    "latent": "pages",
    "latent, indexer": "pages",
    "window of 256": "ring",
    "native sparse": "a row of its own",
    "block mixture": "a row of its own",
}
"""Where a kind's past lies; all others have a running state."""


@dataclass(frozen=True)
class Cost:
    """Of one token at a length: its seconds, and the bytes that the cache holds."""

    seconds: float
    cache_bytes: int


def measure(mixer: Spec, length: int, layers: int, steps: int, clock: Callable[[], float]) -> Cost:
    """Prefill, then so many steps."""
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=SIZE,
        context_length=length,
        blocks=[Repeat(block=BlockSpec(mixer=mixer, ffn=None), times=layers)],
    )
    torch.manual_seed(0)
    model = CausalLM(config).eval()
    engine = Engine(model, max_batch=1, cache_tokens=length)
    prompt = torch.randint(VOCAB, (length - steps,)).tolist()
    engine.add(prompt, SamplingParams(temperature=0, max_tokens=steps, ignore_eos=True))
    while not engine.step():
        pass
    seconds, held = [], 0
    while engine.has_work:
        start = clock()
        engine.step()
        seconds.append(clock() - start)
        held = engine.cache_bytes or held  # nothing is held behind the last step
    return Cost(statistics.quantiles(seconds, n=4)[0], held)


def table(found: dict[str, dict[int, Cost]], lengths: list[int]) -> str:
    """Markdown: a line a kind."""
    names = [f"{length // 1024}k" for length in lengths]
    heads = [f"ms a token at {name}" for name in names] + [f"cache kB at {name}" for name in names]
    heads += [f"bytes a token at {names[-1]}"]
    lines = ["| kind | its past lies in |" + "".join(f" {head} |" for head in heads)]
    lines.append("|---|---|" + "---|" * len(heads))
    for kind, costs in found.items():
        cells = [f"{costs[length].seconds * 1e3:.2f}" for length in lengths]
        cells += [f"{costs[length].cache_bytes / 1e3:,.0f}" for length in lengths]
        cells.append(f"{costs[lengths[-1]].cache_bytes / lengths[-1]:,.0f}")
        where = CACHES.get(kind, "a running state")
        lines.append(f"| {kind} | {where} |" + "".join(f" {cell} |" for cell in cells))
    return "\n".join(lines)


def plot(found: dict[str, dict[int, Cost]], path: Path) -> None:
    """Milliseconds and kilobytes against the length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 6), layout="constrained")
    colours = pyplot.get_cmap("tab10").colors
    panels = (
        ("time of one more token, ms", lambda cost: cost.seconds * 1e3),
        ("what the cache holds, kB", lambda cost: cost.cache_bytes / 1e3),
    )
    for axis, (title, value) in zip(axes, panels, strict=True):
        for number, (kind, costs) in enumerate(found.items()):
            axis.plot(
                list(costs),
                [value(cost) for cost in costs.values()],
                marker="o",
                markersize=4,
                color=colours[number % len(colours)],
                linestyle=("-", "--", ":")[number // len(colours)],
                label=kind,
            )
        axis.set(title=title, xlabel="tokens of context")
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(costs), [f"{length // 1024}k" for length in costs])
        axis.minorticks_off()
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].set_ylim(bottom=0)
    axes[1].set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, and with --write make the page and the picture."""
    bench = Bench(__doc__, threads=1, repeats=2)
    add = bench.parser.add_argument
    add("--lengths", type=int, nargs="+", default=[1024, 4096, 8192])
    add("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    add("--layers", type=int, default=4)
    add("--steps", type=int, default=24)
    add("--write", action="store_true")
    args = bench.options()
    lengths = sorted(args.lengths)
    found: dict[str, dict[int, Cost]] = {kind: {} for kind in args.kinds}
    turns = [(length, kind) for length in lengths for kind in args.kinds]
    for length, kind in turns * args.repeats:  # in turns, so that a slow minute hits all of them
        cost = measure(KINDS[kind], length, args.layers, args.steps, bench.clock)
        before = found[kind].get(length, cost)
        cost = min(before, cost, key=lambda one: one.seconds)
        found[kind][length] = cost
    for kind, costs in found.items():
        for length, cost in costs.items():
            bench.row(
                kind=f"{kind:16}",
                tokens=length,
                ms_a_token=cost.seconds * 1e3,
                cache_bytes=cost.cache_bytes,
            )
    page = table(found, lengths)
    print(page)
    bench.finish()
    if args.write:
        docs = Path(__file__).parents[1] / "docs" / "results"
        (docs / "context_cost.md").write_text(INTRODUCTION.format(args=args) + page + "\n" + END)
        plot(found, docs / "context_cost.png")


INTRODUCTION = """# What one more token costs as the context grows

<!-- written by bench/context_cost.py --write -->

Random models of width 128, {args.layers} layers of one mixer and no feed-forward, float32, one stream through the engine, one thread's CPU seconds: the lower quartile of {args.steps} steps that end at each length, the quicker of {args.repeats} runs. "Full attention" has 4 heads over 2 key/value heads of 32. The cache is what the engine holds of one sequence, in float32; weights are not counted.

"""
END = """
![the same as a plot](context_cost.png)

Bytes are exact. Times of models this small are mostly calls of torch, and on a machine busy with other work single ones are off by up to 1.5 either way: read the rise of the kinds that keep every token, not the falls.

Pages are shared by all sequences and taken 16 tokens at a time; a ring and a running state have their size from the first token on. Kinds that choose what they look at (an indexer, sparse, block mixture) keep every token and read few of them.
"""


if __name__ == "__main__":
    main()
