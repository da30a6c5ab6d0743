"""The engine against generation without cache or batch, and what it must leave behind: nothing."""

from __future__ import annotations

import gc
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.inference.engine import Engine
from glassbox.inference.plain import generate_plain
from glassbox.inference.sampling.params import SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import Gelu, SwiGlu
from glassbox.layers.norms import LayerNorm, RmsNorm
from glassbox.layers.paged_state import PagedState
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import BYTE_TO_CHAR
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer import Tokenizer

TOKENIZER = Tokenizer(
    BytePairModel({char: i for i, char in enumerate(BYTE_TO_CHAR)}, []),
    PreTokenizer.named("gpt2"),
    [AddedToken("<|end|>", 256)],
    roles={"eos_token": "<|end|>"},
)


def tiny(kind: str, seed: int, *, vocab_size: int = 23, context_length: int = 24) -> CausalLM:
    """A random model in float64, where batch shapes cannot tip a choice by their rounding."""
    if kind == "llama":
        mixer = GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary())
        block = BlockSpec(mixer=mixer, ffn=SwiGlu(size=24))
        config = ModelConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            context_length=context_length,
            blocks=[Repeat(block=block, times=2)],
            final_norm=RmsNorm(),
        )
    else:
        mixer = GroupedQuery(num_heads=2, qkv_bias=True, output_bias=True)
        block = BlockSpec(mixer=mixer, ffn=Gelu(size=32), norm=LayerNorm())
        config = ModelConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            context_length=context_length,
            blocks=[Repeat(block=block, times=2)],
            final_norm=LayerNorm(),
            learned_positions=True,
            dropout=0.5,  # generation must switch it off
        )
    model = CausalLM(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than at initialisation: choices vary
            parameter.normal_(std=0.6, generator=generator)
    return model


PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.0]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([0.8, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.4]),
    stop_token_ids=st.sampled_from([(), (3,), (1, 2, 3, 4, 5, 6)]),
    seed=st.integers(0, 9),
    n=st.integers(1, 3),
    logprobs=st.booleans(),
)
PROMPT = st.lists(st.integers(0, 22), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["llama", "gpt2"]),
    st.integers(0, 50),
    st.lists(st.tuples(PROMPT, PARAMS), min_size=1, max_size=6),
    st.sampled_from([1, 2, 5, 64]),
)
def test_engine_equals_plain_generation(kind, seed, requests, max_batch):
    """Unequal prompts and settings, several samples, any batch limit: each answer as if alone."""
    model = tiny(kind, seed)
    model.eval()
    prompts, params = [p for p, _ in requests], [s for _, s in requests]
    completions = Engine(model, max_batch=max_batch).generate(prompts, params)
    order = [(c.prompt_index, c.sample_index) for c in completions]
    assert order == [(i, j) for i, one in enumerate(params) for j in range(one.n)]
    for completion in completions:
        prompt, one = requests[completion.prompt_index]
        ids = generate_plain(model, prompt, one, sample=completion.sample_index)
        assert completion.token_ids == ids
        stopped = ids[-1] in one.stop_token_ids
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(ids) == min(one.max_tokens, 24 - len(prompt))
        assert (completion.log_probs is not None) == one.logprobs


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_log_probs_equal_those_of_the_full_forward_pass(kind):
    model = tiny(kind, 1).eval()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    params = SamplingParams(
        max_tokens=12, temperature=0.7, top_k=4, repetition_penalty=1.3, seed=2, n=2, logprobs=True
    )
    for completion in Engine(model).generate(prompts, params):
        prompt = prompts[completion.prompt_index]
        ids = torch.tensor([prompt + completion.token_ids])
        logits = model(ids)[0, len(prompt) - 1 : -1]
        chosen = ids[0, len(prompt) :, None]
        for heat, given_ in ((1.0, completion.log_probs), (0.7, completion.sampling_log_probs)):
            expected = (logits / heat).log_softmax(-1).gather(-1, chosen).squeeze(-1)
            # float64 on both sides: only the order of sums differs
            found = torch.tensor(given_, dtype=torch.float64)
            torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_the_answer_is_the_same_alone_and_in_company_and_by_stream():
    model = tiny("llama", 5).eval()
    params = SamplingParams(max_tokens=9, seed=42)
    prompt = [1, 2, 3]
    (alone,) = Engine(model).generate([prompt], params)
    others = [[4] * k for k in (1, 8, 15, 2)]
    company = Engine(model, max_batch=3).generate([*others, prompt], params)
    assert company[-1].token_ids == alone.token_ids
    assert [event.token_id for event in Engine(model).stream(prompt, params)] == alone.token_ids
    again = Engine(model).generate([prompt], params.model_copy(update={"n": 4}))
    assert again[0].token_ids == alone.token_ids
    assert len({tuple(completion.token_ids) for completion in again}) == 4
    unseeded = SamplingParams(max_tokens=9)
    first, second = (Engine(model).generate([prompt], unseeded)[0].token_ids for _ in range(2))
    assert first != second  # 23 tokens, 9 places: equal by chance hardly ever


