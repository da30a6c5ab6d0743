"""Compiled steps: the answers of ordinary ones, compiled once, and never in a request's way."""

from __future__ import annotations

import io
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from glassbox.adapters.attach import attach
from glassbox.adapters.specs import Lora
from glassbox.cli.main import main
from glassbox.cli.serve import _service
from glassbox.core.errors import UserError
from glassbox.formats.huggingface import save_pretrained
from glassbox.inference import Engine, SamplingParams
from glassbox.inference.compiled_step import CompiledStep
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import Gelu, SwiGlu
from glassbox.layers.mamba2 import Mamba2
from glassbox.layers.norms import LayerNorm, RmsNorm
from glassbox.layers.rotary import Alibi
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.models.layout import lay_out_for_decoding
from glassbox.ops.single_row import single_row_linear
from support.tiny_chat import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
VOCAB = TOKENIZER.vocab_size
GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)


def small_model(mixer, ffn, *, norm=None, times=2, dtype=torch.float64, **config) -> CausalLM:
    """Random, in float64, where another order of sums cannot tip a choice."""
    norm = norm or RmsNorm()
    block = BlockSpec(mixer=mixer, ffn=ffn, norm=norm)
    model = CausalLM(
        ModelConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            context_length=128,
            blocks=(Repeat(block=block, times=times),),
            final_norm=norm,
            **config,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.to(dtype).eval()


def llama(times=1, **options) -> CausalLM:
    mixer = GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary())
    return small_model(mixer, SwiGlu(size=48), times=times, **options)


def gpt(**options) -> CausalLM:
    """With what the other has not: biases, LayerNorm, learned positions, ALiBi, sinks, caps, a head, dropout."""
    mixer = GroupedQuery(
        num_heads=2, qkv_bias=True, output_bias=True, sinks=True, softcap=5.0, positions=Alibi()
    )
    return small_model(
        mixer,
        Gelu(size=40),
        norm=LayerNorm(),
        learned_positions=True,
        tie_embeddings=False,
        logit_softcap=9.0,
        dropout=0.5,
        **options,
    )


def step_of(engine: Engine) -> CompiledStep:
    step = engine._runner.compiled
    assert step is not None
    return step


def answers(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[list[int]]:
    return [answer.token_ids for answer in engine.generate(prompts, params)]


@pytest.mark.parametrize("make", [llama, gpt])
def test_answers_are_those_of_ordinary_steps_and_one_compilation_serves_all(make, monkeypatch):
    if make is gpt:  # what is read, without another C++ compiler's time
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = make()
    ordinary = Engine(model, TOKENIZER, block_size=4)
    drawn = SamplingParams(seed=3, max_tokens=30, ignore_eos=True, logprobs=True)
    cases = [([[5, 6, 7]], GREEDY), ([list(range(40))], drawn), ([[1, 2], [3, 4, 5]], GREEDY)]
    expected = [ordinary.generate(*case) for case in cases]

    engine = Engine(model, TOKENIZER, block_size=4, compiled=True)
    first = engine.generate(*cases[0])
    assert step_of(engine).num_steps == 9, "all but the prompt's"
    compiled = counters["stats"]["unique_graphs"]
    # other lengths, larger pools, other blocks
    found = [first, *(engine.generate(*case) for case in cases[1:])]
    assert step_of(engine).num_steps == 9 + 29, "two at a time go the ordinary way"
    assert counters["stats"]["unique_graphs"] == compiled
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.token_ids == b.token_ids
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-7)  # turned by float32 angles


def test_many_blocks_are_taken_in_pieces(monkeypatch):
    calls = []

    def count(function, **_):
        return lambda *args: (calls.append(function.__name__), function(*args))[1]

    monkeypatch.setattr(torch, "compile", count)
    model = llama(times=15)
    engine = Engine(model, TOKENIZER, compiled=True)
    two = GREEDY.model_copy(update={"max_tokens": 2})
    assert answers(engine, [[5, 6]], two) == answers(Engine(model, TOKENIZER), [[5, 6]], two)
    assert calls == ["_through"] * 3 + ["_end"]


def test_a_change_of_the_weights_is_followed():
    model = llama()
    engine = Engine(model, TOKENIZER, compiled=True)
    before = answers(engine, [[5, 6, 7]], GREEDY)
    with torch.no_grad():
        model.blocks[0].mixer.qkv.weight.mul_(-1.5)
    after = answers(engine, [[5, 6, 7]], GREEDY)
    assert before != after == answers(Engine(model, TOKENIZER), [[5, 6, 7]], GREEDY)
    assert step_of(engine).num_steps == 18


