"""How fast the engine decodes a small model on CPU, beside transformers' generate: greedy, same weights.

Both generate the same number of tokens from the same prompts; texts are compared, not assumed.
Runs alternate (ours, theirs, ours, theirs ...) and medians are taken, so that drift hits both. With
one thread CPU seconds are counted, which a busy machine disturbs less than the clock.

    python bench/decode.py [--threads 2] [--repeats 5] [--new 60]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from glassbox.inference import Engine, SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.models.families import to_hf_config, to_hf_weights

VOCAB = 1024


def build() -> tuple[CausalLM, LlamaForCausalLM]:
    """The quickstart's shape of model, 1.4M parameters, and its twin in transformers."""
    mixer = GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary())
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        context_length=256,
        blocks=[Repeat(block=BlockSpec(mixer=mixer, ffn=SwiGlu(size=384)), times=6)],
    )
    torch.manual_seed(0)
    ours = CausalLM(config).eval()
    with (
        torch.no_grad()
    ):  # sharper than at initialisation, so that greedy choices have no near-ties
        for parameter in ours.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    raw = to_hf_config(config)
    assert raw is not None
    theirs = LlamaForCausalLM(LlamaConfig(**raw)).eval()
    theirs.load_state_dict(to_hf_weights(config, ours.state_dict()), strict=False)
    theirs.tie_weights()
    return ours, theirs


def alternate(
    first: Callable[[], object],
    second: Callable[[], object],
    repeats: int,
    clock: Callable[[], float],
) -> tuple[float, float]:
    """Median seconds of each, run in turns after one warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(repeats + 1):
        for run, kept in zip((first, second), times, strict=True):
            start = clock()
            run()
            if round_:
                kept.append(clock() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Print tokens a second of both, and the ratio, for a few batches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new", type=int, default=60, help="tokens generated per answer")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    ours, theirs = build()
    engine = Engine(ours)
    greedy = SamplingParams(temperature=0, max_tokens=args.new)
    print(f"{ours.num_parameters / 1e6:.2f}M parameters, {args.threads} threads, float32, greedy")
    print(
        f"{'batch':>6} {'prompts':>8} {'ours tok/s':>11} {'theirs tok/s':>13} {'ratio':>6} same text"
    )
    for batch, shortest, longest in ((1, 40, 40), (128, 40, 40), (128, 20, 60)):
        draw = random.Random(batch)
        prompts = [
            [draw.randrange(1, VOCAB) for _ in range(draw.randint(shortest, longest))]
            for _ in range(batch)
        ]
        widest = max(map(len, prompts))
        ids = torch.tensor(
            [[0] * (widest - len(p)) + p for p in prompts]
        )  # theirs pads on the left
        mask = torch.tensor([[0] * (widest - len(p)) + [1] * len(p) for p in prompts])

        def run_ours(prompts: list[list[int]] = prompts) -> list[list[int]]:
            return [completion.token_ids for completion in engine.generate(prompts, greedy)]

        def run_theirs(ids: torch.Tensor = ids, mask: torch.Tensor = mask) -> list[list[int]]:
            answer = theirs.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=args.new,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            return answer[:, ids.shape[1] :].tolist()

        pairs = list(zip(run_ours(), run_theirs(), strict=True))
        same = sum(a == b for a, b in pairs)
        a, b = alternate(run_ours, run_theirs, args.repeats, clock)
        tokens = batch * args.new
        lengths = f"{shortest}-{longest}"
        print(
            f"{batch:>6} {lengths:>8} {tokens / a:>11.0f} {tokens / b:>13.0f} {b / a:>6.2f} {same}/{batch}"
        )
    rollout = SamplingParams(max_tokens=args.new, n=8, seed=0, logprobs=True)
    draw = random.Random(0)
    prompts = [[draw.randrange(VOCAB) for _ in range(draw.randint(20, 60))] for _ in range(32)]
    seconds, _ = alternate(
        lambda: engine.generate(prompts, rollout), lambda: None, args.repeats, clock
    )
    rate = 256 * args.new / seconds
    print(f"rollout: 32 prompts x 8 samples with log-probs: {seconds:.2f} s, {rate:.0f} tok/s")


if __name__ == "__main__":
    main()
