"""What speculative decoding is worth: SmolLM2 summarises a text, with drafts by n-grams and without.

Greedy, float32, one stream. A summary quotes its text, so the text itself is a good draft. Runs
alternate (none, 2, 4, none ...) and medians are taken, so that drift hits all. With one thread CPU
seconds are counted, which a busy machine disturbs less than the clock. Texts are compared, not assumed.

    python bench/speculation.py [--threads 1] [--repeats 3] [--new 60] [--drafts 2 4 8]
"""

from __future__ import annotations

from functools import partial

from harness import Bench

from glassbox.formats.open_model import open_model
from glassbox.inference import Engine, SamplingParams
from glassbox.inference.speculation.proposers import NgramProposer

TEXT = """The lighthouse on Gull Island was built in 1874 by the engineer Thomas Merriweather. It is 31 \
metres high and its lamp can be seen from 17 nautical miles away. For ninety years three keepers \
lived in the low house beside the tower, and a boat brought them bread, oil and letters every \
second Friday. In 1964 the lamp was made electric and the keepers left the island. Today the low \
house is a museum, and in July and August visitors may climb the 142 steps to the lamp room."""


def main() -> None:
    bench = Bench(__doc__, threads=1, repeats=3)
    bench.parser.add_argument("--new", type=int, default=60)
    bench.parser.add_argument("--drafts", type=int, nargs="+", default=[2, 4, 8])
    options = bench.options()
    clock = bench.clock

    model, tokenizer, _ = open_model("smollm2")
    ask = "Summarize the text in your own words, with its numbers and names:\n\n"
    prompt = tokenizer.encode_chat_prompt([{"role": "user", "content": ask + TEXT}])
    params = SamplingParams(temperature=0, max_tokens=options.new, ignore_eos=True)

    accepted: dict[int, float] = {}
    texts: dict[int, list[int]] = {}

    def once(drafts: int) -> float:
        """Seconds behind the first token; keeps the tokens, and how many drafts a step accepted."""
        engine = Engine(
            model,
            tokenizer,
            max_batch=1,
            proposer=NgramProposer() if drafts else None,
            num_drafts=max(drafts, 1),
        )
        engine.add(prompt, params)
        tokens = [event.token_id for event in engine.step()]
        started = clock()
        while engine.has_work:
            tokens += [event.token_id for event in engine.step()]
        seconds = clock() - started
        stats = engine.stats()
        accepted[drafts] = stats.accepted / (options.new - 1 - stats.accepted)
        texts[drafts] = tokens
        return seconds

    each = [0, *options.drafts]
    once(0)
    times = bench.in_turns_by({str(drafts): partial(once, drafts) for drafts in each}, warm=0)
    bench.fact(prompt_tokens=len(prompt), new_tokens=options.new)
    for drafts in each:
        bench.row(
            drafts=drafts,
            tokens_s=(options.new - 1) / times[str(drafts)].median,
            ratio=times["0"] / times[str(drafts)],
            accepted_a_step=accepted[drafts],
            same_text=texts[drafts] == texts[0],
        )
    print(tokenizer.decode(texts[0], skip_special=True))
    bench.finish()


if __name__ == "__main__":
    main()
