"""All matrices of SmolLM2's shape times a few rows: as they lie, by columns, and packed for oneDNN.

    python bench/packed_products.py [--threads 1 2] [--rows 1 2 4 8 32 512] [--rounds 5]

Random float32 weights of 30 layers and the output head, 538 MB, so that each product reads its matrix from
memory. The ways take turns; the quickest round of each is printed, in ms, for a busy machine slows some.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from glassbox.layers.prepacked import Pack

LAYERS = 30
SHAPES = [(960, 576), (576, 576), (3072, 576), (576, 1536)]
HEAD = (49152, 576)
Way = Callable[[int, Tensor], Tensor]


def main() -> None:
    """Print a line for each number of threads and of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 32, 512])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    weights = [torch.randn(shape) for shape in [*SHAPES * LAYERS, HEAD]]
    turned = [weight.t().contiguous().t() for weight in weights]
    packs = [Pack() for _ in weights]
    ways: dict[str, Way] = {
        "by rows": lambda i, x: F.linear(x, weights[i]),
        "by columns": lambda i, x: F.linear(x, turned[i]),
        "packed": lambda i, x: packs[i].linear(x, weights[i]),
    }
    with torch.no_grad():
        for threads in args.threads:
            torch.set_num_threads(threads)
            for rows in args.rows:
                inputs = {size: torch.randn(rows, size) for size in (576, 1536)}
                best = dict.fromkeys(ways, float("inf"))
                for _ in range(args.rounds):
                    for name, way in ways.items():
                        start = time.perf_counter()
                        for i, weight in enumerate(weights):
                            way(i, inputs[weight.shape[1]])
                        best[name] = min(best[name], time.perf_counter() - start)
                found = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in best.items())
                print(f"{threads} threads, {rows} rows: {found}", flush=True)


if __name__ == "__main__":
    main()
