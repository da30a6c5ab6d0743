"""Graders by rule: what they accept, and that one that hangs or crashes costs one sample alone."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.sandbox.python import SandboxLimits, SandboxRefused
from glassbox.tuning.grading.graders import Format, NumericAnswer, Rubric
from glassbox.tuning.grading.rubrics import (
    Code,
    Exact,
    Numeric,
    Reward,
    build_rubric,
    check_problem,
)
from glassbox.tuning.grading.rules import (
    CodeTests,
    ExactAnswer,
    Gsm8kAnswer,
    Guarded,
    JsonAnswer,
    Length,
    RegexAnswer,
    RewardModel,
    fits,
)
from support.slow_grader import vicious


def test_exact_answers() -> None:
    for said, score in (("the kite", 1), (" The\nKITE ", 1), ("the kites", 0), ("", 0)):
        assert ExactAnswer()(said, {"answer": "The kite"}) == score
    assert ExactAnswer(case=True)("the kite", {"answer": "The kite"}) == 0
    assert ExactAnswer(last_line=True)("so\nhence\nB", {"answer": "B"}) == 1
    assert ExactAnswer("gold")("7", {"gold": 7}) == 1


def test_patterns() -> None:
    grader = RegexAnswer(r"is (\w+)")
    assert grader("it is red, no, is blue", {"answer": "blue"}) == 1
    assert grader("it is red", {"answer": "blue"}) == 0
    assert grader("", {"answer": "blue"}) == 0
    assert RegexAnswer("[0-9]")("a1", {}) == 1
    with pytest.raises(UserError, match="no regular expression"):
        RegexAnswer("(")


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("6 + 6 = 12\n#### 12", 1),
        ("#### 12.0", 1),
        ("####12", 1),
        ("#### $12", 1),
        ("#### 11\n#### 12", 1),
        ("#### 12\n#### 11", 0),
        ("12", 0),
        ("####", 0),
        ("#### ,", 0),
        ("", 0),
    ],
)
def test_gsm8k(said: str, score: int) -> None:
    assert Gsm8kAnswer()(said, {"answer": "twelve is 12\n#### 12"}) == score
    assert Gsm8kAnswer()(said, {"answer": "12"}) == score
    assert Gsm8kAnswer()("#### 1,200", {"answer": "#### 1200"}) == 1


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("6 + 6 = 12.", 1),
        ("It costs $12.00, no more", 1),
        ("#### 12", 1),
        ("12 of 30", 0),
        ("a dozen", 0),
        ("-12", 0),
        ("12,", 1),
        ("30-12", 1),
        ("(30)-12", 1),
        ("10,11,12", 1),
        ("3,012", 0),
    ],
)
def test_gsm8k_takes_the_last_number_where_it_is_told_to(said: str, score: int) -> None:
    assert Gsm8kAnswer(flexible=True)(said, {"answer": "twelve\n#### 12"}) == score
    assert Gsm8kAnswer(flexible=True)("so -$1,200", {"answer": "-1200"}) == 1


SCHEMA = {
    "type": "object",
    "required": ["name", "ages"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 2, "pattern": "^[A-Z]"},
        "ages": {"type": "array", "maxItems": 2, "items": {"type": "integer", "minimum": 0}},
        "mood": {"enum": ["glad", 1, None]},
        "size": {"anyOf": [{"type": "number", "maximum": 9}, {"const": "big"}]},
    },
}


@pytest.mark.parametrize(
    ("value", "score"),
    [
        ({"name": "Mia", "ages": []}, 1),
        ({"name": "Mia", "ages": [1, 2.0], "mood": None, "size": "big"}, 1),
        ({"name": "Mia", "ages": [1], "mood": 1, "size": 8.5}, 1),
        ({"name": "mia", "ages": []}, 0),
        ({"name": "M", "ages": []}, 0),
        ({"name": "Mia"}, 0),
        ({"name": "Mia", "ages": [], "more": 1}, 0),
        ({"name": "Mia", "ages": [1, 2, 3]}, 0),
        ({"name": "Mia", "ages": [-1]}, 0),
        ({"name": "Mia", "ages": [True]}, 0),
        ({"name": "Mia", "ages": [1.5]}, 0),
        ({"name": "Mia", "ages": [], "mood": True}, 0),
        ({"name": "Mia", "ages": [], "size": "small"}, 0),
        ([], 0),
    ],
)
def test_json_by_schema(value: Any, score: int) -> None:
    text = json.dumps(value)
    assert JsonAnswer(SCHEMA)(text, {}) == score
    assert JsonAnswer()(f"Here:\n```json\n{text}\n```", {"schema": SCHEMA}) == score


def test_what_is_no_json_and_no_schema() -> None:
    for text in ("", "{", "NaN", '{"a": Infinity}', "[" * 100_000, "yes"):
        assert JsonAnswer({})(text, {}) == 0
    with pytest.raises(UserError, match="'minimun' is not known"):
        JsonAnswer({"properties": {"a": {"minimun": 1}}})
    with pytest.raises(UserError, match="no schema of its own"):
        JsonAnswer()("{}", {})


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5
    )
)
def test_every_value_fits_itself_and_no_schema_raises(value: Any) -> None:
    assert fits(value, {"const": value})
    assert fits(value, {})
    fits(value, SCHEMA)


def test_length_falls_in_a_line() -> None:
    grader = Length(10, 20)
    assert [grader("x" * n, {}) for n in (0, 10, 15, 20, 99)] == [1, 1, 0.5, 0, 0]
    with pytest.raises(UserError, match="target = 20"):
        Length(20, 20)


@pytest.mark.skipif(os.name != "posix", reason="the sandbox needs POSIX")
def test_code_is_tested_and_what_hangs_or_cheats_gets_nothing() -> None:
    grader = CodeTests(limits=SandboxLimits(wall_seconds=8, cpu_seconds=1))
    problem = {"tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]}
    answers = {
        "Here you are:\n```python\ndef add(a, b):\n    return a + b\n```\nEnjoy": 1,
        "def add(a, b):\n    return a + b": 1,
        "def add(a, b):\n    return a - b": 0,
        "def add(a, b):\n    while True: pass": 0,
        "import os\nos._exit(0)": 0,
        "print('x' * 10_000_000)": 0,
        "not code": 0,
        "": 0,
    }
    scores = grader.grade_batch(list(answers), [problem] * len(answers))
    assert list(scores) == list(answers.values())
    human = {
        "code_prompt": "def inc(x):\n",
        "tests": "def check(f):\n    assert f(1) == 2",
        "entry_point": "inc",
    }
    assert grader("    return x + 1\n", human) == 1
    assert grader("    return x\n", human) == 0


def test_code_that_the_sandbox_refuses_to_run_is_no_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise SandboxRefused("no walls here")

    monkeypatch.setattr("glassbox.tuning.grading.rules.run_tests", refuse)
    with pytest.raises(SandboxRefused, match="no walls here"):
        build_rubric([Code()]).grade("def f(): pass", {"tests": "f()"})


@pytest.mark.slow
def test_a_guarded_grader_that_hangs_or_crashes_costs_one_sample() -> None:
    guarded = Guarded(vicious, seconds=3.0)
    rubric = Rubric({"own": (guarded, 1.0), "one": (lambda c, p: 1.0, 1.0)})
    words = ["abc", "hang", "ab", "crash", "flood", "raise", "a"]
    grades = rubric.grade_all(words, [{}] * len(words))
    guarded.close()
    assert [g.parts["own"] for g in grades] == [3, 0, 2, 0, 5, 0, 1]
    assert [g.errors for g in grades] == [0, 1, 0, 1, 0, 1, 0]
    assert all(g.parts["one"] == 1 for g in grades)


def test_a_pattern_that_never_ends_is_an_error_of_that_sample() -> None:
    rubric = Rubric({"format": (Format("(a|aa)+[bc]"), 1.0)})
    started = time.monotonic()
    grades = rubric.grade_all(["a" * 60, "ab"], [{}, {}])
    assert [(g.reward, g.errors) for g in grades] == [(0, 1), (1, 0)]
    assert time.monotonic() - started < 30  # a bound on hanging


def test_a_batch_that_fails_is_asked_one_by_one() -> None:
    class Batch:
        def __call__(self, completion: str, problem: Mapping[str, Any]) -> float:
            return 1 / len(completion)

        def grade_batch(self, completions: Any, problems: Any) -> list[float]:
            return [self(c, p) for c, p in zip(completions, problems, strict=True)]

    grades = Rubric({"b": (Batch(), 2.0)}).grade_all(["ab", "", "a"], [{}] * 3)
    assert [g.reward for g in grades] == [1.0, 0.0, 2.0]
    assert [g.errors for g in grades] == [0, 1, 0]

    class Short(Batch):
        def grade_batch(self, completions: Any, problems: Any) -> list[float]:
            return []

    assert Rubric({"b": (Short(), 1.0)}).grade_all(["ab"], [{}])[0].reward == 0.5


def test_rubrics_from_recipes() -> None:
    rubric = build_rubric([Numeric(), Exact(weight=0.5, name="word"), Code(weight=2)])
    assert list(rubric.graders) == ["numeric", "word", "code"]
    assert isinstance(rubric.graders["numeric"][0], NumericAnswer)
    assert rubric.graders["word"][1] == 0.5
    with pytest.raises(UserError, match="two graders are called 'numeric'"):
        build_rubric([Numeric(), Numeric()])
    with pytest.raises(UserError, match="cannot be opened here"):
        build_rubric([Reward(model="x")])
    judge = SimpleNamespace(config=SimpleNamespace(score_head=True))
    asked: list[str] = []

    def open_model(name: str) -> Any:
        asked.append(name)
        return judge, None

    made = build_rubric([Reward(model="x")], open_model=open_model)
    assert asked == ["x"]
    assert made.graders["reward_model"][0].model is judge


def test_a_problem_without_what_a_grader_reads_is_told_before_anything_is_sampled() -> None:
    graders = [Numeric(key="solution"), Exact(key="solution")]
    check_problem(graders, {"prompt": [], "solution": "4"}, where="p.jsonl")
    with pytest.raises(UserError, match=r"p\.jsonl: .*no key 'solution', .*grader 'numeric'"):
        check_problem(graders, {"prompt": [], "answer": "4"}, where="p.jsonl")


def test_the_sandboxs_limits_are_checked() -> None:
    with pytest.raises(UserError, match="wall_seconds"):
        parse(Code, {"sandbox": {"wall_seconds": 0}})


def test_a_reward_model_scores_the_last_token_whatever_the_batch() -> None:
    import torch

    from glassbox.models.causal_lm import CausalLM
    from support.tiny_chat import tiny_chat_model, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    plain = tiny_chat_model(tokenizer)
    with pytest.raises(UserError, match="score_head"):
        RewardModel(plain, tokenizer)
    model = CausalLM(plain.config.model_copy(update={"score_head": True})).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=torch.Generator().manual_seed(parameter.numel()))
    problem = {"prompt": [{"role": "user", "content": "Who has the kite?"}]}
    words = ["Mia.", "", "Tom has it, and the ball.", "x" * 1000]
    grader = RewardModel(model, tokenizer, batch=2)
    scores = grader.grade_batch(words, [problem] * 4)
    assert math.isnan(scores[3])
    for word, score in zip(words[:3], scores[:3], strict=True):
        ids, mask = tokenizer.encode_chat(
            [*problem["prompt"], {"role": "assistant", "content": word}]
        )
        end = max(i for i, m in enumerate(mask) if m) + 1
        alone = model.scores(model.hidden_states(torch.tensor([ids[:end]])))[0, -1]
        assert score == pytest.approx(float(alone.detach()), abs=1e-9)
    grade = Rubric({"rm": (grader, 1.0)}).grade_all(words, [problem] * 4)
    assert [g.errors for g in grade] == [0, 0, 0, 1]
