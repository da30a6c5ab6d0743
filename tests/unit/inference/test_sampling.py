"""Sampling settings, filters, and numbers that depend on their place alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.inference.sampling.filters import (
    apply_repetition_penalty,
    apply_temperature,
    draw,
    min_p_filter,
    top_k_filter,
    top_p_filter,
    typical_filter,
)
from glassbox.inference.sampling.logprobs import chosen_log_probs
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.randomness import derive_seed, philox, uniforms
from glassbox.inference.sampling.sampler import RowSampler, SamplingRow


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # the vectors published with Random123 for philox4x32-10
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, answer):
    words = philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert tuple(int(word) for word in words) == answer


def test_uniforms_are_uniform_and_independent_of_their_company():
    seeds, samples = torch.arange(40), torch.zeros(40, dtype=torch.int64)
    steps = torch.arange(1000)
    table = uniforms(seeds, samples, steps)
    assert table.dtype == torch.float64
    assert table.min() >= 0
    assert table.max() < 1
    # chi-square over 100 cells, 40,000 numbers: 99 degrees of freedom, beyond 160 once in 10,000
    counts = torch.histc(table.flatten(), bins=100, min=0, max=1)
    assert float(((counts - 400) ** 2 / 400).sum()) < 160
    # neighbours in either direction are uncorrelated: 4.5 standard errors of 1/sqrt(n)
    for a, b in ((table[:, 1:], table[:, :-1]), (table[1:], table[:-1])):
        assert abs(float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])) < 0.0226
    alone = uniforms(seeds[7:8], samples[:1], steps[500:501])
    assert float(alone) == float(table[7, 500])
    other_sample = uniforms(seeds, samples + 1, steps)
    assert not torch.isclose(other_sample, table).any(dim=1).all()


def test_seeds_of_64_bits_count_in_full_and_paths_differ():
    steps, zero = torch.arange(4), torch.zeros(1, dtype=torch.int64)
    a, b = (uniforms(torch.tensor([s]), zero, steps) for s in (5, 5 + 2**40))
    assert not torch.equal(a, b)
    derived = {derive_seed(7, i, j) for i in range(20) for j in range(20)}
    assert len(derived) == 400
    assert all(0 <= seed < 2**63 for seed in derived)
    assert derive_seed(7) == 7


def test_draw_follows_the_distribution():
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3)) * 1.5
    logits[4] = -math.inf
    count = 60_000
    uniform = uniforms(torch.tensor([11]), torch.tensor([0]), torch.arange(count))[0]
    tokens = draw(logits.expand(count, -1), uniform)
    observed = tokens.bincount(minlength=12).double()
    assert observed[4] == 0
    expected = logits.double().softmax(0) * count
    kept = expected > 0
    chi_square = (((observed - expected) ** 2) / expected)[kept].sum()
    assert float(chi_square) < 33  # 10 degrees of freedom: beyond 33 three times in 10,000


def test_draw_never_takes_a_token_of_probability_zero_at_the_ends():
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).expand(2, -1)
    ends = torch.tensor([0.0, 1 - 2.0**-52], dtype=torch.float64)
    assert draw(logits, ends).tolist() == [1, 2]


SETTINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, 40]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.2, 1.0]),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.8]),
)


@given(st.sampled_from([0.05, 0.3, 0.9, 1.0]), st.integers(0, 2**31))
def test_typical_takes_the_least_surprising_surprises(mass, seed):
    """Equation 10 said token by token."""
    logits = torch.randn(1, 13, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    probs = logits.softmax(-1)[0].tolist()
    entropy = -sum(p * math.log(p) for p in probs)
    expected, total = set(), 0.0
    for i in sorted(range(13), key=lambda i: abs(-math.log(probs[i]) - entropy)):
        if mass < 1 and total >= mass:
            break
        expected.add(i)
        total += probs[i]
    filtered = typical_filter(logits, torch.tensor([mass]))
    assert {i for i in range(13) if filtered[0, i] > -math.inf} == expected


@given(SETTINGS, st.integers(0, 2**31))
def test_filters_equal_their_definitions(params, seed):
    """Each filter against the same thing said token by token in Python."""
    logits = torch.randn(1, 13, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    probs = logits.softmax(-1)[0].tolist()
    order = sorted(range(13), key=lambda i: -probs[i])

    def kept(filtered):
        return {i for i in range(13) if filtered[0, i] > -math.inf}

    def setting(value):
        return torch.tensor([value])

    k = params.top_k or 13
    assert kept(top_k_filter(logits, setting(params.top_k))) == set(order[:k])
    nucleus, total = set(), 0.0
    for i in order:
        if params.top_p < 1 and total >= params.top_p:
            break
        nucleus.add(i)
        total += probs[i]
    assert kept(top_p_filter(logits, setting(params.top_p))) == nucleus
    floor = params.min_p * probs[order[0]] * (1 - 1e-12)
    assert kept(min_p_filter(logits, setting(params.min_p).double())) == {
        i for i in range(13) if probs[i] >= floor
    }


def test_greedy_is_the_likeliest_after_the_penalty_and_ignores_the_filters():
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    params = SamplingParams(temperature=0, repetition_penalty=1.5, top_k=1, top_p=0.1)
    sampler = RowSampler.of([SamplingRow(params, seed=0, prompt=[0])], 3)
    assert sampler.pick(logits, torch.zeros(1, dtype=torch.int64)).tokens.tolist() == [1]
    seen = torch.tensor([[False, True, True]])
    penalised = apply_repetition_penalty(logits, seen, torch.tensor([2.0]))
    assert penalised.tolist() == [[2.0, pytest.approx(0.95), -2.0]]
    assert apply_temperature(logits, torch.tensor([0.0])).tolist() == logits.tolist()


def test_log_probs_are_the_models_own():
    logits = torch.randn(4, 9, dtype=torch.float64)
    tokens, temperature = torch.tensor([0, 3, 8, 2]), torch.tensor([0.0, 0.5, 1.0, 2.0]).double()
    raw, tempered = chosen_log_probs(logits, tokens, temperature)
    for i, (token, heat) in enumerate(zip(tokens, (1.0, 0.5, 1.0, 2.0), strict=True)):
        assert torch.isclose(raw[i], logits[i].log_softmax(0)[token], atol=1e-12)
        assert torch.isclose(tempered[i], (logits[i] / heat).log_softmax(0)[token], atol=1e-12)
    assert chosen_log_probs(logits.bfloat16(), tokens, temperature)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "'n'"),
        ({"seed": -1}, "seed"),
        ({"stop": ["a", ""]}, "an empty stop string would end every answer"),
        ({"stop_token_ids": [-2]}, "never negative"),
        ({"temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(raw, words):
    with pytest.raises(UserError, match=words):
        parse(SamplingParams, raw)


def test_settings_read_one_stop_string_and_spread_seeds():
    assert SamplingParams(stop="END").stop == ("END",)
    spread = SamplingParams(seed=3, top_k=5).spread(4)
    assert len({params.seed for params in spread}) == 4
    assert all(params.top_k == 5 for params in spread)
    assert spread == SamplingParams(seed=3, top_k=5).spread(4)
    assert [params.seed for params in SamplingParams().spread(2)] == [None, None]


def test_a_bias_that_float32_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="a bias is a number float32 can hold"):
        SamplingParams(logit_bias={1: 1e39})
    assert SamplingParams(logit_bias={1: -1e30}).logit_bias == {1: -1e30}
