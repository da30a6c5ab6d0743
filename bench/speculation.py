"""What guessing ahead is worth: SmolLM2 summarises a text, with guesses by n-grams and without.

Greedy, float32, one stream. A summary quotes its text, so the text itself is a good guesser. Runs
alternate (none, 2, 4, none ...) and medians are taken, so that drift hits all. With one thread CPU
seconds are counted, which a busy machine disturbs less than the clock. Texts are compared, not assumed.

    python bench/speculation.py [--threads 1] [--repeats 3] [--new 60] [--drafts 2 4 8]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from glassbox.formats.open_model import open_model
from glassbox.inference import Engine, SamplingParams
from glassbox.inference.speculation.proposers import NgramProposer

TEXT = """The lighthouse on Gull Island was built in 1874 by the engineer Thomas Merriweather. It is 31 \
metres high and its lamp can be seen from 17 nautical miles away. For ninety years three keepers \
lived in the low house beside the tower, and a boat brought them bread, oil and letters every \
second Friday. In 1964 the lamp was made electric and the keepers left the island. Today the low \
house is a museum, and in July and August visitors may climb the 142 steps to the lamp room."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new", type=int, default=60)
    parser.add_argument("--drafts", type=int, nargs="+", default=[2, 4, 8])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter

    model, tokenizer, _ = open_model("smollm2")
    ask = "Summarize the text in your own words, with its numbers and names:\n\n"
    prompt = tokenizer.encode_chat_prompt([{"role": "user", "content": ask + TEXT}])
    params = SamplingParams(temperature=0, max_tokens=options.new, ignore_eos=True)

    def once(drafts: int) -> tuple[float, list[int], float]:
        """Seconds behind the first token, the tokens, and the guesses kept a pass."""
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
        steps = options.new - 1 - stats.accepted
        return seconds, tokens, stats.accepted / steps

    each = [0, *options.drafts]
    seconds: dict[int, list[float]] = {drafts: [] for drafts in each}
    kept, texts = {}, {}
    once(0)
    for _ in range(options.repeats):
        for drafts in each:
            taken, texts[drafts], kept[drafts] = once(drafts)
            seconds[drafts].append(taken)
    print(f"prompt {len(prompt)} tokens, {options.new} new, {options.threads} thread(s)")
    print("guesses  tokens/s  ratio  kept a step  same text")
    base = statistics.median(seconds[0])
    for drafts in each:
        median = statistics.median(seconds[drafts])
        rate = (options.new - 1) / median
        same = "yes" if texts[drafts] == texts[0] else "no"
        print(f"{drafts:7}  {rate:8.2f}  {base / median:5.2f}  {kept[drafts]:11.2f}  {same}")
    print(tokenizer.decode(texts[0], skip_special=True))


if __name__ == "__main__":
    main()
