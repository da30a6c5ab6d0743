"""Multiple choice as lm-evaluation-harness asks for it over HTTP, against transformers on the same weights."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from transformers import AutoModelForCausalLM

from glassbox.formats.huggingface import save_pretrained
from glassbox.inference import Engine
from glassbox.models.causal_lm import CausalLM
from glassbox.serving.app import build_app
from glassbox.serving.service import Service
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
WHO = ["The fox", "A girl", "The old tree", "Their home"]
DID = ["found", "asked for", "told", "played under"]
WHAT = ["a red ball", "the truth", "the sun", "an old tree", "her home", "them together"]

Item = tuple[list[int], list[list[int]]]
"""A context and its choices, as ids."""


def texts(count: int) -> list[Item]:
    """Questions, each with four answers of several words."""
    rng = random.Random(0)
    return [
        pair(f"{rng.choice(WHO)} {rng.choice(DID)}", [f" {what}" for what in rng.sample(WHAT, 4)])
        for _ in range(count)
    ]


def letters(count: int) -> list[Item]:
    """Questions answered by one letter, which is one token: the choice is the last of the echo."""
    rng = random.Random(1)
    return [
        pair(
            f"{rng.choice(WHO)} {rng.choice(DID)} {rng.choice(WHAT)}?\nA. 1\nB. 2\nAnswer:",
            ["A", "B", "C", "D"],
        )
        for _ in range(count)
    ]


def without_context(count: int) -> list[Item]:
    """Texts by themselves: the harness puts the end-of-text token before them."""
    rng = random.Random(2)
    start = [TOKENIZER.eos_id]
    return [
        (start, [TOKENIZER.encode(f"{rng.choice(WHO)} {rng.choice(DID)}{tail}") for tail in ".!?,"])
        for _ in range(count)
    ]


def empty_answers(count: int) -> list[Item]:
    """Questions of which one answer says nothing; its score is 0 and it is greedy."""
    return [(context, [[], *answers[1:]]) for context, answers in texts(count)]


def pair(context: str, answers: list[str]) -> Item:
    return TOKENIZER.encode(context), [TOKENIZER.encode(answer) for answer in answers]


@pytest.fixture(scope="module")
def model() -> CausalLM:
    """A model that ends its answer after about every second context."""
    made = tiny_chat_model(TOKENIZER)
    with torch.no_grad():
        made.output_weight[TOKENIZER.eos_id] *= 4
    return made


@pytest.fixture(scope="module")
def theirs(model: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny")
    save_pretrained(model, folder, tokenizer=TOKENIZER)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def client(model: CausalLM) -> Iterator[TestClient]:
    service = Service(Engine(model, TOKENIZER), TOKENIZER, name="m", model=model)
    with TestClient(build_app(service), base_url="http://127.0.0.1") as opened:
        yield opened


def harness(choice: dict[str, Any], context: int) -> tuple[float, bool]:
    """An answer's score, and whether it is the greedy one, as `local-completions` (0.4.13) reads them."""
    scores = choice["logprobs"]["token_logprobs"][context:-1]
    tops = choice["logprobs"]["top_logprobs"][context:-1]
    greedy = all(score == max(top.values()) for score, top in zip(scores, tops, strict=True))
    return sum(scores), greedy


@pytest.mark.parametrize("make", [texts, letters, without_context, empty_answers])
def test_a_harness_gets_the_scores_that_transformers_gives(
    make: Any, client: TestClient, theirs: Any
) -> None:
    asked = [(start, start + answer) for start, answers in make(60) for answer in answers]
    found: list[tuple[float, bool]] = []
    ended = 0
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
        ended += sum(choice["finish_reason"] == "stop" for choice in choices)
        for choice, (start, ids) in zip(choices, batch, strict=True):
            assert len(choice["logprobs"]["token_logprobs"]) == len(ids) + 1
            found.append(harness(choice, len(start)))
    # answers that end at once and answers that go on: both are read the same way
    assert 0 < ended < len(asked)
    expected: list[tuple[float, bool]] = []
    for start, ids in asked:
        with torch.no_grad():
            rows = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)[len(start) - 1 : -1]
        targets = torch.tensor(ids[len(start) :], dtype=torch.long)
        total = float(rows.gather(-1, targets[:, None]).sum())
        expected.append((total, bool((rows.argmax(-1) == targets).all())))
    # float32 on both sides, the sums in another order
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=2e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]

    def chosen(scores: list[tuple[float, bool]]) -> list[int]:
        four = [[score for score, _ in scores[i : i + 4]] for i in range(0, len(scores), 4)]
        return [row.index(max(row)) for row in four]

    assert chosen(found) == chosen(expected)
    assert len(set(chosen(found))) == 4 or make is not texts
