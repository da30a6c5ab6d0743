"""Logits processors and guidance against transformers: on random logits, and in whole generations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, WatermarkDetector, WatermarkingConfig
from transformers.generation import logits_process as theirs

from glassbox.core.errors import UserError
from glassbox.inference import Engine, NgramProposer, SamplingParams
from glassbox.inference.plain import generate_plain, process_plain
from glassbox.inference.sampling.processors import Watermark, classifier_free_guidance
from glassbox.inference.sampling.sampler import RowSampler, SamplingRow
from glassbox.models.causal_lm import CausalLM
from support.tiny_run import tiny_model

V = 19
EOS = 3
CASES: dict[str, tuple[dict[str, Any], Callable[[int], Any]]] = {
    "ngrams": ({"no_repeat_ngram_size": 2}, lambda n: theirs.NoRepeatNGramLogitsProcessor(2)),
    "unigrams": ({"no_repeat_ngram_size": 1}, lambda n: theirs.NoRepeatNGramLogitsProcessor(1)),
    "long ngrams": ({"no_repeat_ngram_size": 4}, lambda n: theirs.NoRepeatNGramLogitsProcessor(4)),
    "bad words": (
        {"bad_words_ids": ((1,), (2, 4), (0, 1, 2), (EOS,))},
        lambda n: theirs.NoBadWordsLogitsProcessor([[1], [2, 4], [0, 1, 2], [EOS]], EOS),
    ),
    "sequence bias": (
        {"sequence_bias": (((1,), 2.5), ((2, 4), -3.0), ((1, 4), 1.5))},
        lambda n: theirs.SequenceBiasLogitsProcessor([[[1], 2.5], [[2, 4], -3.0], [[1, 4], 1.5]]),
    ),
    "decay": (
        {"exponential_decay_length_penalty": (2, 1.3)},
        lambda n: theirs.ExponentialDecayLengthPenalty((2, 1.3), EOS, n),
    ),
    "epsilon": ({"epsilon_cutoff": 0.06}, lambda n: theirs.EpsilonLogitsWarper(0.06)),
    "eta": ({"eta_cutoff": 0.1}, lambda n: theirs.EtaLogitsWarper(0.1)),
    "top h": ({"top_h": 0.5}, lambda n: theirs.TopHLogitsWarper(0.5)),
    "most of it": ({"top_h": 0.95}, lambda n: theirs.TopHLogitsWarper(0.95)),
    "lefthash": (
        {"watermark": {"greenlist_ratio": 0.4, "bias": 1.5}},
        lambda n: theirs.WatermarkLogitsProcessor(V, "cpu", greenlist_ratio=0.4, bias=1.5),
    ),
}


def forced(scores: Tensor, ids: list[int]) -> Tensor:
    return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor(ids), 0.0)


@pytest.mark.parametrize("name", list(CASES))
@given(
    prompt=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    generated=st.lists(st.integers(0, 4), max_size=8),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=60, deadline=None)
def test_processed_logits_are_transformers(
    name: str, prompt: list[int], generated: list[int], seed: int
) -> None:
    keys, make = CASES[name]
    params = SamplingParams.model_validate({**keys, "stop_token_ids": (EOS,), "seed": 0})
    logits = torch.randn(1, V, generator=torch.Generator().manual_seed(seed)) * 3
    wanted = make(len(prompt))(torch.tensor([[*prompt, *generated]]), logits.clone())
    plain = process_plain(logits[0], params, prompt, generated)
    torch.testing.assert_close(plain, wanted[0], rtol=1e-6, atol=1e-6)
    row = SamplingRow(params, 0, prompt=prompt, stop_ids=(EOS,))
    sampler = RowSampler.of([row], V)
    for step, token in enumerate(generated):  # the state moves along as in the engine
        sampler.process(logits, torch.tensor([step]))
        sampler.accept(torch.tensor([token]))
    ours = sampler.process(logits, torch.tensor([len(generated)]))
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)


def test_a_self_hashed_watermark_is_transformers() -> None:
    size = 50  # theirs looks at 40 candidates
    mark = {"seeding_scheme": "selfhash", "context_width": 3, "greenlist_ratio": 0.5}
    params = SamplingParams.model_validate({"watermark": mark})
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(0))
    peer = theirs.WatermarkLogitsProcessor(
        size, "cpu", seeding_scheme="selfhash", context_width=3, greenlist_ratio=0.5
    )
    for tokens in ([1, 2, 3, 4], [7, 7, 9], [1, 2]):
        ours = process_plain(logits[0], params, tokens, [])
        torch.testing.assert_close(ours, peer(torch.tensor([tokens]), logits.clone())[0])


def test_forced_first_and_last_tokens_are_transformers() -> None:
    params = SamplingParams(forced_bos_token_id=5, forced_eos_token_id=(EOS,), max_tokens=4, seed=0)
    logits = torch.randn(1, V, generator=torch.Generator().manual_seed(1))
    prompt = [2]
    first = theirs.ForcedBOSTokenLogitsProcessor(5)
    last = theirs.ForcedEOSTokenLogitsProcessor(len(prompt) + 4, EOS)
    generated: list[int] = []
    for token in (5, 1, 1, EOS):
        ids = torch.tensor([[*prompt, *generated]])
        wanted = last(ids, first(ids, logits.clone()))
        assert process_plain(logits[0], params, prompt, generated).equal(wanted[0])
        sampler = RowSampler.of([SamplingRow(params, 0, prompt=prompt, generated=generated)], V)
        assert sampler.process(logits, torch.tensor([len(generated)])).equal(wanted)
        generated.append(token)


def model() -> CausalLM:
    net = tiny_model()
    return net.eval()


FULL = [
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": ((1,), (2, 4)), "sequence_bias": (((5,), 4.0), ((5, 6), -4.0))},
    {"epsilon_cutoff": 0.02, "eta_cutoff": 0.03, "top_h": 0.9},
    {"watermark": {}},
    {"forced_bos_token_id": 7, "forced_eos_token_id": 3},
    {"guidance_scale": 1.5, "negative_prompt_ids": (4, 5, 6)},
    {"guidance_scale": 2.0, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
]


@pytest.mark.parametrize("keys", FULL, ids=lambda keys: "-".join(keys))
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_engine_generates_as_the_plain_loop_does(
    keys: dict[str, Any], temperature: float
) -> None:
    net = model()
    params = SamplingParams.model_validate(
        {**keys, "temperature": temperature, "max_tokens": 12, "seed": 5}
    )
    prompts = [[1, 2, 3], [4, 5, 4, 5, 4], [9]]
    wanted = [generate_plain(net, prompt, params) for prompt in prompts]
    plain_too = SamplingParams(max_tokens=12, seed=1)
    engine = Engine(net)
    found = engine.generate([*prompts, [1, 2, 3]], [params] * 3 + [plain_too])
    assert [one.token_ids for one in found[:3]] == wanted
    assert found[3].token_ids == generate_plain(net, [1, 2, 3], plain_too)
    drafting = Engine(net, proposer=NgramProposer(shortest=1), num_drafts=3)
    assert [one.token_ids for one in drafting.generate(prompts, params)] == wanted


def test_several_samples_of_one_prompt_are_guided_each_by_itself() -> None:
    net = model()
    params = SamplingParams(guidance_scale=1.7, n=3, seed=2, max_tokens=8, no_repeat_ngram_size=2)
    engine = Engine(net, max_batch=2)
    found = engine.generate([[1, 2, 3]], params)
    assert engine.cache_bytes == 0  # the negative prompts' cache is free again
    for sample, one in enumerate(found):
        assert one.token_ids == generate_plain(net, [1, 2, 3], params, sample=sample)


def test_guidance_is_transformers_on_random_logits() -> None:
    generator = torch.Generator().manual_seed(3)
    conditional, other = torch.randn(2, 1, V, generator=generator)

    class Peer:
        def __call__(self, *args: Any, **keys: Any) -> Any:
            class Out(dict[str, Any]):
                logits = other.unsqueeze(1)

            return Out()

    peer = theirs.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.8, Peer())
    wanted = peer(torch.tensor([[1, 2]]), conditional.clone())
    torch.testing.assert_close(classifier_free_guidance(conditional, other, 1.8), wanted)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"bad_words_ids": ((V + 500,),)}, "bad_words_ids names token"),
        ({"forced_bos_token_id": 10**6}, "forced_bos_token_id names token 1000000"),
        (
            {"guidance_scale": 2, "negative_prompt_ids": (1,) * 4000},
            "negative prompt has 4000 tokens",
        ),
        ({"bad_words": ("x",)}, "bad_words needs a tokenizer"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        Engine(model()).generate([[1]], SamplingParams.model_validate(keys))


@pytest.mark.parametrize(
    "keys",
    [
        {"bad_words": [""]},
        {"sequence_bias": [[[], 1.0]]},
        {"negative_prompt": "x"},
        {"exponential_decay_length_penalty": (1, 0)},
        {"watermark": {"greenlist_ratio": 1.0}},
    ],
)
def test_settings_that_mean_nothing_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        SamplingParams.model_validate(keys)


def test_a_row_with_every_token_forbidden_ends_with_a_reason() -> None:
    net = model()
    every = tuple((token,) for token in range(net.config.vocab_size))
    with pytest.raises(UserError, match="no token is left to choose"):
        Engine(net).generate([[1]], SamplingParams(bad_words_ids=every))


def test_transformers_detects_our_watermark() -> None:
    net = model()
    peer = LlamaConfig(vocab_size=net.config.vocab_size, bos_token_id=10**6)
    detector = WatermarkDetector(peer, "cpu", WatermarkingConfig(bias=6.0, greenlist_ratio=0.3))
    params = SamplingParams(
        watermark=Watermark(bias=6.0, greenlist_ratio=0.3), max_tokens=14, seed=4
    )
    prompts = [[first, 5] for first in range(16)]
    marked = [one.token_ids for one in Engine(net).generate(prompts, params.spread(16))]
    plain = SamplingParams(max_tokens=14, seed=3)
    unmarked = [one.token_ids for one in Engine(net).generate(prompts, plain.spread(16))]
    ours, others = (
        detector(torch.tensor(rows), return_dict=True).green_fraction.mean()
        for rows in (marked, unmarked)
    )
    assert ours > 0.8
    assert others < 0.5
