"""What choosing the next tokens of a batch costs, beside transformers' logits processors and multinomial.

Each row of ours has a seed, and may have settings, of its own; theirs share one. Logits are normal with
a deviation that makes the distribution's entropy about 3 nats, as a language model's is. With one
thread CPU seconds are counted, which a busy machine disturbs less than the clock; runs alternate and medians are taken.

    python bench/sampling.py [--threads 1] [--repeats 7]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from harness import Bench
from torch import Tensor
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import RowSampler, SamplingRow

SHAPES = ((32, 49_152, 4.0), (256, 4_096, 3.3))
PROMPT, ANSWER = 64, 32
THEIRS: dict[str, Callable[[float], object]] = {
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": TypicalLogitsWarper,
}
ALL = {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.95}
CASES: dict[str, dict[str, float]] = {
    "temperature": {"temperature": 0.8},
    "top-k 50": {"temperature": 0.8, "top_k": 50},
    "top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "min-p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "top-k 50, top-p 0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "all filters, penalty": {**ALL, "repetition_penalty": 1.1},
    "all but top-k, penalty": {**ALL, "top_k": 0, "repetition_penalty": 1.1},
}


def ours(rows: int, vocab: int, history: Tensor, settings: dict[str, float]) -> RowSampler:
    """Every row with the same settings, and a seed of its own."""
    params = SamplingParams(**settings)  # type: ignore[arg-type]
    lines = [
        SamplingRow(params, seed, prompt=ids[:PROMPT], generated=ids[PROMPT:])
        for seed, ids in enumerate(history.tolist())
    ]
    return RowSampler.of(lines, vocab)


def theirs(settings: dict[str, float]) -> LogitsProcessorList:
    """What `generate` would build of them."""
    chosen = [make(settings[name]) for name, make in THEIRS.items() if settings.get(name)]
    return LogitsProcessorList(chosen)


def their_draw(processors: LogitsProcessorList, history: Tensor, logits: Tensor) -> Tensor:
    """One token a row, as `generate` draws it."""
    return torch.multinomial(processors(history, logits).softmax(-1), 1)


def main() -> None:
    """Print milliseconds of both and the ratio, for each case and shape."""
    bench = Bench(__doc__, threads=1, repeats=7)
    bench.options()
    torch.manual_seed(0)
    for rows, vocab, deviation in SHAPES:
        logits = torch.randn(rows, vocab) * deviation
        probs = logits.softmax(-1)
        entropy = float(-(probs * logits.log_softmax(-1)).sum(-1).mean())
        history = torch.randint(vocab, (rows, PROMPT + ANSWER))
        steps = torch.full((rows,), ANSWER)
        for name, settings in CASES.items():
            sampler, processors = ours(rows, vocab, history, settings), theirs(settings)

            times = bench.in_turns(
                {
                    "ours": partial(sampler.pick, logits, steps),
                    "transformers": partial(their_draw, processors, history, logits),
                }
            )
            bench.row(
                rows=rows,
                vocab_size=vocab,
                entropy_nats=entropy,
                case=f"{name:24}",
                ours_ms=1e3 * times["ours"].median,
                transformers_ms=1e3 * times["transformers"].median,
                ratio=times["transformers"] / times["ours"],
            )
    bench.finish()


if __name__ == "__main__":
    main()
