"""Continuous batching: every request's answer is the one it gets alone, without cache, by itself.

float64 throughout, so that the rounding of batch shapes never tips a choice.
"""

from __future__ import annotations

import random

import pytest
import torch

from glassbox.core.config import Spec
from glassbox.inference.engine import Engine
from glassbox.inference.plain import generate_plain
from glassbox.inference.sampling.params import SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.rwkv import RwkvChannel
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from support.mixers import SIZE, all_mixers

MIXERS = all_mixers()
VOCAB, CONTEXT = 23, 48
Case = tuple[list[int], SamplingParams]

ENGINES = {
    "room for all": {},
    "few rows, small steps": {"max_batch": 3, "token_budget": 7, "block_size": 4},
    "small cache": {"cache_tokens": CONTEXT, "block_size": 4, "token_budget": 9, "max_batch": 6},
    "whole prompts": {"chunked_prefill": False, "prefix_sharing": False, "token_budget": 16},
}
"""Engines whose answers must not differ; the small cache forces preemption where there are pages."""


def model_of(*specs: Spec, ffn: Spec | None = None, seed: int = 1, tied: bool = True) -> CausalLM:
    """A random model of these mixers, one a layer, with choices that vary."""
    blocks = [Repeat(block=BlockSpec(mixer=spec, ffn=ffn or SwiGlu(size=16))) for spec in specs]
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=SIZE,
        context_length=CONTEXT,
        blocks=tuple(blocks),
        tie_embeddings=tied,
    )
    model = CausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model


def requests(count: int, seed: int, *, longest: int = 20, most: int = 9) -> list[Case]:
    """Prompts, some of which begin alike, and settings of every kind."""
    draw = random.Random(seed)
    opening = [draw.randrange(VOCAB) for _ in range(12)]
    found = []
    for number in range(count):
        own = [draw.randrange(VOCAB) for _ in range(draw.randint(1, longest - 12))]
        params = SamplingParams(
            max_tokens=draw.randint(1, most),
            temperature=draw.choice([0.0, 0.7, 1.0]),
            top_k=draw.choice([0, 5]),
            top_p=draw.choice([0.8, 1.0]),
            repetition_penalty=draw.choice([1.0, 1.3]),
            stop_token_ids=draw.choice([(), (3, 4)]),
            seed=number,
            n=draw.choice([1, 1, 1, 3]),
        )
        found.append(((opening + own) if draw.random() < 0.5 else own, params))
    return found


def alone(model: CausalLM, cases: list[Case]) -> dict[tuple[int, int], list[int]]:
    """Each answer by the plain version."""
    return {
        (index, sample): generate_plain(model, prompt, params, sample=sample)
        for index, (prompt, params) in enumerate(cases)
        for sample in range(params.n)
    }


def arriving(engine: Engine, cases: list[Case], seed: int) -> dict[tuple[int, int], list[int]]:
    """All answers of an engine whose requests come in while others run."""
    draw = random.Random(seed)
    pending, numbers = list(enumerate(cases)), {}
    answers: dict[tuple[int, int], list[int]] = {}
    ended = set()
    while pending or engine.has_work:
        while pending and (draw.random() < 0.5 or not engine.has_work):
            index, (prompt, params) = pending.pop(0)
            priority = draw.choice([0, 0, 1])
            numbers[engine.add(prompt, params, priority=priority)] = index
        for event in engine.step():
            key = (numbers[event.request_id], event.sample_index)
            assert key not in ended
            answers.setdefault(key, []).append(event.token_id)
            if event.finish_reason is not None:
                ended.add(key)
    assert ended == answers.keys()
    return answers


def check_empty(engine: Engine) -> None:
    stats = engine.stats()
    assert (stats.waiting, stats.running) == (0, 0)
    assert stats.blocks_free == stats.blocks_total
    assert engine.cache_bytes == 0


@pytest.mark.parametrize("name", MIXERS)
def test_batched_is_alone_for_every_mixer(name):
    model = model_of(MIXERS[name])
    cases = requests(7, seed=len(name))
    expected = alone(model, cases)
    for number, options in enumerate(ENGINES.values()):
        engine = Engine(model, **options)
        assert arriving(engine, cases, number) == expected
        check_empty(engine)


@pytest.mark.parametrize(
    "specs",
    [
        (MIXERS["grouped"], MIXERS["mamba"]),
        (MIXERS["block mixture"], MIXERS["window"], MIXERS["latent, sparse"]),
    ],
    ids=["paged and running", "blocks, ring and latents"],
)
def test_batched_is_alone_for_mixed_layers(specs):
    model, cases = model_of(*specs), requests(10, seed=5)
    expected = alone(model, cases)
    for number, options in enumerate(ENGINES.values()):
        assert arriving(Engine(model, **options), cases, number) == expected


