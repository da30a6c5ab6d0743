"""The story world's evaluation: the figures of models that know everything, and that know nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.data.storyworld import CorpusSizes, StoryWorldConfig, read_jsonl, write_corpus
from glassbox.evaluation import storyworld
from glassbox.evaluation.storyworld import TASKS, choose, evaluate_story_world
from glassbox.inference import Completion, Engine
from glassbox.models.causal_lm import CausalLM
from glassbox.models.shapes import LlamaShape
from glassbox.tokenizers import Tokenizer, train_bpe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    sizes = CorpusSizes(
        train_bytes=20_000,
        heldout=12,
        unseen=8,
        chats_train=1,
        chats_heldout=1,
        questions_heldout=30,
        arithmetic_train=1,
        arithmetic_heldout=12,
        preferences_train=1,
        preferences_heldout=14,
    )
    write_corpus(StoryWorldConfig(), folder, sizes)
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Tokenizer:
    return train_bpe((row["text"] for row in read_jsonl(corpus / "train.jsonl")), 400)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> CausalLM:
    torch.manual_seed(0)
    shape = LlamaShape(hidden_size=16, num_layers=1, num_heads=2, ffn_size=24, context_length=512)
    return CausalLM(shape.config(tokenizer.vocab_size))


def rows(corpus: Path, task: str) -> list[dict[str, Any]]:
    return list(read_jsonl(corpus / TASKS[task].file))


def test_every_task_is_reported_and_the_same_again(
    model: CausalLM, tokenizer: Tokenizer, corpus: Path
) -> None:
    found = evaluate_story_world(model, tokenizer, corpus, limits=5, seed=1)
    assert list(found) == ["heldout", "unseen", "questions", "preferences", "arithmetic"]
    assert json.loads(json.dumps(found)) == found
    assert found == evaluate_story_world(model, tokenizer, corpus, limits=5, seed=1)
    for split in ("heldout", "unseen"):
        figures = found[split]
        assert figures["loss_nats"]["n"] == 5
        # fresh weights are nearly uniform over the vocabulary, far above the entropy
        assert figures["loss_nats"]["value"] == pytest.approx(
            math.log(tokenizer.vocab_size), rel=0.02
        )
        difference = figures["loss_nats"]["value"] - figures["entropy_nats"]["value"]
        assert figures["excess_nats"]["value"] == pytest.approx(difference)
    for task in ("questions", "arithmetic"):
        assert found[task]["accuracy"]["value"] == 0
        assert len(found[task]["examples"]) == 4
    assert found["preferences"]["accuracy"]["n"] == 5


def test_entropy_is_the_documents_own(model: CausalLM, tokenizer: Tokenizer, corpus: Path) -> None:
    found = evaluate_story_world(model, tokenizer, corpus, limits=0)["heldout"]
    documents = rows(corpus, "heldout")
    tokens = sum(len(tokenizer.encode(row["text"])) + 1 for row in documents)
    assert found["num_tokens"] == tokens
    entropy = -sum(row["log_prob"] for row in documents) / tokens
    assert found["entropy_nats"]["value"] == pytest.approx(entropy)
    assert found["num_bytes"] == sum(len(row["text"].encode()) for row in documents)
    assert sum(kind["loss_nats"]["n"] for kind in found["kinds"].values()) == len(documents)


def answering(monkeypatch: pytest.MonkeyPatch, answers: Sequence[str]) -> None:
    def answer(model: Any, tokenizer: Any, prompts: Sequence[Any], expected: Any) -> list[str]:
        assert len(prompts) == len(answers)
        return list(answers)

    monkeypatch.setattr(storyworld, "answer_greedily", answer)


def test_right_answers_count_as_right(
    monkeypatch: pytest.MonkeyPatch, model: CausalLM, tokenizer: Tokenizer, corpus: Path
) -> None:
    questions = rows(corpus, "questions")
    answers = [row["answer"] for row in questions]
    answers[0], answers[1] = questions[0]["wrong"][0], answers[1] + " And more."
    answering(monkeypatch, answers)
    found = storyworld.judge_questions(model, tokenizer, questions)
    assert found["accuracy"]["value"] == pytest.approx(28 / 30)
    assert sum(kind["n"] for kind in found["kinds"].values()) == 30
    assert [example["right"] for example in found["examples"]] == [False, False, True, True]

    problems = rows(corpus, "arithmetic")
    solutions = [row["solution"] for row in problems]
    solutions[0] = f"2 + 2 = 5.\nAnswer: {problems[0]['answer']}"
    solutions[1] = solutions[1].replace("Answer: ", "Answer: 1")
    answering(monkeypatch, solutions)
    found = storyworld.judge_arithmetic(model, tokenizer, problems)
    assert found["accuracy"]["value"] == pytest.approx(11 / 12)
    assert found["steps_right"]["value"] == pytest.approx(11 / 12)
    assert set(found["kinds"]) <= {"2 steps", "3 steps"}


def test_answers_are_greedy_end_with_the_turn_and_have_room(
    monkeypatch: pytest.MonkeyPatch, model: CausalLM, tokenizer: Tokenizer, corpus: Path
) -> None:
    asked = []

    class Recorder(Engine):
        def generate(self, prompts: Any, params: Any = None, **options: Any) -> list[Completion]:
            asked.append((prompts, params))
            return super().generate(prompts, params, **options)

    monkeypatch.setattr(storyworld, "Engine", Recorder)
    prompts = [row["prompt"] for row in rows(corpus, "questions")[:3]]
    expected = ["a", "one two three four", "b"]
    answers = storyworld.answer_greedily(model, tokenizer, prompts, expected)
    assert len(answers) == 3
    ((ids, params),) = asked
    assert ids == [tokenizer.encode_chat_prompt(prompt) for prompt in prompts]
    assert params.temperature == 0
    assert params.stop_token_ids == (tokenizer.special_tokens["<|im_end|>"],)
    assert params.max_tokens > len(tokenizer.encode("one two three four"))


@pytest.fixture(scope="module")
def lively(tokenizer: Tokenizer) -> CausalLM:
    """Weights so large that the answers' probabilities lie far apart."""
    torch.manual_seed(1)
    shape = LlamaShape(hidden_size=16, num_layers=1, num_heads=2, ffn_size=24, context_length=512)
    model = CausalLM(shape.config(tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(20)
    return model


def test_preferences_by_a_plain_loop(lively: CausalLM, tokenizer: Tokenizer, corpus: Path) -> None:
    """Sum and mean of log p over the answer and its end of turn, one sequence at a time."""
    pairs = rows(corpus, "preferences")
    end_of_turn = tokenizer.special_tokens["<|im_end|>"]
    by_sum = by_mean = 0
    for row in pairs:
        scores = []
        for side in ("chosen", "rejected"):
            prompt = tokenizer.encode_chat_prompt(row["prompt"])
            answer = [*tokenizer.encode(row[side][0]["content"]), end_of_turn]
            with torch.no_grad():
                logits = lively(torch.tensor([prompt + answer]))[0].double()
            log_probs = logits.log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            scores.append([float(log_probs[i, t]) for i, t in zip(places, answer, strict=True)])
        chosen, rejected = scores
        by_sum += sum(chosen) > sum(rejected)
        by_mean += sum(chosen) / len(chosen) > sum(rejected) / len(rejected)
    found = storyworld.judge_preferences(lively, tokenizer, pairs)
    assert found["accuracy"]["value"] == by_sum / len(pairs)
    assert found["per_token"]["value"] == by_mean / len(pairs)
    assert set(found["kinds"]) <= {"truth", "consistency", "topic"}
    # swapped pairs are preferred exactly where these are not
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
    other = storyworld.judge_preferences(lively, tokenizer, swapped)
    assert other["accuracy"]["value"] == pytest.approx(1 - by_sum / len(pairs))


def test_choice_is_by_seed_alone_and_without_replacement() -> None:
    items = [{"i": i} for i in range(50)]
    first = choose(items, 20, 0)
    assert first == choose(items, 20, 0) != choose(items, 20, 1)
    assert len({row["i"] for row in first}) == 20
    assert first == sorted(first, key=lambda row: row["i"])
    assert choose(items, 0, 0) == choose(items, 99, 0) == items


def test_tasks_without_a_file_are_left_out(
    model: CausalLM, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="nothing to evaluate on"):
        evaluate_story_world(model, tokenizer, tmp_path)
    (tmp_path / "heldout.jsonl").write_text('{"text": "a tale"}\n{"text": "a cat"}\n')
    found = evaluate_story_world(model, tokenizer, tmp_path)
    assert list(found) == ["heldout"]
    assert "excess_nats" not in found["heldout"]
    assert found["heldout"]["kinds"] == {}


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"questoins": 3}, "did you mean 'questions'"), ({"unseen": -1}, "'unseen' = -1")],
)
def test_wrong_limits_are_named(
    model: CausalLM, tokenizer: Tokenizer, corpus: Path, limits: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_story_world(model, tokenizer, corpus, limits=limits)


def test_a_row_that_lacks_a_key_is_named(
    model: CausalLM, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "arithmetic.heldout.jsonl").write_text('{"prompt": []}\n')
    with pytest.raises(UserError, match=r"arithmetic.heldout.jsonl' line 1: missing key"):
        evaluate_story_world(model, tokenizer, tmp_path)
