"""All matrices of SmolLM2's shape times a few rows: as they lie, by columns, and prepacked by oneDNN.

    python bench/prepacked.py [--thread-counts 1 2] [--rows 1 2 4 8 32 512] [--repeats 5]

Random float32 weights of 30 layers and the output head, 538 MB, so that each product reads its matrix from
memory. The ways take turns; the quickest round of each is printed, in ms, for a busy machine slows some.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from harness import Bench
from torch import Tensor

from glassbox.layers.prepacked import Pack

LAYERS = 30
SHAPES = [(960, 576), (576, 576), (3072, 576), (576, 1536)]
HEAD = (49152, 576)
Way = Callable[[int, Tensor], Tensor]


def main() -> None:
    """Print a line for each number of threads and of rows."""
    bench = Bench(__doc__)
    bench.parser.add_argument("--thread-counts", type=int, nargs="+", default=[1, 2])
    bench.parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 32, 512])
    args = bench.options()
    weights = [torch.randn(shape) for shape in [*SHAPES * LAYERS, HEAD]]
    turned = [weight.t().contiguous().t() for weight in weights]
    packs = [Pack() for _ in weights]
    ways: dict[str, Way] = {
        "by rows": lambda i, x: F.linear(x, weights[i]),
        "by columns": lambda i, x: F.linear(x, turned[i]),
        "prepacked": lambda i, x: packs[i].linear(x, weights[i]),
    }
    with torch.no_grad():
        for threads in args.thread_counts:
            torch.set_num_threads(threads)
            for rows in args.rows:
                inputs = {size: torch.randn(rows, size) for size in (576, 1536)}

                def products(way: Way, inputs: dict[int, Tensor] = inputs) -> None:
                    for i, weight in enumerate(weights):
                        way(i, inputs[weight.shape[1]])

                runs = {name: partial(products, way) for name, way in ways.items()}
                times = bench.in_turns(runs, warm=0)
                found = {f"{name.replace(' ', '_')}_ms": 1e3 * t.best for name, t in times.items()}
                bench.row(num_threads=threads, rows=rows, **found)
    bench.finish()


if __name__ == "__main__":
    main()
