"""Constrained answers out of the engine: valid whatever the model, whole or marked as cut."""

from __future__ import annotations

import json
import re

import pytest
import torch
from jsonschema import Draft202012Validator

from glassbox.core.errors import UserError
from glassbox.inference.constraints.specs import Choice, JsonSchema, Regex, json_object
from glassbox.inference.engine import Engine
from glassbox.inference.sampling.params import SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.tokenizers import Tokenizer, train_bpe, train_characters
from support.random_constraints import patterns, schemas

CORPUS = ['{"name": "Ada", "age": 36, "x y": [true, null]} yes no maybe ' * 4]


def engine_with(tokenizer: Tokenizer, *, vocab_size: int | None = None) -> Engine:
    """A random model of one layer; its vocabulary rounded up, as models' are."""
    mixer = GroupedQuery(num_heads=2, num_kv_heads=1, positions=Rotary())
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size + 7 if vocab_size is None else vocab_size,
        hidden_size=16,
        context_length=256,
        blocks=[Repeat(block=BlockSpec(mixer=mixer, ffn=SwiGlu(size=16)), times=1)],
        final_norm=RmsNorm(),
    )
    torch.manual_seed(0)
    return Engine(CausalLM(config).double(), tokenizer, max_batch=64)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_with(train_bpe(CORPUS, 300))


def test_answers_are_valid_or_marked_as_cut(engine: Engine) -> None:
    """60 schemas and 60 patterns, batched, sampled from a random model that knows nothing of them."""
    constraints = [JsonSchema(definition=schema) for schema, _ in schemas(31, 60)]
    constraints += [Regex(pattern=pattern) for pattern, _ in patterns(31, 60)]
    eos = engine.tokenizer.eos_id
    params = [
        SamplingParams(
            max_tokens=120, seed=seed, constraint=one, logit_bias={eos: 4.0}, temperature=1.5
        )
        for seed, one in enumerate(constraints)
    ]
    answers = engine.generate([[1, 2, 3]] * len(params), params)
    reasons = [answer.finish_reason for answer in answers]
    assert reasons.count("stop") > 90
    assert set(reasons) <= {"stop", "length"}
    for constraint, answer in zip(constraints, answers, strict=True):
        if answer.finish_reason != "stop":
            assert len(answer.token_ids) == 120
        elif isinstance(constraint, JsonSchema):
            checker = Draft202012Validator.FORMAT_CHECKER
            value = json.loads(answer.text)
            Draft202012Validator(constraint.definition, format_checker=checker).validate(value)
        else:
            assert re.fullmatch(constraint.pattern, answer.text), (constraint, answer.text)


def test_batched_equals_alone_and_streamed(engine: Engine) -> None:
    """Beside unconstrained rows, several samples a prompt, greedy and sampled."""
    params = [
        SamplingParams(max_tokens=12, seed=5, constraint=Choice(options=("yes", "no", "maybe"))),
        SamplingParams(max_tokens=12, seed=6),
        SamplingParams(max_tokens=20, temperature=0, constraint=Regex(pattern="[a-c]{3,9}")),
        SamplingParams(max_tokens=12, seed=7, n=3, constraint=Regex(pattern="(ab|ba)+")),
    ]
    together = engine.generate([[1, 2, 3]] * len(params), params)
    alone = [answer for one in params for answer in engine.generate([[1, 2, 3]], one)]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    assert together[0].text in ("yes", "no", "maybe")
    assert len({tuple(answer.token_ids) for answer in together[3:]}) > 1
    streamed = list(engine.stream([1, 2, 3], params[0]))
    assert [event.token_id for event in streamed] == together[0].token_ids
    assert streamed[-1].finish_reason == "stop"
    assert "".join(event.text or "" for event in streamed) == together[0].text


def test_every_choice_is_reached(engine: Engine) -> None:
    options = ("yes", "no", "maybe", "y")
    params = SamplingParams(n=200, seed=1, max_tokens=9, constraint=Choice(options=options))
    answers = engine.generate([[4, 5]], params)
    assert {answer.text for answer in answers} == set(options)
    assert all(answer.finish_reason == "stop" for answer in answers)


def test_a_cut_answer_says_length(engine: Engine) -> None:
    constraint = Regex(pattern="a{50}")
    (answer,) = engine.generate([[1]], SamplingParams(max_tokens=5, seed=1, constraint=constraint))
    assert answer.finish_reason == "length"
    assert set(answer.text) == {"a"}
    (whole,) = engine.generate([[1]], SamplingParams(max_tokens=50, seed=1, constraint=constraint))
    assert whole.text == "a" * 50
    assert whole.finish_reason == "stop"


def test_nine_thousand_choices(engine: Engine) -> None:
    texts = tuple(f"{number:05d}" for number in range(9_000))
    params = SamplingParams(max_tokens=20, n=8, seed=1, constraint=Choice(options=texts))
    answers = engine.generate([[1]], params)
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert {answer.text for answer in answers} <= set(texts)
    assert len({answer.text for answer in answers}) > 1


def test_end_of_text_ignored_or_none_to_be_had(engine: Engine) -> None:
    """A complete answer ends, though no token is there that would end it."""
    params = SamplingParams(
        max_tokens=9, seed=1, ignore_eos=True, constraint=Choice(options=("yes",))
    )
    (answer,) = engine.generate([[1]], params)
    assert (answer.text, answer.finish_reason) == ("yes", "stop")


def test_a_stuck_answer_ends_alone() -> None:
    """A vocabulary without z: the row that runs into it is an error, the others go on."""
    tokenizer = train_characters(["abcdefghij"], unknown="error", special_tokens=["<|end|>"])
    engine = engine_with(tokenizer, vocab_size=tokenizer.vocab_size)
    stuck = engine.add([1], SamplingParams(constraint=Regex(pattern="abz"), max_tokens=9, seed=1))
    fine = engine.add([1], SamplingParams(constraint=Regex(pattern="abc"), max_tokens=9, seed=1))
    events = []
    while engine.has_work:
        events += engine.step()
    assert [e.finish_reason for e in events if e.request_id == stuck][-1] == "error"
    (error,) = [e.error for e in events if e.error]
    assert "vocabulary" in error
    assert [e.finish_reason for e in events if e.request_id == fine][-1] == "stop"


def test_refusals(engine: Engine) -> None:
    bad = SamplingParams(constraint=JsonSchema(definition={"type": "nope"}))
    with pytest.raises(UserError, match="json_schema"):
        engine.add([1], bad)
    assert not engine.has_work
    with pytest.raises(UserError, match="tokenizer"):
        Engine(engine.model).add([1], SamplingParams(constraint=json_object()))
