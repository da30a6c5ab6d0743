"""Samples of a stage: what the model writes and answers, for the report and the terminal."""

from __future__ import annotations

import itertools
from pathlib import Path

from glassbox.data.storyworld import read_jsonl
from glassbox.inference import ChatPrompts, Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.prompts import plain_prompt
from glassbox.tokenizers import Tokenizer

STORY_TOKENS = 220
ANSWER_TOKENS = 80


def sample_stage(
    model: CausalLM, tokenizer: Tokenizer, *, corpus: Path | None, count: int, seed: int
) -> list[dict[str, str]]:
    """A text from nothing, and answers to `count` held-out questions, preferences' prompts and sums.

    The same prompts at every stage, so that the stages can be read side by side.
    """
    engine = Engine(model, tokenizer)
    story = SamplingParams(max_tokens=STORY_TOKENS, temperature=0.8, seed=seed)
    (text,) = engine.generate([plain_prompt(tokenizer, "")], story)
    samples = [{"prompt": "", "text": text.text or ""}]
    if corpus is None:
        return samples
    prompts = [
        row["prompt"]
        for name in ("questions.heldout.jsonl", "arithmetic.heldout.jsonl")
        for row in itertools.islice(read_jsonl(corpus / name, required=("prompt",)), count)
    ]
    chats = ChatPrompts(tokenizer)
    answer = chats.params(SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0))
    ids = [chats.ids(prompt) for prompt in prompts]
    for prompt, completion in zip(prompts, engine.generate(ids, answer), strict=True):
        samples.append({"prompt": prompt[-1]["content"], "text": completion.text or ""})
    return samples
