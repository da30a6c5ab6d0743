"""What a mixer costs as the sequence grows: seconds and memory of a training pass, and bytes of state.

    python bench/mixers_length.py [--lengths 1024 2048 4096 8192 16384] [--kinds "full attention" mamba2]
        [--threads 1] [--repeats 3] [--device cpu] [--limit 120] [--plot]

One layer of each kind at width 128, one row, float32, forward and backward. On the CPU each measurement
runs in a process of its own, forked, so that its highest resident memory is its own; with one thread
CPU seconds are counted, which a busy machine disturbs less than the clock. A kind that took
longer than --limit seconds a pass is not tried at longer lengths. `x2` is the factor of the last
doubling: 2 is linear, 4 quadratic. --plot writes docs/results/mixers_length.png.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import time
import typing
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import Bench

from glassbox.core.config import Spec
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.block_mixture import BlockMixture
from glassbox.layers.context import Context
from glassbox.layers.delta_net import DeltaNet, GatedDelta
from glassbox.layers.gated_attention_unit import GatedAttentionUnit
from glassbox.layers.indexer import Indexer
from glassbox.layers.initialization import Draw, Initializes
from glassbox.layers.latent import Latent
from glassbox.layers.lightning import Lightning
from glassbox.layers.mamba import Mamba
from glassbox.layers.mamba2 import Mamba2
from glassbox.layers.native_sparse import NativeSparse
from glassbox.layers.retention import Retention
from glassbox.layers.rotary import Rotary
from glassbox.layers.rwkv import RwkvTime
from glassbox.layers.rwkv7 import Rwkv7Time
from glassbox.models.config import Mixer

SIZE = 128
HEADS = {"num_heads": 4, "num_kv_heads": 2, "positions": Rotary()}
LATENT = {"num_heads": 4, "kv_rank": 64, "nope_dim": 32, "rope_dim": 16, "value_dim": 32}

KINDS: dict[str, Spec] = {
    "full attention": GroupedQuery(**HEADS),
    "window of 256": GroupedQuery(**HEADS, window=256),
    "latent": Latent(**LATENT),
    "latent, indexer": Latent(**LATENT, indexer=Indexer(num_heads=4, head_dim=32, top_k=256)),
    "native sparse": NativeSparse(**HEADS, num_selected=8, window=256),
    "block mixture": BlockMixture(**HEADS, block_size=128, top_k=3),
    "flash unit": GatedAttentionUnit(),
    "lightning": Lightning(num_heads=4),
    "retention": Retention(num_heads=4),
    "delta": DeltaNet(num_heads=4),
    "gated delta": GatedDelta(num_heads=4),
    "mamba": Mamba(),
    "mamba2": Mamba2(num_heads=8),
    "rwkv": RwkvTime(),
    "rwkv7": Rwkv7Time(head_dim=32),
}
"""Every kind of mixer, at the sizes that are measured; a new one is a line here."""


@dataclass(frozen=True)
class Cost:
    """Of one forward and backward pass, and of decoding."""

    seconds: float
    memory_bytes: int
    state_bytes: int


def measure(spec: Spec, length: int, device: torch.device, repeats: int, threads: int) -> Cost:
    """Median seconds after a warm-up, and the most memory beyond what was held before."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    layer = spec.build(SIZE)
    for module in layer.modules():
        if isinstance(module, Initializes):
            module.initialize(Draw(0.02, 0.02, 0.02, generator))
    layer.to(device)

    def run(length: int) -> float:
        hidden = torch.randn(1, length, SIZE, generator=generator).to(device).requires_grad_()
        context = Context(positions=torch.arange(length, device=device)[None])
        start = clock(device, threads)
        layer(hidden, context).sum().backward()
        seconds = clock(device, threads) - start
        layer.zero_grad()
        return seconds

    run(64)
    held = memory_now(device)
    run(min(length, 1024))  # the first long pass is slower
    seconds = [run(length) for _ in range(repeats)]
    peak = memory_peak(device)
    state = layer.init_state(1, length, device=device, dtype=torch.float32)
    return Cost(statistics.median(seconds), max(0, peak - held), state.cache_bytes)


def clock(device: torch.device, threads: int) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif threads == 1:
        return time.process_time()
    return time.perf_counter()