def test_batched_is_alone_where_the_feed_forward_keeps_a_state():
    model, cases = model_of(MIXERS["grouped"], ffn=RwkvChannel(size=16)), requests(8, seed=6)
    expected = alone(model, cases)
    for number, options in enumerate(ENGINES.values()):
        assert arriving(Engine(model, **options), cases, number) == expected


GROUPED = GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=4, positions=Rotary())


def test_sixty_four_requests_with_preemption_and_sharing():
    model, cases = model_of(GROUPED, GROUPED), requests(64, seed=7, longest=30, most=17)
    expected = alone(model, cases)
    small = {"cache_tokens": 96, "block_size": 4, "token_budget": 20, "max_batch": 12}
    for number, sharing in enumerate((True, False)):
        for chunked in (True, False):
            engine = Engine(model, prefix_sharing=sharing, chunked_prefill=chunked, **small)
            assert arriving(engine, cases, number) == expected
            stats = engine.stats()
            assert stats.preemptions > 0
            assert (stats.prefix_hits > 0) == sharing
            assert stats.tokens_generated == sum(map(len, expected.values()))
            check_empty(engine)


def test_prefixes_that_are_kept_are_used_by_whoever_comes_later():
    model, cases = model_of(GROUPED), requests(12, seed=8, longest=30)
    expected = alone(model, cases)
    engine = Engine(model, keep_prefixes=True, block_size=4, cache_tokens=160)
    for number, case in enumerate([*cases, *cases]):
        ((prompt, params), index) = case, number % len(cases)
        found = engine.generate([prompt], params)
        assert [c.token_ids for c in found] == [expected[index, j] for j in range(params.n)]
    assert engine.stats().prefix_hits > 0
    assert engine.stats().blocks_cached > 0
    assert engine.cache_bytes > 0


@pytest.mark.parametrize("name", ["grouped", "window", "latent, sparse", "mamba"])
def test_cancelling_at_any_moment_frees_all_and_harms_nobody(name):
    model, cases = model_of(MIXERS[name]), requests(14, seed=9)
    expected = alone(model, cases)
    for seed in range(4):
        draw = random.Random(seed)
        engine = Engine(model, max_batch=5, token_budget=8, cache_tokens=96, block_size=4)
        numbers = {engine.add(*case): index for index, case in enumerate(cases)}
        given_up: set[int] = set()
        answers: dict[tuple[int, int], list[int]] = {}
        while engine.has_work:
            if draw.random() < 0.3:
                given_up.add(number := draw.choice(list(numbers)))
                engine.cancel(number)
            for event in engine.step():
                assert event.request_id not in given_up
                key = (numbers[event.request_id], event.sample_index)
                answers.setdefault(key, []).append(event.token_id)
        engine.cancel(12345)
        left_out = {numbers[number] for number in given_up}
        kept = {key: ids for key, ids in expected.items() if key[0] not in left_out}
        assert {key: answers[key] for key in kept} == kept
        check_empty(engine)


def test_a_request_whose_numbers_break_ends_alone():
    """A token whose embedding is NaN poisons its own request: not the others, nor those after it."""
    model, cases = model_of(GROUPED, GROUPED, tied=False), requests(10, seed=10)
    never = {"n": 1, "logit_bias": {22: -1e9}}  # nobody else comes upon the token
    cases = [
        ([token % 22 for token in prompt], params.model_copy(update=never))
        for prompt, params in cases
    ]
    expected = {index: ids for (index, _), ids in alone(model, cases).items()}
    with torch.no_grad():
        model.embedding.weight[22] = float("nan")
    engine = Engine(model, block_size=4, keep_prefixes=True, cache_tokens=120, max_batch=6)
    bad = [*cases[0][0][:1], 22, *range(9)]
    for _ in range(3):
        numbers = {}
        for index, case in enumerate(cases):
            numbers[engine.add(*case)] = index
            if index % 3 == 0:
                numbers[engine.add(bad, SamplingParams(max_tokens=5))] = -1
        answers: dict[int, list[int]] = {}
        errors = 0
        while engine.has_work:
            for event in engine.step():
                if numbers[event.request_id] == -1:
                    assert event.finish_reason == "error"
                    assert event.error is not None
                    assert "NaN" in event.error
                    errors += 1
                else:
                    answers.setdefault(numbers[event.request_id], []).append(event.token_id)
        assert answers == expected
        assert errors == 4
        assert engine.stats().blocks_free == engine.stats().blocks_total


def test_best_of_keeps_the_likeliest():
    model = model_of(GROUPED)
    params = SamplingParams(max_tokens=6, seed=4, n=2, best_of=6, logprobs=True)
    every = Engine(model).generate([[1, 2]], params.model_copy(update={"n": 6, "best_of": None}))
    means = sorted((sum(c.log_probs) / len(c.log_probs), c.token_ids) for c in every)
    kept = Engine(model).generate([[1, 2]], params)
    assert [c.token_ids for c in kept] == [ids for _, ids in means[:-3:-1]]
    assert [c.sample_index for c in kept] == [0, 1]