def test_torchs_own_generator_is_left_alone():
    model = tiny("gpt2", 0)
    before = torch.get_rng_state()
    Engine(model).generate([[1, 2]], SamplingParams(max_tokens=4))
    assert torch.equal(before, torch.get_rng_state())


def test_sampled_tokens_follow_the_model():
    model = tiny("llama", 8).eval()
    count = 4000
    params = SamplingParams(max_tokens=1, temperature=2.0, seed=1, n=count)
    drawn = [c.token_ids[0] for c in Engine(model, max_batch=1500).generate([[1, 2]], params)]
    expected = (model(torch.tensor([[1, 2]]))[0, -1] / 2.0).softmax(0).detach() * count
    observed = torch.tensor(drawn).bincount(minlength=23).double()
    common = expected >= 5
    cells = torch.stack((observed, expected))
    cells = torch.cat((cells[:, common], cells[:, ~common].sum(1, keepdim=True)), dim=1)
    chi_square = ((cells[0] - cells[1]) ** 2 / cells[1].clamp(min=1)).sum()
    assert (
        float(chi_square) < 50
    )  # at most 23 cells, 22 degrees of freedom: beyond 50 once in 1,600


def test_modules_keep_their_training_flags_and_no_gradient_is_kept():
    model = tiny("gpt2", 0).train()
    model.blocks[0].eval()  # a frozen part inside a model that trains
    flags = [module.training for module in model.modules()]
    engine = Engine(model)
    greedy = SamplingParams(max_tokens=5, temperature=0)
    first = engine.generate([[1, 2]], greedy)
    assert first == engine.generate([[1, 2]], greedy)  # dropout is off
    stream = engine.stream([1, 2], greedy)
    streamed = [next(stream).token_id]
    assert [module.training for module in model.modules()] == flags  # between two tokens too
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    model(torch.tensor([[1, 2]])).sum().backward()  # the caller trains on while it streams
    assert [*streamed, *(event.token_id for event in stream)] == first[0].token_ids
    with pytest.raises(UserError, match="NaN"):
        _with_nan(model, lambda: engine.generate([[1, 2]], greedy))
    assert [module.training for module in model.modules()] == flags


def _with_nan(model, call):
    with torch.no_grad():
        weight = model.final_norm.weight
        kept = weight.clone()
        weight[0] = float("nan")
    try:
        call()
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_an_abandoned_stream_frees_its_cache():
    engine = Engine(tiny("llama", 0), TOKENIZER)
    stream = engine.stream([1, 2], SamplingParams(max_tokens=20))
    next(stream)
    assert engine.stats().blocks_free < engine.stats().blocks_total
    assert engine.cache_bytes > 0
    del stream
    assert engine.stats().blocks_free == engine.stats().blocks_total  # at once
    assert engine.cache_bytes == 0
    assert not engine.has_work