def test_a_past_in_scattered_blocks_is_gathered(monkeypatch):
    model, prompt = llama(), list(range(9))
    engine = Engine(model, TOKENIZER, compiled=True, block_size=4, keep_prefixes=True)
    step, held = step_of(engine), []
    taken = step._step

    def watched(chunk, states):
        held.append(list(chunk.sequence.blocks))
        return taken(chunk, states)

    monkeypatch.setattr(step, "_step", watched)
    wanted = answers(Engine(model, TOKENIZER), [prompt], GREEDY)
    assert answers(engine, [prompt], GREEDY) == wanted
    assert answers(engine, [prompt], GREEDY) == wanted  # behind the first one's blocks, kept
    assert held[8] == [0, 1, 2, 3, 4]
    first = held[17][0]
    assert held[17] != list(range(first, first + 5)), "scattered"


def test_where_the_compiler_fails_one_warning_says_so_and_the_answer_comes(monkeypatch):
    model = llama()
    engine = Engine(model, TOKENIZER, compiled=True)

    def fails(*_):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(step_of(engine), "_through", fails)
    with pytest.warns(UserWarning, match=r"not compiled from here on: no C\+\+ compiler$"):
        found = answers(engine, [[5, 6, 7]], GREEDY)
    assert found == answers(Engine(model, TOKENIZER), [[5, 6, 7]], GREEDY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answers(engine, [[5, 6, 7]], GREEDY) == found
    assert step_of(engine).num_steps == 0


def test_models_with_adapters_go_the_ordinary_way():
    model = llama()
    attach(model, Lora(rank=2))
    engine = Engine(model, TOKENIZER, compiled=True)
    assert answers(engine, [[5, 6]], GREEDY) == answers(Engine(model, TOKENIZER), [[5, 6]], GREEDY)
    assert step_of(engine).num_steps == 0


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (small_model(Mamba2(num_heads=2, head_dim=16, state_size=8), None), {}),
        (llama().to(torch.bfloat16), {}),
        (llama(dtype=torch.float32), {"dtype": torch.bfloat16}),
    ],
)
def test_models_that_cannot_be_compiled_are_refused(model, options):
    with pytest.raises(UserError, match=r"^compiled = True: compiled steps are .*float32"):
        Engine(model, TOKENIZER, compiled=True, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_single_row_is_linear(dtype, stride):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 64 * stride, generator=generator, dtype=dtype)[..., ::stride]
    weight = torch.randn(7, 64, generator=generator, dtype=dtype)
    bias = torch.randn(7, generator=generator, dtype=dtype)
    # sums of 64 products of about 1, in another order
    close = {"atol": 1e-4 if dtype == torch.float32 else 1e-12, "rtol": 0}
    torch.testing.assert_close(single_row_linear(x, weight), F.linear(x, weight), **close)
    found = single_row_linear(x[0], weight, bias)
    torch.testing.assert_close(found, F.linear(x[0], weight, bias), **close)


def test_matrices_that_lie_by_columns_are_turned_back():
    model = lay_out_for_decoding(llama(dtype=torch.float32))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    assert not model.embedding.weight.is_contiguous()
    Engine(model, TOKENIZER, compiled=True)
    assert all(x.is_contiguous() for x in model.parameters())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_serve_takes_a_step_before_the_first_request(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    save_pretrained(llama(dtype=torch.float32), tmp_path / "tiny", tokenizer=TOKENIZER)
    limits = {"max_tokens": 8, "max_running": 2, "max_queue": 2, "max_choices": 1}
    service = _service(
        str(tmp_path / "tiny"),
        "cpu",
        limits,
        None,
        64,
        (None, 1, 0),
        {},
        {"prepacked": None, "compiled": True, "kv_cache": None},
        name="tiny",
        tool_format="hermes",
        log_prompts=False,
    )
    try:
        assert step_of(service.engine).num_steps == 1
    finally:
        service.close()


def test_chat_asks_for_it(tmp_path, monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: lambda *args: (taken.append(1), function(*args))[1]
    )
    save_pretrained(llama(dtype=torch.float32), tmp_path / "tiny", tokenizer=TOKENIZER)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    with pytest.raises(SystemExit) as end:
        main(["chat", str(tmp_path / "tiny"), "--compile", "--max-tokens", "4", "--device", "cpu"])
    assert not end.value.code, capsys.readouterr().err
    assert taken
