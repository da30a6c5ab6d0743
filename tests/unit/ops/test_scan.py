"""Scans of recurrent mixers: chunked = loop = step by step, in outputs, states and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.ops import generalized_delta as delta_module
from glassbox.ops import selective_scan as selective_module
from glassbox.ops.generalized_delta import generalized_delta, generalized_delta_plain
from glassbox.ops.scan import linear_scan, linear_scan_plain
from glassbox.ops.selective_scan import selective_scan, selective_scan_plain
from glassbox.ops.token_shift import token_shift
from glassbox.ops.wkv import WkvState, wkv, wkv_plain

# float64; other orders of summation over at most 80 tokens
TOLERANCE = {"rtol": 1e-8, "atol": 1e-9}


@dataclass(frozen=True)
class Scan:
    """One recurrence: its two forms, random inputs by name, which of them run along time, its state."""

    fast: Callable[..., Any]
    plain: Callable[..., Any]
    inputs: Callable[[torch.Generator, int, int], dict[str, torch.Tensor]]
    timeless: tuple[str, ...]
    state: Callable[[torch.Generator, int], Any]


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def selective_inputs(generator: torch.Generator, batch: int, length: int):
    return {
        "x": normal(generator, batch, length, 3),
        "delta": normal(generator, batch, length, 3).exp(),
        "a": -normal(generator, 3, 2).exp(),
        "b": normal(generator, batch, length, 2),
        "c": normal(generator, batch, length, 2),
    }


def wkv_inputs(generator: torch.Generator, batch: int, length: int):
    return {
        "decay": -normal(generator, 4).mul(2).exp(),
        "bonus": normal(generator, 4),
        "key": normal(generator, batch, length, 4) * 20,  # e^20 and e^-20 side by side
        "value": normal(generator, batch, length, 4),
    }


def wkv_past(generator: torch.Generator, batch: int) -> WkvState:
    denominator = normal(generator, batch, 4).exp()
    return WkvState(
        normal(generator, batch, 4) * denominator, denominator, normal(generator, batch, 4)
    )


def delta_inputs(generator: torch.Generator, batch: int, length: int):
    shape = (batch, length, 2, 3)
    removed = torch.nn.functional.normalize(normal(generator, *shape), dim=-1)
    return {
        "q": normal(generator, *shape),
        "k": normal(generator, *shape),
        "v": normal(generator, batch, length, 2, 4),
        "log_decay": -0.6065 * torch.sigmoid(normal(generator, *shape)),
        "a": -removed,
        "b": removed * torch.sigmoid(normal(generator, *shape)),
    }


SCANS = {
    "selective": Scan(
        selective_scan,
        selective_scan_plain,
        selective_inputs,
        ("a",),
        lambda generator, batch: normal(generator, batch, 3, 2),
    ),
    "wkv": Scan(wkv, wkv_plain, wkv_inputs, ("decay", "bonus"), wkv_past),
    "generalized delta": Scan(
        generalized_delta,
        generalized_delta_plain,
        delta_inputs,
        (),
        lambda generator, batch: normal(generator, batch, 2, 3, 4),
    ),
}
EACH = pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS.keys())
SEEDS = st.integers(0, 10_000)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(selective_module, "CHUNK", 5)
    monkeypatch.setattr(delta_module, "CHUNK", 7)


def flat(state: Any) -> list[torch.Tensor]:
    """A state as numbers that mean the same whatever the exponent of WKV's sums."""
    if isinstance(state, WkvState):
        return [state.numerator / state.denominator, state.denominator.log() + state.largest]
    return [state]