def test_nothing_is_left_behind_by_a_call():
    engine = Engine(tiny("llama", 0))
    params = SamplingParams(max_tokens=10, n=3, logprobs=True, repetition_penalty=1.1)

    def tensors_after_a_call():
        engine.generate([[1, 2, 3], [4]], params)
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    first = tensors_after_a_call()  # what others left behind may go meanwhile; nothing may be added
    counts = [tensors_after_a_call() for _ in range(5)]
    # garbage of other tests in this process may go at any of them, so a count may fall, never rise
    assert [first, *counts] == sorted([first, *counts], reverse=True)


def test_bfloat16_runs_under_autocast():
    model = tiny("llama", 2).float()
    params = SamplingParams(max_tokens=6, temperature=0, logprobs=True)
    (wide,) = Engine(model).generate([[1, 2, 3]], params)
    (narrow,) = Engine(model, dtype=torch.bfloat16).generate([[1, 2, 3]], params)
    # bf16 has 8 bits: logits of about 5 are off by about 0.02 a layer
    assert abs(wide.log_probs[0] - narrow.log_probs[0]) < 0.3
    assert wide.log_probs[0] != narrow.log_probs[0]


# ---- text ---------------------------------------------------------------------------------------

TEXT_MODEL = tiny("llama", 4, vocab_size=260, context_length=64)


@settings(max_examples=25, deadline=None)
@given(
    st.text(min_size=1, max_size=8),
    st.lists(st.text(alphabet="abcdefgh .,é", min_size=1, max_size=2), max_size=3),
    st.integers(0, 1000),
)
def test_streamed_text_joins_to_the_completed_text(prompt, stops, seed):
    engine = Engine(TEXT_MODEL, TOKENIZER)
    params = SamplingParams(max_tokens=40, seed=seed, stop=stops, temperature=1.5)
    (completion,) = engine.complete(prompt, params)
    assert "".join(engine.stream_text(prompt, params)) == completion.text
    events = list(engine.stream(TOKENIZER.encode(prompt), params))
    assert [event.token_id for event in events] == completion.token_ids
    assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish_reason == completion.finish_reason
    assert not any(stop in completion.text for stop in stops)
    if completion.stop is not None:
        free = engine.complete(prompt, params.model_copy(update={"stop": ()}))[0]
        assert free.text.startswith(completion.text + completion.stop)
        assert completion.finish_reason == "stop"


def _spelling(text: str) -> CausalLM:
    """A model that says the bytes of `text`, each calling for the next, the last for the end."""
    model = tiny("llama", 0, vocab_size=260, context_length=64)
    ids = [*text.encode(), 256]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        directions = torch.randn(260, 16, generator=torch.Generator().manual_seed(0)).double()
        model.embedding.weight.copy_(directions)
        model.final_norm.weight.fill_(1.0)
    table = torch.zeros(260, 16, dtype=torch.float64)
    for token, follower in pairwise(ids):
        table[follower] = torch.nn.functional.normalize(directions[token], dim=0)
    model.head = torch.nn.Linear(16, 260, bias=False).double()
    with torch.no_grad():
        model.head.weight.copy_(table)
    return model


def test_a_stop_string_over_token_borders_is_found_in_every_row_that_has_one():
    engine = Engine(_spelling("abcdefg"), TOKENIZER)
    greedy = SamplingParams(temperature=0, max_tokens=5)
    with_stop = greedy.model_copy(update={"stop": ("cde",)})
    first, second = engine.complete(["a", "a"], [with_stop, greedy])
    assert (first.text, first.finish_reason, first.stop) == ("b", "stop", "cde")
    assert first.token_ids == list(b"bcde")
    assert (second.text, second.finish_reason, second.stop) == ("bcdef", "length", None)
    assert list(engine.stream_text("a", with_stop)) == ["b"]
    # the beginning of a stop string that never comes is given back in the end
    never = greedy.model_copy(update={"stop": ("fX",)})
    assert list(engine.stream_text("a", never)) == ["b", "c", "d", "e", "f"]