def memory_now(device: torch.device) -> int:
    """Bytes held at this moment."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return memory_peak(device)  # of a forked process's beginning, so nothing was ever higher


def memory_peak(device: torch.device) -> int:
    """The most bytes held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_a_process(spec: Spec, length: int, repeats: int, threads: int) -> Cost:
    """`measure` on the CPU in a fork, whose memory begins where ours stands."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def work() -> None:
        send.send(measure(spec, length, torch.device("cpu"), repeats, threads))
        os._exit(0)  # without torch's tidying up

    process = context.Process(target=work)
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise SystemExit(f"measuring {spec} at {length} tokens failed; see above") from None
    finally:
        process.join()


def growth(costs: dict[int, Cost], value: str) -> str:
    """The factor of the last doubling."""
    pairs = [(n, 2 * n) for n in costs if 2 * n in costs]
    if not pairs:
        return "-"
    low, high = (getattr(costs[n], value) for n in pairs[-1])
    return f"{high / low:.1f}" if low else "-"


def print_table(found: dict[str, dict[int, Cost]], lengths: list[int]) -> None:
    """Three tables: seconds, memory, state."""
    for title, value, factor in (
        ("forward + backward, ms", "seconds", 1e3),
        ("peak memory of it, MB", "memory_bytes", 1e-6),
        ("decoding state, kB", "state_bytes", 1e-3),
    ):
        print(f"\n{title:<24}" + "".join(f"{length:>10}" for length in lengths) + f"{'x2':>7}")
        for kind, costs in found.items():
            cells = [
                f"{getattr(costs[n], value) * factor:>10.1f}" if n in costs else f"{'-':>10}"
                for n in lengths
            ]
            print(f"{kind:<24}" + "".join(cells) + f"{growth(costs, value):>7}")


def plot(found: dict[str, dict[int, Cost]], path: Path) -> None:
    """Seconds, memory and state against length, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 5.5), layout="constrained")
    colours = pyplot.get_cmap("tab10").colors
    panels = (
        ("seconds, forward + backward", "seconds", 1.0),
        ("peak memory, MB", "memory_bytes", 1e-6),
        ("decoding state, kB", "state_bytes", 1e-3),
    )
    for axis, (title, value, factor) in zip(axes, panels, strict=True):
        for number, (kind, costs) in enumerate(found.items()):
            axis.plot(
                list(costs),
                [getattr(cost, value) * factor for cost in costs.values()],
                marker="o",
                markersize=3,
                color=colours[number % len(colours)],
                linestyle=("-", "--", ":")[number // len(colours)],
                label=kind,
            )
        axis.set(title=title, xlabel="tokens")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.grid(visible=True, which="major", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=110)
    print(f"\nwrote {path}")


def main() -> None:
    """Measure every kind at every length; print as they come, then the tables."""
    bench = Bench(__doc__, threads=1, repeats=3)
    add = bench.parser.add_argument
    add("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    add("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    add("--device", default="cpu")
    add("--limit", type=float, default=120.0, help="seconds a pass")
    add("--plot", action="store_true", help="write docs/results/mixers_length.png")
    args = bench.options()
    union = typing.get_args(typing.get_args(Mixer)[0])
    unmeasured = [spec.__name__ for spec in union if spec not in map(type, KINDS.values())]
    if unmeasured:
        print(f"not measured, since KINDS has no line for them: {', '.join(unmeasured)}")
    device = torch.device(args.device)
    found: dict[str, dict[int, Cost]] = {}
    for kind in args.kinds:
        found[kind] = {}
        for length in sorted(args.lengths):
            if device.type == "cpu":
                cost = in_a_process(KINDS[kind], length, args.repeats, args.threads)
            else:
                cost = measure(KINDS[kind], length, device, args.repeats, args.threads)
            found[kind][length] = cost
            bench.row(
                kind=f"{kind:16}",
                tokens=length,
                ms=cost.seconds * 1e3,
                peak_memory_bytes=cost.memory_bytes,
                state_bytes=cost.state_bytes,
            )
            if cost.seconds > args.limit:
                break
    print_table(found, sorted(args.lengths))
    if args.plot:
        plot(found, Path(__file__).parents[1] / "docs" / "results" / "mixers_length.png")
    bench.finish()


if __name__ == "__main__":
    main()