def results(function: Callable[..., Any], inputs: dict, state: Any, real: Any = None, **where: Any):
    """Outputs (of real tokens), last state, and the gradients of everything."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    first = []
    if isinstance(state, WkvState):
        first = [part.clone().requires_grad_() for part in state[:2]]
        state = WkvState(*first, state.largest)
    elif state is not None:
        first = [state.clone().requires_grad_()]
        (state,) = first
    output, last = function(**leaves, state=state, **where)
    if real is not None:
        output = output[real]
    ends = flat(last)
    weights = [torch.cos(torch.arange(part.numel())).view(part.shape) for part in (output, *ends)]
    loss = sum((part * w).sum() for part, w in zip((output, *ends), weights, strict=True))
    grads = torch.autograd.grad(loss, [*leaves.values(), *first])
    return [output, *ends, *grads]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


@EACH
@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, length=st.integers(1, 40), batch=st.integers(1, 3), past=st.booleans())
def test_chunked_equals_the_loop(scan, seed, length, batch, past):
    generator = torch.Generator().manual_seed(seed)
    inputs = scan.inputs(generator, batch, length)
    state = scan.state(generator, batch) if past else None
    same(results(scan.fast, inputs, state), results(scan.plain, inputs, state))


@EACH
@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, length=st.integers(2, 40), often=st.sampled_from([0.05, 0.3, 0.9]))
def test_documents(scan, seed, length, often):
    """Chunked = loop, and both = each document by itself."""
    generator = torch.Generator().manual_seed(seed)
    inputs = scan.inputs(generator, 2, length)
    begins = torch.rand(2, length, generator=generator) < often
    begins[1] = begins[0]  # cut at the same places, so that documents can be taken out below
    documents = begins.long().cumsum(1)
    found = results(scan.fast, inputs, None, documents=documents)
    same(found, results(scan.plain, inputs, None, documents=documents))
    sizes = torch.unique_consecutive(documents[0], return_counts=True)[1].tolist()
    pieces = [dict(inputs) for _ in sizes]
    for name in inputs.keys() - set(scan.timeless):
        for piece, part in zip(pieces, inputs[name].split(sizes, 1), strict=True):
            piece[name] = part
    alone = [scan.fast(**piece) for piece in pieces]
    torch.testing.assert_close(found[0], torch.cat([y for y, _ in alone], 1), **TOLERANCE)
    for a, b in zip(found[1:], flat(alone[-1][1]), strict=False):
        torch.testing.assert_close(a, b, **TOLERANCE)


@EACH
@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, length=st.integers(1, 30), data=st.data())
def test_padding_leaves_no_trace(scan, seed, length, data):
    generator = torch.Generator().manual_seed(seed)
    inputs = scan.inputs(generator, 3, length)
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, length), min_size=3, max_size=3)))
    real = torch.arange(length) < lengths[:, None]
    state = scan.state(generator, 3)
    found = results(scan.fast, inputs, state, real, lengths=lengths)
    same(found, results(scan.plain, inputs, state, real, lengths=lengths))
    for row, size in enumerate(lengths.tolist()):
        cut = {
            name: tensor if name in scan.timeless else tensor[row : row + 1, :size]
            for name, tensor in inputs.items()
        }
        mine = type(state)(*(p[row : row + 1] for p in state)) if isinstance(state, tuple) else state[row : row + 1]  # fmt: skip
        if size:
            _, mine = scan.fast(**cut, state=mine)
        for a, b in zip(found[1:], flat(mine), strict=False):
            torch.testing.assert_close(a[row : row + 1], b, **TOLERANCE)


@EACH
@settings(deadline=None, max_examples=15)
@given(seed=SEEDS, sizes=st.lists(st.sampled_from([1, 1, 2, 9]), min_size=1, max_size=6))
def test_calls_of_any_length_go_on_from_each_other(scan, seed, sizes):
    """A call of one token is the recurrent step."""
    generator = torch.Generator().manual_seed(seed)
    inputs = scan.inputs(generator, 2, sum(sizes))
    expected, last = scan.plain(**inputs)
    state, outputs, start = None, [], 0
    for size in sizes:
        part = {
            name: tensor if name in scan.timeless else tensor[:, start : start + size]
            for name, tensor in inputs.items()
        }
        output, state = scan.fast(**part, state=state)
        outputs.append(output)
        start += size
    torch.testing.assert_close(torch.cat(outputs, 1), expected, **TOLERANCE)
    same(flat(state), flat(last))


@EACH
@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_is_summed_in_float32(scan, autocast):
    generator = torch.Generator().manual_seed(0)
    inputs = {name: t.bfloat16() for name, t in scan.inputs(generator, 2, 300).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output, state = scan.fast(**inputs)
    exact, _ = scan.plain(**{name: tensor.double() for name, tensor in inputs.items()})
    assert output.dtype == torch.bfloat16
    assert all(part.dtype == torch.float32 for part in flat(state))
    # one rounding at the end, to 2^-9 of the value
    scale = float(exact.abs().max())
    assert float((output.double() - exact).abs().max()) < 2**-8 * scale


@pytest.mark.parametrize("name", ["selective", "generalized delta"])
def test_no_state_a_token_is_kept_for_the_backward_pass(name, monkeypatch):
    """The loop keeps T times what a state holds, the chunked form less than half of that."""
    monkeypatch.undo()
    generator, length = torch.Generator().manual_seed(0), 128
    if name == "selective":
        inputs, state = selective_inputs(generator, 1, length), 48 * 16
        inputs |= {n: inputs[n].repeat(1, 1, 16) for n in ("x", "delta")}
        inputs |= {n: inputs[n].repeat(1, 1, 8) for n in ("b", "c")}
        inputs["a"] = inputs["a"].repeat(16, 8)
    else:
        inputs, state = delta_inputs(generator, 1, length), 2 * 96 * 128
        inputs = {n: part.repeat(1, 1, 1, 32) for n, part in inputs.items()}

    def kept(function: Callable[..., Any]) -> int:
        seen: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage
            return tensor

        leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            function(**leaves)
        return sum(storage.nbytes() // 8 for storage in seen.values())

    assert kept(SCANS[name].plain) >= length * state
    assert kept(SCANS[name].fast) < length * state / 2


# --- each by itself --------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, length=st.integers(1, 80), kind=st.sampled_from(["any", "zeros", "ones"]))
def test_linear_scan(seed, length, kind):
    generator = torch.Generator().manual_seed(seed)
    decay = torch.rand(2, length, 3, generator=generator, dtype=torch.float64)
    if kind == "zeros":
        decay = decay * (decay > 0.5)
    elif kind == "ones":
        decay = torch.ones_like(decay)
    tensors = [decay, normal(generator, 2, length, 3), normal(generator, 2, 3)]
    both = []
    for function in (linear_scan, linear_scan_plain):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = function(*leaves)
        both.append([output, *torch.autograd.grad(output.sin().sum(), leaves)])
    same(*both)


def test_wkv_is_its_definition():
    """The two sums of the paper, written out, for keys that do not overflow."""
    generator = torch.Generator().manual_seed(0)
    decay, bonus = -normal(generator, 3).exp(), normal(generator, 3)
    key, value = normal(generator, 1, 6, 3), normal(generator, 1, 6, 3)
    expected = torch.zeros(1, 6, 3, dtype=torch.float64)
    for t in range(6):
        for c in range(3):
            weights = [math.exp((t - 1 - s) * decay[c] + key[0, s, c]) for s in range(t)]
            weights.append(math.exp(bonus[c] + key[0, t, c]))
            total = sum(w * float(value[0, s, c]) for s, w in enumerate(weights))
            expected[0, t, c] = total / sum(weights)
    torch.testing.assert_close(wkv(decay, bonus, key, value)[0], expected, **TOLERANCE)
    torch.testing.assert_close(wkv_plain(decay, bonus, key, value)[0], expected, **TOLERANCE)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_wkv_never_overflows(size):
    """In float32, where e^89 is infinite: keys far beyond, and far below, and decays of every speed."""
    generator = torch.Generator().manual_seed(0)
    key = (normal(generator, 1, 50, 4) * size).float().requires_grad_()
    value = normal(generator, 1, 50, 4).float()
    decay = torch.tensor([-1e-9, -1e-3, -1.0, -1e3])
    output, state = wkv(decay, torch.zeros(4), key, value)
    (grad,) = torch.autograd.grad(output.sum(), key)
    assert torch.isfinite(output).all()
    assert torch.isfinite(grad).all()
    assert output.abs().max() <= value.abs().max() * 1.001  # an average
    assert all(torch.isfinite(part).all() for part in state)
    double = (part.detach().double() for part in (decay, torch.zeros(4), key, value))
    exact, _ = wkv_plain(*double)
    # the exponents themselves are rounded: at 1e4 by 6e-4
    tolerance = {1e2: 1e-4, 1e4: 5e-3, 1e30: 1e-6}[size]
    assert float((output.detach() - exact).abs().max()) < tolerance


def test_the_delta_rule_is_a_case():
    """No decay, a = k, b = -beta k: the value under a key is replaced, by half where beta is half."""
    key = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 0]].view(1, 4, 1, 4)
    value = torch.tensor([3.0, 5.0, 7.0, 11.0], dtype=torch.float64).view(1, 4, 1, 1)
    beta = torch.tensor([1.0, 1.0, 1.0, 0.5], dtype=torch.float64).view(1, 4, 1, 1)
    zero = torch.zeros_like(key)
    for function in (generalized_delta, generalized_delta_plain):
        output, state = function(key, beta * key, value, zero, key, -beta * key)
        assert output.flatten().tolist() == [3.0, 5.0, 7.0, 9.0]  # halfway from 7 to 11
        assert state.flatten().tolist() == [9.0, 5.0, 0.0, 0.0]


def test_the_strongest_decay_that_is_allowed(monkeypatch):
    """-80 / CHUNK at every token, in float32."""
    monkeypatch.undo()
    generator = torch.Generator().manual_seed(0)
    inputs = {name: part.float() for name, part in delta_inputs(generator, 1, 96).items()}
    inputs["log_decay"] = torch.full_like(inputs["log_decay"], -80 / delta_module.CHUNK)
    output, state = generalized_delta(**inputs)
    exact, last = generalized_delta_plain(**{name: p.double() for name, p in inputs.items()})
    # exponents of up to 80, rounded to 2^-24 of themselves: 5e-6
    torch.testing.assert_close(output.double(), exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.double(), last, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, length=st.integers(1, 9), data=st.data())
def test_token_shift(seed, length, data):
    generator = torch.Generator().manual_seed(seed)
    hidden, last = normal(generator, 2, length, 3), normal(generator, 2, 3)
    shifted, after = token_shift(hidden, last)
    assert torch.equal(shifted[:, 0], last)
    assert torch.equal(shifted[:, 1:], hidden[:, :-1])
    assert torch.equal(after, hidden[:, -1])
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, length), min_size=2, max_size=2)))
    _, after = token_shift(hidden, last, lengths=lengths)
    for row, size in enumerate(lengths.tolist()):
        assert torch.equal(after[row], hidden[row, size - 1] if size else last[row])
    documents = (torch.rand(2, length, generator=generator) < 0.4).long().cumsum(1)
    shifted, _ = token_shift(hidden, documents=documents)
    for row in range(2):
        for t in range(length):
            same_document = t > 0 and documents[row, t] == documents[row, t - 1]
            expected = hidden[row, t - 1] if same_document else torch.zeros(3)
            assert torch.equal(shifted[row, t], expected.double())