def test_the_end_of_text_token_ends_an_answer_unless_told_otherwise():
    engine = Engine(_spelling("abc"), TOKENIZER)
    greedy = SamplingParams(temperature=0, max_tokens=6)
    (ended,) = engine.complete("a", greedy)
    assert (ended.text, ended.finish_reason) == ("bc", "stop")
    assert ended.token_ids == [*b"bc", 256]
    (on,) = engine.complete("a", greedy.model_copy(update={"ignore_eos": True}))
    assert on.finish_reason == "length"
    assert on.token_ids[:3] == [*b"bc", 256]
    assert len(on.token_ids) == 6


# ---- what a user can get wrong ------------------------------------------------------------------


def test_prompts_that_do_not_fit_are_refused_with_their_lengths():
    engine = Engine(tiny("llama", 0))  # context 24, vocabulary 23
    with pytest.raises(UserError, match="prompt 1 has 24 tokens; the model's context is 24"):
        engine.generate([[1], [1] * 24])
    with pytest.raises(UserError, match="prompt 0 is empty"):
        engine.generate([[]])
    with pytest.raises(UserError, match="0 to 22"):
        engine.generate([[1, 23]])
    with pytest.raises(UserError, match="2 prompts but 1 params"):
        engine.generate([[1], [2]], [SamplingParams()])
    with pytest.raises(UserError, match="needs a tokenizer"):
        engine.generate([[1]], SamplingParams(stop="x"))
    with pytest.raises(UserError, match="no tokenizer"):
        engine.complete("x")
    with pytest.raises(UserError, match="n = 2: a stream has one completion"):
        engine.stream([1], SamplingParams(n=2))
    with pytest.raises(UserError, match="max_batch = 0"):
        Engine(tiny("llama", 0), max_batch=0)
    assert engine.generate([]) == []


@pytest.mark.parametrize(("max_tokens", "kept"), [(4, 20), (100, 12)])
def test_a_prompt_can_be_cut_from_the_left(max_tokens, kept):
    engine = Engine(tiny("llama", 0))
    prompt = [i % 23 for i in range(40)]
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    cut = engine.generate([prompt], params, truncate_prompt=True)
    assert cut == engine.generate([prompt[-kept:]], params)
    assert len(cut[0].token_ids) == 24 - kept  # and there the context is full


def test_running_out_of_memory_half_way_spoils_no_later_answer(monkeypatch):
    model = tiny("llama", 1)
    params = SamplingParams(max_tokens=20, temperature=0)
    expected = Engine(model).generate([[1, 2, 3]], params)
    grow, calls = PagedState.grow, []

    def fails_in_the_second_layer(state: PagedState, num_blocks: int) -> None:
        calls.append(num_blocks)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        grow(state, num_blocks)

    monkeypatch.setattr(PagedState, "grow", fails_in_the_second_layer)
    engine = Engine(model, keep_prefixes=True, block_size=4)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.generate([[1, 2, 3]], params)
    assert engine.stats().blocks_free == engine.stats().blocks_total
    assert engine.generate([[1, 2, 3]], params) == expected
    assert engine.generate([[1, 2, 3], [4, 5]], params)[0] == expected[0]


def test_types_that_do_not_mix_are_refused_and_a_wider_one_is_the_caches_alone(recwarn):
    model = tiny("llama", 1).bfloat16()
    params = SamplingParams(max_tokens=9, temperature=0)
    with pytest.raises(UserError, match=r"the weights are torch\.bfloat16"):
        Engine(model, dtype=torch.float16)
    prompts = [[1, 2, 3], [4, 5], [6]]
    wide = Engine(model, dtype=torch.float32).generate(prompts, params)
    assert [one.token_ids for one in wide] == [
        one.token_ids for one in Engine(model).generate(prompts, params)
    ]
    assert not recwarn.list
