"""Every logits processor of a request against transformers', each row of a batch with its own settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import RowSampler, SamplingRow

VOCAB, PROMPT, EOS = 97, 6, [3, 50]

PROCESSORS: dict[str, tuple[st.SearchStrategy, Callable[..., LogitsProcessor]]] = {
    # in the order of `generate`
    "logit_bias": (
        st.dictionaries(
            st.integers(0, VOCAB - 1), st.floats(-9, 9, width=16), min_size=1, max_size=4
        ),
        lambda value: SequenceBiasLogitsProcessor({(k,): float(v) for k, v in value.items()}),
    ),
    "repetition_penalty": (st.floats(0.3, 3), RepetitionPenaltyLogitsProcessor),
    "min_tokens": (
        st.integers(1, 8),
        lambda value: MinNewTokensLengthLogitsProcessor(PROMPT, value, EOS),
    ),
    "temperature": (st.floats(0.1, 4), TemperatureLogitsWarper),
    "top_k": (st.integers(1, 120), TopKLogitsWarper),
    "top_p": (st.floats(0.01, 0.99), TopPLogitsWarper),
    "min_p": (st.floats(0.001, 1), MinPLogitsWarper),
    "typical_p": (st.floats(0.05, 0.99), TypicalLogitsWarper),
}


def _theirs(chosen: dict, history: Tensor, logits: Tensor) -> Tensor:
    processors = [make(chosen[name]) for name, (_, make) in PROCESSORS.items() if name in chosen]
    return LogitsProcessorList(processors)(history, logits)


def _ours(chosen: list[dict], history: Tensor, logits: Tensor) -> Tensor:
    rows = [
        SamplingRow(
            SamplingParams(**one),
            seed=0,
            prompt=ids[:PROMPT],
            generated=ids[PROMPT:],
            stop_ids=EOS,
        )
        for one, ids in zip(chosen, history.tolist(), strict=True)
    ]
    steps = torch.full((len(rows),), history.shape[1] - PROMPT)
    return RowSampler.of(rows, VOCAB).process(logits, steps)


def _random(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """float64, so that no border of theirs is decided by the rounding of a sum."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, VOCAB, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(0, VOCAB, (rows, PROMPT + 5), generator=generator)


def _assert_same(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found.isinf(), expected.isinf())
    # the bias is float32 in theirs
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", PROCESSORS)
def test_each_processor_alone(name):
    strategy, _ = PROCESSORS[name]

    @settings(max_examples=25, deadline=None, database=None)
    @given(st.lists(strategy, min_size=1, max_size=4), st.integers(0, 2**31))
    def check(values, seed):
        logits, history = _random(len(values), seed)
        chosen = [{name: value} for value in values]
        found = _ours(chosen, history, logits)
        for i, one in enumerate(chosen):
            _assert_same(found[i : i + 1], _theirs(one, history[i : i + 1], logits[i : i + 1]))

    check()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({}, optional={name: s for name, (s, _) in PROCESSORS.items()}),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**31),
)
def test_any_of_them_together_and_other_ones_in_the_next_row(chosen, seed):
    logits, history = _random(len(chosen), seed)
    found = _ours(chosen, history, logits)
    for i, one in enumerate(chosen):
        _assert_same(found[i : i + 1], _theirs(one, history[i : i + 1], logits[i : i + 1]))


def test_the_order_is_that_of_generate():
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    config = GenerationConfig(
        do_sample=True,
        num_beams=1,
        sequence_bias=[[[1], 1.0]],
        repetition_penalty=1.2,
        min_new_tokens=3,
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        typical_p=0.8,
    )
    config._eos_token_tensor = torch.tensor(EOS)
    prompt = torch.tensor([[1]])
    built = theirs._get_logits_processor(config, input_ids_seq_length=1, encoder_input_ids=prompt)
    examples = {
        "logit_bias": {1: 1.0},
        "repetition_penalty": 2.0,
        "min_tokens": 1,
        "temperature": 0.5,
        "top_k": 2,
        "top_p": 0.5,
        "min_p": 0.5,
        "typical_p": 0.5,
    }
    made = [type(make(examples[name])) for name, (_, make) in PROCESSORS.items()]
    assert [type(one) for one in built] == made
