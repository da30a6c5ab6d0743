"""Our GGUF files in llama.cpp: greedy answers of random tiny models of every architecture, and of any MODEL.

    python bench/gguf_llamacpp.py [MODEL ...] [--new 24]

Needs the package xllamacpp, which carries llama.cpp and is no dependency of ours. Each model is written
in float32, opened with the gguf package, and asked by token ids; keys and values are kept in float32
there as well. Where answers part, the gap between the two tokens' log-probabilities is shown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from gguf import GGUFReader
from smollm2 import describe, llama_cpp

from glassbox.formats.gguf import save_gguf
from glassbox.formats.open_model import open_model
from glassbox.inference import Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import presets
from glassbox.runs.prompts import plain_prompt
from glassbox.tokenizers import Tokenizer, train_bpe

TINY = ("llama-tiny", "qwen2-tiny", "qwen3-tiny", "gemma2-tiny")
PROMPTS = ("Once upon a time", "The fox sat on", "Who was the weaver?")


def random_model(name: str, tokenizer: Tokenizer) -> CausalLM:
    """A preset whose weights are so large that its likeliest token is no near-tie, and always letters.

    llama.cpp's server lists no token that ends within a character.
    """
    torch.manual_seed(0)
    model = CausalLM(presets()[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for token in range(model.config.vocab_size):
            text = tokenizer.decode([token]) if token < tokenizer.vocab_size else ""
            if not (text.isascii() and text.isprintable() and len(text) > 0) or "<" in text:
                model.output_weight[token] = 0
    return model


def compare(name: str, model: CausalLM, tokenizer: Tokenizer, new: int) -> None:
    """One line a prompt."""
    params = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        save_gguf(path, model, tokenizer=tokenizer)
        print(f"{name}: {len(GGUFReader(path).tensors)} tensors by the gguf package", flush=True)
        answer = llama_cpp(path)
        for text in PROMPTS:
            prompt = plain_prompt(tokenizer, text)
            ours = [event.token_id for event in Engine(model, tokenizer).stream(prompt, params)]
            said = answer(prompt, new)
            print(f"  {text!r}: {describe(model, tokenizer, prompt, ours, said)}", flush=True)


def main() -> None:
    """The tiny ones, then what was named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--new", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = train_bpe(["Once upon a time a fox sat on a box. Who was the weaver?\n"] * 3, 280)
    for name in TINY:
        compare(name, random_model(name, tokenizer), tokenizer, args.new)
    for name in args.models:
        model, own, _ = open_model(name)
        compare(name, model, own, args.new)


if __name__ == "__main__":
    main()
