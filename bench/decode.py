"""How fast the engine decodes a small model on CPU, beside transformers' generate: greedy, same weights.

Both generate the same number of tokens from the same prompts; texts are compared, not assumed.
Runs alternate (ours, theirs, ours, theirs ...) and medians are taken, so that drift hits both. With
one thread CPU seconds are counted, which a busy machine disturbs less than the clock.

    python bench/decode.py [--threads 2] [--repeats 5] [--new 60]
"""

from __future__ import annotations

import random

import torch
from harness import Bench
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


def main() -> None:
    """Print tokens a second of both, and the ratio, for a few batches."""
    bench = Bench(__doc__)
    bench.parser.add_argument("--new", type=int, default=60, help="tokens generated per answer")
    args = bench.options()
    ours, theirs = build()
    engine = Engine(ours)
    greedy = SamplingParams(temperature=0, max_tokens=args.new)
    bench.fact(million_parameters=ours.num_parameters / 1e6, dtype="float32", sampling="greedy")
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
        times = bench.in_turns({"ours": run_ours, "transformers": run_theirs})
        tokens = batch * args.new
        bench.row(
            batch=batch,
            prompts=f"{shortest}-{longest}",
            ours_tokens_s=tokens / times["ours"].median,
            transformers_tokens_s=tokens / times["transformers"].median,
            ratio=times["transformers"] / times["ours"],
            same_texts=f"{same}/{batch}",
        )
    rollout = SamplingParams(max_tokens=args.new, n=8, seed=0, logprobs=True)
    draw = random.Random(0)
    prompts = [[draw.randrange(VOCAB) for _ in range(draw.randint(20, 60))] for _ in range(32)]
    seconds = bench.in_turns({"rollout": lambda: engine.generate(prompts, rollout)})[
        "rollout"
    ].median
    bench.fact(
        rollout="32 prompts x 8 samples with log-probs",
        rollout_seconds=seconds,
        rollout_tokens_s=256 * args.new / seconds,
    )
    bench.finish()


if __name__ == "__main__":
    main()
