"""Rows of a batch choose as each would alone, whatever joins them, leaves them, or was drawn before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.inference.engine import Engine
from glassbox.inference.plain import choose_plain, process_plain
from glassbox.inference.sampling.filters import (
    apply_count_penalties,
    apply_repetition_penalty,
    draw,
    totals,
)
from glassbox.inference.sampling.logprobs import likeliest, top_log_probs
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.penalties import History
from glassbox.inference.sampling.sampler import RowSampler, SamplingRow
from glassbox.inference.sampling.shortlist import bounds, draw_filtered, filtered
from glassbox.models.causal_lm import CausalLM
from glassbox.models.shapes import LlamaShape

VOCAB = 23

SETTINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, 40]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    typical_p=st.sampled_from([0.2, 0.9, 1.0]),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.8]),
    frequency_penalty=st.sampled_from([-1.5, 0.0, 0.7]),
    presence_penalty=st.sampled_from([-0.6, 0.0, 2.0]),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=3),
    min_tokens=st.sampled_from([0, 4]),
    logprobs=st.just(True),
    top_logprobs=st.sampled_from([0, 4]),
    seed=st.integers(0, 2**63 - 1),
)
IDS = st.lists(st.integers(0, VOCAB - 1), max_size=7)
ROWS = st.lists(
    st.builds(
        lambda params, sample, prompt, generated, stops: SamplingRow(
            params, params.seed or 0, sample, prompt, generated, stops
        ),
        SETTINGS,
        st.integers(0, 3),
        IDS,
        IDS,
        st.lists(st.integers(0, VOCAB - 1), max_size=2),
    ),
    min_size=1,
    max_size=5,
)


class OnlyThese:
    """A constraint that allows the same tokens at every place, and remembers what it was told."""

    def __init__(self, ids, told=()):
        self.vocab_size, self.ids, self.told = VOCAB, ids, list(told)

    def fill(self, bits):
        bits[:] = 0
        for token in self.ids:
            bits[token // 32] |= np.array(1 << (token % 32), dtype=np.uint32).view(np.int32)

    def accept(self, token):
        self.told.append(token)

    def copy(self):
        return OnlyThese(self.ids, self.told)


def _logits(count, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, VOCAB, generator=generator, dtype=torch.float64) * 3).to(dtype)


def _steps(rows):
    return torch.tensor([len(row.generated) for row in rows])


@settings(max_examples=50, deadline=None)
@given(ROWS, st.integers(0, 2**31), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_a_batch_chooses_what_the_plain_version_does_row_by_row(rows, seed, dtype):
    logits = _logits(len(rows), seed, dtype)
    kept = logits.clone()
    sampler = RowSampler.of(rows, VOCAB)
    steps = _steps(rows)
    picked = sampler.pick(logits, steps)
    assert torch.equal(logits, kept)  # what the model said is left alone
    assert picked.sound.all()
    for place, row in enumerate(rows):
        expected = choose_plain(
            logits[place],
            row.params,
            row.prompt,
            row.generated,
            sample=row.sample,
            stop_ids=row.stop_ids,
        )
        assert int(picked.tokens[place]) == expected
        alone = RowSampler.of([row], VOCAB).pick(
            logits[place : place + 1], steps[place : place + 1]
        )
        assert int(alone.tokens) == expected
        own = logits[place].to(torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(picked.log_probs[place], own.log_softmax(0)[expected])
    if picked.top_ids is not None:
        values, ids = top_log_probs(logits, 4)
        assert torch.equal(picked.top_ids, ids)
        assert torch.equal(picked.top_log_probs, values)


FILTERS = st.tuples(
    st.sampled_from([0, 1, 20, 300, 5000]),
    st.sampled_from([1.0, 0.01, 0.5, 0.9, 0.999]),
    st.sampled_from([0.0, 0.01, 0.3]),
    st.sampled_from([1.0, 0.3, 0.95]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(FILTERS, min_size=1, max_size=6),
    st.sampled_from([1, 5, 700, 2600, 4099]),
    st.sampled_from([0.2, 2.0, 5.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_a_shortlist_draws_to_the_bit_what_the_filters_over_all_words_do(
    chosen, vocab, scale, ties, seed
):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(chosen), vocab, generator=generator) * scale
    logits = (logits * 2).round() / 2 if ties else logits
    uniform = torch.rand(len(chosen), generator=generator, dtype=torch.float64)
    columns = {
        "top_k": torch.tensor([one[0] for one in chosen]),
        "top_p": torch.tensor([one[1] for one in chosen], dtype=torch.float64),
        "min_p": torch.tensor([one[2] for one in chosen], dtype=torch.float64),
        "typical_p": torch.tensor([one[3] for one in chosen], dtype=torch.float64),
        **{
            name: torch.zeros(len(chosen), dtype=torch.float64)
            for name in ("epsilon_cutoff", "eta_cutoff", "top_h")
        },
    }
    expected = filtered(logits, columns)
    for small in (0, 8192):
        found = draw_filtered(logits, columns, uniform, small=small)
        assert torch.equal(found, draw(expected, uniform))
    # the bound keeps all that the filters keep
    bound = bounds(logits, columns, totals(logits)).unsqueeze(-1)
    assert not ((logits < bound) & expected.isfinite()).any()


@settings(max_examples=25, deadline=None)
@given(ROWS, ROWS, st.data())
def test_rows_that_join_leave_and_fork_keep_their_past(first, second, data):
    """After any pending and going, the sampler equals one made anew from the texts so far."""
    rows, sampler = list(first), RowSampler.of(first, VOCAB)
    for step in range(4):
        act = data.draw(st.sampled_from(["extend", "select", "none"]))
        if act == "extend":
            rows, sampler = rows + list(second), sampler.extend(RowSampler.of(second, VOCAB))
        elif act == "select":
            places = st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6)
            chosen = data.draw(places)
            rows, sampler = [rows[i] for i in chosen], sampler.select(chosen)
        tokens = torch.tensor([(7 * step + 5 * i) % VOCAB for i in range(len(rows))])
        takes = torch.tensor([(i + step) % 3 != 0 for i in range(len(rows))])
        sampler.accept(tokens, takes)
        rows = [
            SamplingRow(
                row.params,
                row.seed,
                row.sample,
                row.prompt,
                [*row.generated, int(token)] if take else row.generated,
                row.stop_ids,
            )
            for row, token, take in zip(rows, tokens, takes, strict=True)
        ]
        anew = RowSampler.of(rows, VOCAB)
        logits, steps = _logits(len(rows), step), _steps(rows)
        assert torch.equal(sampler.process(logits, steps), anew.process(logits, steps))
        assert torch.equal(sampler.pick(logits, steps).tokens, anew.pick(logits, steps).tokens)


@given(ROWS, st.integers(0, 2**31))
def test_penalties_of_a_history_are_those_of_whole_tables(rows, seed):
    penalties = [(1.3, 0.4, -0.2), (0.8, 0.0, 1.0), (1.0, -1.0, 0.0)]
    chosen = [penalties[i % 3] for i in range(len(rows))]
    logits = _logits(len(rows), seed)
    history = History.of(
        [row.prompt for row in rows], [row.generated for row in rows], chosen, logits.device
    )
    found = logits.clone()
    history.penalise_(found, torch.arange(len(rows)))
    counts = torch.zeros_like(logits, dtype=torch.int64)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for i, row in enumerate(rows):
        for token in row.generated:
            counts[i, token] += 1
        seen[i, list(row.prompt) + list(row.generated)] = True
    columns = torch.tensor(chosen, dtype=torch.float64)
    expected = apply_repetition_penalty(logits, seen, columns[:, 0])
    expected = apply_count_penalties(expected, counts, columns[:, 1], columns[:, 2])
    assert torch.equal(found, expected)


def test_a_history_outgrows_its_table():
    history = History.of([[0]], [[]], [(2.0, 1.0, 0.0)], torch.device("cpu"))
    for token in range(300):
        history.accept(torch.tensor([token % 250]), None)
    logits = torch.ones(1, 250)
    history.penalise_(logits, torch.tensor([0]))
    assert logits[0, :50].tolist() == [0.5 - 2] * 50
    assert logits[0, 50:].tolist() == [0.5 - 1] * 200


def test_openai_penalties_count_the_answer_alone():
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=0.25)
    logits = torch.zeros(5)
    penalised = process_plain(logits, params, [0, 0, 1], [1, 2, 2, 2])
    assert penalised.tolist() == [0, -0.75, -1.75, 0, 0]


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, -torch.inf]), min_size=6, max_size=12),
    st.integers(1, 13),
)
def test_the_likeliest_come_in_order_and_ties_by_id(values, count):
    found, ids = likeliest(torch.tensor([values]), count)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert ids[0].tolist() == expected
    assert found[0].tolist() == [values[i] for i in expected]


def test_broken_rows_harm_no_other():
    params = [SamplingParams(seed=i, top_p=0.9, repetition_penalty=1.2) for i in range(4)]
    rows = [SamplingRow(one, i, prompt=[1]) for i, one in enumerate(params)]
    logits = _logits(4, 0)
    sound = RowSampler.of(rows, VOCAB).pick(logits, torch.zeros(4, dtype=torch.int64))
    broken = logits.clone()
    broken[1, 3], broken[2] = torch.nan, -torch.inf
    picked = RowSampler.of(rows, VOCAB).pick(broken, torch.zeros(4, dtype=torch.int64))
    assert picked.sound.tolist() == [True, False, False, True]
    assert picked.tokens[[0, 3]].tolist() == sound.tokens[[0, 3]].tolist()


def test_constraints_bind_their_rows_alone_and_outrank_min_tokens():
    greedy = SamplingParams(temperature=0, min_tokens=3)
    one, ended = OnlyThese([2, 20]), OnlyThese([5])
    rows = [
        SamplingRow(greedy, 0, stop_ids=[5], matcher=one),
        SamplingRow(greedy, 0, stop_ids=[5], matcher=ended),
        SamplingRow(greedy, 0, stop_ids=[5]),
        SamplingRow(greedy, 0, stop_ids=[5], matcher=OnlyThese([])),
    ]
    logits = torch.zeros(4, VOCAB)
    logits[:, 5] = 9.0
    logits[:, 20] = 1.0
    sampler = RowSampler.of(rows, VOCAB)
    picked = sampler.pick(logits, torch.zeros(4, dtype=torch.int64))
    assert picked.tokens[:3].tolist() == [20, 5, 20]
    assert picked.sound.tolist() == [True, True, True, False]
    sampler.accept(picked.tokens, picked.sound)
    forked = sampler.select([0, 0])
    forked.accept(torch.tensor([2, 20]))
    told = [matcher.told for matcher in forked._matchers]
    assert told == [[20, 2], [20, 20]]
    late = sampler.pick(logits, torch.full((4,), 3))
    assert int(late.tokens[2]) == 5


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"n": 3, "best_of": 2}, "best_of = 2 answers cannot hold n = 3"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens = 9 is above max_tokens = 8"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"typical_p": 0}, "typical_p"),
        ({"logit_bias": {-1: 1.0}}, "never negative"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias"),
        ({"repetition_penalty": 1e-45}, "repetition_penalty"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
        ({"stop": "\ud800"}, "surrogate"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(raw, words):
    with pytest.raises(UserError, match=words):
        parse(SamplingParams, raw)


def test_a_bias_of_an_unknown_token_is_refused():
    row = SamplingRow(SamplingParams(logit_bias={VOCAB: 1.0}), 0)
    with pytest.raises(UserError, match="logit_bias names token 23; this model knows 0 to 22"):
        RowSampler.of([row], VOCAB)
    assert SamplingParams(logit_bias={"7": 1}).logit_bias == {7: 1.0}  # as JSON writes it


def test_best_of_keeps_those_of_best_mean_log_probability():
    model = CausalLM(
        LlamaShape(
            hidden_size=16, num_layers=1, num_heads=2, ffn_size=24, context_length=32
        ).config(VOCAB)
    )
    params = SamplingParams(
        max_tokens=6, seed=5, temperature=1.5, stop_token_ids=(1, 2), logprobs=True
    )
    drawn = Engine(model).generate([[3, 4]], params.model_copy(update={"n": 6}))
    means = [sum(one.log_probs) / len(one.log_probs) for one in drawn]
    order = sorted(range(6), key=lambda i: -means[i])
    assert len(set(means)) > 3
    kept = Engine(model).generate([[3, 4]], params.model_copy(update={"n": 2, "best_of": 6}))
    assert [one.token_ids for one in kept] == [drawn[i].token_ids for i in order[:2]]
    quiet = params.model_copy(update={"n": 1, "best_of": 6, "logprobs": False})
    (best,) = Engine(model).generate([[3, 4]], quiet)
    assert best.token_ids == drawn[order[0]].token_ids
    assert best.log_probs is None


def test_a_batch_that_never_empties_keeps_its_histories_narrow():
    """Requests overlap without end: the table is as wide as the rows in it, not as the day is long."""
    params = SamplingParams(max_tokens=20, repetition_penalty=1.2, seed=1)
    sampler = RowSampler.of([SamplingRow(params, 1, 0, [1, 2, 3])], VOCAB)
    for sample in range(1, 40):
        sampler = sampler.extend(RowSampler.of([SamplingRow(params, 1, sample, [1, 2, 3])], VOCAB))
        for step in range(10):
            sampler.accept(torch.full((len(sampler),), step))
        if len(sampler) > 2:
            sampler = sampler.select(range(1, len(sampler)))
    assert sampler._history is not None
    history = sampler._history[1]
    assert int(history.lengths.max()) <= VOCAB
    assert history.longest <= VOCAB
    assert history.ids.shape[1] <= VOCAB + 64


def test_a_row_of_many_biases_leaves_no_wide_table_behind():
    many = SamplingParams(logit_bias=dict.fromkeys(range(9), -1.0), min_tokens=2)
    few = SamplingParams(logit_bias={3: 5.0}, min_tokens=2)
    rows = [SamplingRow(many, 0, stop_ids=(1, 2, 3)), SamplingRow(few, 0, stop_ids=(4,))]
    both = RowSampler.of(rows, VOCAB)
    one, alone = both.select([1]), RowSampler.of(rows[1:], VOCAB)
    logits, steps = torch.randn(1, VOCAB), torch.zeros(1, dtype=torch.int64)
    assert {n: x.shape for n, x in one._tables.items()} == {
        n: x.shape for n, x in alone._tables.items()
    }
    assert torch.equal(one.adjusted(logits, steps), alone.adjusted(logits, steps))


@pytest.mark.parametrize("temperature", [1e-8, 1e-40, 1e-300])
def test_a_temperature_near_zero_is_greedy_whatever_float32_makes_of_it(temperature):
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 30
    for more in ({}, {"top_p": 0.9}, {"top_k": 5}, {"typical_p": 0.9}):
        params = SamplingParams(temperature=temperature, seed=1, logprobs=True, **more)
        picked = RowSampler.of([SamplingRow(params, 1)], VOCAB).pick(logits, torch.zeros(1).long())
        assert picked.tokens.item() == logits.argmax()
        assert picked.sampling_log_probs is not None
        assert picked.sampling_log_probs.item() == 0


@pytest.mark.parametrize("temperature", [1e8, 1e38, 1e300])
def test_a_temperature_beyond_measure_makes_all_alike_but_what_is_forbidden(temperature):
    params = SamplingParams(temperature=temperature, seed=1)
    rows = [SamplingRow(params, 1, sample) for sample in range(200)]
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)).repeat(200, 1)
    logits[:, ::2] = -torch.inf
    picked = RowSampler.of(rows, VOCAB).pick(logits, torch.zeros(200).long())
    assert set(picked.tokens.tolist()) == set(range(1, VOCAB, 2))


def test_numbers_beyond_the_vocabulary_and_beyond_int64_mean_what_they_say():
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0))
    first = torch.zeros(1).long()

    def token(params: SamplingParams, stops: tuple[int, ...] = ()) -> int:
        row = SamplingRow(params, 1, stop_ids=stops)
        picked = RowSampler.of([row], VOCAB).pick(logits, first)
        return int(picked.tokens) if bool(picked.sound) else -1

    plain = token(SamplingParams(seed=1))
    assert token(SamplingParams(seed=1, top_k=2**70)) == plain
    best = int(logits.argmax())
    endless = SamplingParams(temperature=0, min_tokens=2**70, max_tokens=2**71)
    assert token(endless, (VOCAB, 2**70)) == best
    assert token(endless, (best, VOCAB)) != best
    assert token(endless, tuple(range(VOCAB))) == -1  # nothing is left to say
