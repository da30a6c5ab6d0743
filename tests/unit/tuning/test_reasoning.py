"""Votes and budgets: what is withheld, what is put in, and what it costs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.formats.huggingface import save_pretrained
from glassbox.inference import Engine
from glassbox.runs.reason import reason_about
from glassbox.tuning.reasoning import (
    ThinkingBudget,
    majority,
    number_or_last_line,
    self_consistency,
    think_within,
)
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ENGINE = Engine(tiny_chat_model(TOKENIZER, context_length=256), TOKENIZER)
PROMPT = [{"role": "user", "content": "Who has the kite?"}]


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=9))
def test_the_majority_is_a_count(answers: list[str | None]) -> None:
    best, share = majority(answers)
    counts = Counter(a for a in answers if a is not None)
    if not counts:
        assert (best, share) == (None, 0.0)
    else:
        assert counts[best] == max(counts.values())
        assert share == counts[best] / len(answers)
        first = next(a for a in answers if a is not None and counts[a] == max(counts.values()))
        assert best == first


def test_what_counts_as_an_answer() -> None:
    assert number_or_last_line("x\nAnswer: 1,200.0") == "1200"
    assert number_or_last_line("  \n") is None


def test_votes_are_reproducible_and_prompts_apart() -> None:
    votes = self_consistency(ENGINE, [PROMPT, PROMPT], samples=5, max_tokens=6, seed=3)
    again = self_consistency(ENGINE, [PROMPT, PROMPT], samples=5, max_tokens=6, seed=3)
    assert votes == again
    assert votes[0].texts != votes[1].texts
    assert len(set(votes[0].texts)) > 1
    assert all(len(vote.answers) == 5 for vote in votes)


def run(budget: ThinkingBudget, **options):  # type: ignore[no-untyped-def]
    return think_within(ENGINE, PROMPT, budget, temperature=1.0, **options)


def test_thinking_is_never_longer_than_its_budget_and_never_shorter() -> None:
    letter = "e"  # stands for the end of the thinking: random text has it soon
    for seed in range(6):
        free = run(ThinkingBudget(end_of_thought=letter, max_tokens=60, answer_tokens=4), seed=seed)
        assert free.thinking_tokens <= 60
        assert free.withheld == 0
        assert letter not in free.thought
        forced = run(
            ThinkingBudget(end_of_thought=letter, min_tokens=40, max_tokens=60, answer_tokens=4, wait="Wai"),
            seed=seed,
        )  # fmt: skip
        assert 40 <= forced.thinking_tokens <= 60
        assert forced.thought.count("Wai") >= forced.withheld - 1
        assert letter not in forced.thought
        assert forced.answer_tokens <= 4
        assert forced.thought.startswith(free.thought[:5])
    short = run(ThinkingBudget(end_of_thought="never said", max_tokens=5, answer_tokens=4))
    assert short.thinking_tokens == 5


def test_budgets_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="min_tokens = 9 is more"):
        parse(ThinkingBudget, {"min_tokens": 9, "max_tokens": 8})
    with pytest.raises(UserError, match="the model's context is 256"):
        run(ThinkingBudget(max_tokens=300))


def test_the_command_counts_accuracy_and_tokens(tmp_path: Path) -> None:
    save_pretrained(ENGINE.model, tmp_path / "m", tokenizer=TOKENIZER)
    problems = tmp_path / "p.jsonl"
    problems.write_text(json.dumps({"prompt": "1 + 1?", "answer": 2}) + "\n")
    options = {
        "model": str(tmp_path / "m"), "samples": 3, "max_tokens": 5, "temperature": 1.0, "limit": 0,
        "seed": 0, "device": "cpu",
    }  # fmt: skip
    one, vote = reason_about(question="", problems=str(problems), budget=None, **options)
    assert one.startswith("one answer      0.000")
    assert vote.startswith("vote of 3")
    (line,) = reason_about(question="Who?", problems=None, budget=None, **options)
    assert "of 3 answers" in line
    budget = ThinkingBudget(max_tokens=5)
    (line,) = reason_about(question="", problems=str(problems), budget=budget, **options)
    assert line.startswith("with thinking")
    with pytest.raises(UserError, match="one of --prompt"):
        list(reason_about(question="", problems=None, budget=None, **options))
