"""Multiple choice as lm-evaluation-harness asks for it over HTTP, against transformers on the same weights."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from transformers import AutoModelForCausalLM

from glassbox.formats.huggingface import save_pretrained
from glassbox.inference import Engine
from glassbox.serving.app import build_app
from glassbox.serving.service import Service
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

WHO = ["The fox", "A girl", "The old tree", "Their home"]
DID = ["found", "asked for", "told", "played under"]
WHAT = ["a red ball", "the truth", "the sun", "an old tree", "her home", "them together"]


def items(count: int) -> list[tuple[str, list[str]]]:
    """Questions, each with four answers."""
    rng = random.Random(0)
    return [
        (f"{rng.choice(WHO)} {rng.choice(DID)}", [f" {what}" for what in rng.sample(WHAT, 4)])
        for _ in range(count)
    ]


def harness(choice: dict[str, Any], context: int) -> tuple[float, bool]:
    """An answer's score, and whether it is the greedy one, as `local-completions` (0.4.13) reads them."""
    scores = choice["logprobs"]["token_logprobs"][context:-1]
    tops = choice["logprobs"]["top_logprobs"][context:-1]
    greedy = all(score == max(top.values()) for score, top in zip(scores, tops, strict=True))
    return sum(scores), greedy


def test_a_harness_gets_the_scores_that_transformers_gives(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer)
    save_pretrained(model, tmp_path, tokenizer=tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    service = Service(Engine(model, tokenizer), tokenizer, name="m", model=model)
    asked = []
    for context, answers in items(100):
        start = tokenizer.encode(context)
        asked += [(start, start + tokenizer.encode(answer)) for answer in answers]
    found: list[tuple[float, bool]] = []
    with TestClient(build_app(service), base_url="http://127.0.0.1") as client:
        waiting = iter(asked)
        while batch := list(islice(waiting, 40)):
            body = {
                "model": "m",
                "prompt": [ids for _, ids in batch],
                "temperature": 0,
                "max_tokens": 1,
                "logprobs": 1,
                "seed": 1234,
                "echo": True,
            }
            response = client.post("/v1/completions", json=body)
            assert response.status_code == 200, response.text
            choices = sorted(response.json()["choices"], key=lambda one: one["index"])
            found += [
                harness(choice, len(start))
                for choice, (start, _) in zip(choices, batch, strict=True)
            ]
    expected: list[tuple[float, bool]] = []
    for start, ids in asked:
        with torch.no_grad():
            rows = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)[len(start) - 1 : -1]
        targets = torch.tensor(ids[len(start) :])
        total = float(rows.gather(-1, targets[:, None]).sum())
        expected.append((total, bool((rows.argmax(-1) == targets).all())))
    # float32 on both sides, the sums in another order
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=2e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]

    def chosen(scores: list[tuple[float, bool]]) -> list[int]:
        four = [[score for score, _ in scores[i : i + 4]] for i in range(0, len(scores), 4)]
        return [row.index(max(row)) for row in four]

    assert chosen(found) == chosen(expected)
    assert len(set(chosen(found))) == 4
