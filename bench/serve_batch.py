"""Many requests at a time on SmolLM2-135M in float32, and one alone, beside transformers: greedy, same weights.

32 requests of mixed length: ours all at once, continuously batched; theirs in static batches of 8 as
they came, padded on the left. Then one stream, with the limit that memory sets (all weights read
once) and that of the matrix products alone; and a prompt of 512 tokens read. Our weights are packed
during the first run, which is not counted, and kept, as a server's are; prefixes are not. Runs
alternate and medians are taken. With one thread CPU seconds are counted, which a busy machine
disturbs less than the clock. With --compiled one stream goes through compiled steps too.

    python bench/serve_batch.py [--threads 1] [--repeats 3] [--requests 32] [--new 64] [--compiled]
"""

from __future__ import annotations

import random
import time

import torch
from harness import Bench, Times
from transformers import LlamaConfig, LlamaForCausalLM

from glassbox.formats.open_model import open_on
from glassbox.inference import Engine, SamplingParams
from glassbox.models.families import to_hf_config, to_hf_weights

STATIC = 8


def main() -> None:
    """Print tokens a second of both, the ratios and the limits."""
    bench = Bench(__doc__, threads=1, repeats=3)
    add = bench.parser.add_argument
    add("--requests", type=int, default=32)
    add("--new", type=int, default=64, help="the most tokens an answer has")
    add("--compiled", action="store_true", help="and one stream compiled")
    args = bench.options()

    model, tokenizer, _ = open_on("smollm2", "cpu")
    raw = to_hf_config(model.config)
    assert raw is not None
    theirs = LlamaForCausalLM(LlamaConfig(**raw)).eval()
    state = {name: x.contiguous() for name, x in model.state_dict().items()}
    theirs.load_state_dict(to_hf_weights(model.config, state), strict=False)
    theirs.tie_weights()
    engine = Engine(model, tokenizer, keep_prefixes=True, prefix_sharing=False)

    draw = random.Random(0)
    size = model.config.vocab_size
    cases = [
        ([draw.randrange(size) for _ in range(draw.randint(8, 96))], draw.randint(8, args.new))
        for _ in range(args.requests)
    ]
    greedy = SamplingParams(temperature=0, ignore_eos=True)

    def ours() -> list[list[int]]:
        params = [greedy.model_copy(update={"max_tokens": new}) for _, new in cases]
        return [c.token_ids for c in engine.generate([prompt for prompt, _ in cases], params)]

    def static(batch: list[tuple[list[int], int]]) -> list[list[int]]:
        widest, most = max(len(p) for p, _ in batch), max(new for _, new in batch)
        ids = torch.tensor([[0] * (widest - len(p)) + p for p, _ in batch])
        mask = torch.tensor([[0] * (widest - len(p)) + [1] * len(p) for p, _ in batch])
        found = theirs.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[:, widest:].tolist()
        return [line[:new] for line, (_, new) in zip(found, batch, strict=True)]

    def batches() -> list[list[int]]:
        return [a for i in range(0, len(cases), STATIC) for a in static(cases[i : i + STATIC])]

    tokens = sum(new for _, new in cases)
    same = sum(a == b for a, b in zip(ours(), batches(), strict=True))
    found = bench.in_turns({"ours": ours, "transformers": batches}, warm=0)

    def row(what: str, count: float, times: dict[str, Times], same: str) -> None:
        bench.row(
            what=f"{what:24}",
            ours_tokens_s=count / times["ours"].median,
            transformers_tokens_s=count / times["transformers"].median,
            ratio=times["transformers"] / times["ours"],
            same_answers=same,
        )

    row(f"{len(cases)} requests", tokens, found, f"{same}/{len(cases)}")
    bench.fact(static_batch=STATIC, prepacked_MB=engine.stats().prepacked_bytes / 1e6)
    text = [draw.randrange(size) for _ in range(512)]
    one = greedy.model_copy(update={"max_tokens": 1})
    found = bench.in_turns(
        {
            "ours": lambda: engine.generate([text], one),
            "transformers": lambda: static([(text, 1)]),
        },
        repeats=args.repeats + 1,
        warm=0,
    )
    row(f"{len(text)} tokens read", len(text), found, "-")

    prompt, few = cases[0][0], 24
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    ones = {weight.shape[1]: torch.ones(1, weight.shape[1]) for weight in matrices}

    @torch.inference_mode()
    def products() -> None:
        for weight in matrices:
            torch.nn.functional.linear(ones[weight.shape[1]], weight)

    @torch.inference_mode()
    def reading() -> None:
        for weight in matrices:
            weight.sum()

    def one_stream(name: str, engine: Engine) -> None:
        def stream(count: int) -> list[int]:
            params = greedy.model_copy(update={"max_tokens": count})
            return engine.generate([prompt], params)[0].token_ids

        runs = {
            "ours": lambda: stream(few + 1),
            "ours, one": lambda: stream(1),
            "transformers": lambda: static([(prompt, few + 1)]),
            "transformers, one": lambda: static([(prompt, 1)]),
            "products": products,
            "reading": reading,
        }
        start = time.perf_counter()
        same = "1/1" if [stream(few + 1)] == static([(prompt, few + 1)]) else "0/1"
        first = time.perf_counter() - start
        found = {who: times.median for who, times in bench.in_turns(runs, warm=0).items()}
        a, b = (few / (found[who] - found[f"{who}, one"]) for who in ("ours", "transformers"))
        bench.row(
            what=f"{name:24}",
            ours_tokens_s=a,
            transformers_tokens_s=b,
            ratio=a / b,
            same_answers=same,
            memory_limit_tokens_s=1 / found["reading"],
            of_memory_limit=a * found["reading"],
            products_limit_tokens_s=1 / found["products"],
            of_products_limit=a * found["products"],
            first_answers_s=first,
        )

    one_stream("one stream", engine)
    if args.compiled:  # last: it lays the matrices by rows, for which the copies are made anew
        options = {"keep_prefixes": True, "prefix_sharing": False, "compiled": True}
        one_stream("one stream compiled", Engine(model, tokenizer, **options))
    bench.finish()


if __name__ == "__main__":
    main()
