"""A model that writes at random, problems for it, and a grader that asks for small letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from glassbox.models.causal_lm import CausalLM
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROBLEMS = [
    {"prompt": [{"role": "user", "content": "kite " * (i % 4)}], "answer": i} for i in range(10)
]


def model(seed: int = 0) -> CausalLM:
    made = tiny_chat_model(TOKENIZER)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.1, generator=generator)
            else:
                parameter.fill_(1.0)
    return made


def letters(completion: str, problem: Mapping[str, Any]) -> float:
    return sum(c.isascii() and c.islower() for c in completion) / max(1, len(completion))
