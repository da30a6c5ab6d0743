"""Caches in 8 and 4 bits: the codes' definition, and engines that decode as the widened cache says."""

from __future__ import annotations

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.inference.cache_size import bytes_per_token, cache_bits
from glassbox.inference.engine import Engine
from glassbox.inference.sampling.params import SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.latent import Latent
from glassbox.layers.paged_state import PagedKeyValue
from glassbox.layers.pages import Pages
from glassbox.layers.quantized_pages import QuantizedPagedKeyValue
from glassbox.models.config import BlockSpec
from glassbox.ops.cache_codes import decode_tokens, encode_tokens, groups_of
from support.small_models import small_model, some_ids


@pytest.mark.parametrize("channels", [64, 48, 7])
@pytest.mark.parametrize("bits", [8, 4])
def test_codes_are_the_definition(bits, channels):
    x = torch.randn(3, 2, channels, generator=torch.Generator().manual_seed(channels)) * 5 + 1
    x[0, 0] = 2.5  # all alike: no step
    codes, scales = encode_tokens(x, bits)
    wide = decode_tokens(codes, scales, channels, bits)
    size = channels // groups_of(channels, bits)
    for index in range(3):
        for other in range(2):
            for start in range(0, channels, size):
                part = x[index, other, start : start + size]
                least = part.min().half()
                step = ((part.max() - least.float()) / (2**bits - 1)).half()
                for value, found in zip(
                    part, wide[index, other, start : start + size], strict=True
                ):
                    if step == 0:
                        assert float(found) == float(least)
                        continue
                    code = torch.round((value - least.float()) / step.float())
                    code = code.clamp(0, 2**bits - 1)
                    expected = code * step.float() + least.float()
                    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    # half a step, and float16's roundings of d (times every code) and m
    steps = scales.float().chunk(2, -1)[0].amax()
    allowed = float(steps) * (0.5 + 2**bits * 2**-11) + float(x.abs().max()) * 2**-11
    assert float((wide - x).abs().max()) <= allowed


@pytest.mark.parametrize("bits", [8, 4])
def test_pools_hold_what_was_written(bits):
    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    plain = PagedKeyValue(4, 8, 2, 32, **where)
    coded = QuantizedPagedKeyValue(PagedKeyValue(4, 8, 2, 32, **where), bits)
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(2, 2, 8, 32, generator=generator) for _ in range(2))
    table = torch.tensor([[2], [0]])
    positions = torch.arange(8).expand(2, 8)
    slots = (table * 8 + torch.arange(8)).flatten()
    pages = Pages(slots, table, positions, 8)

    def through(x):
        return decode_tokens(*encode_tokens(x, bits), 32, bits)

    plain.write(through(keys), through(values), pages)
    coded.write(keys, values, pages)
    for name in ("keys", "values"):
        assert torch.equal(coded.read(name, pages), plain.read(name, pages))
    moved = torch.tensor([0]), torch.tensor([1])
    for pool in (plain, coded):
        pool.grow(6)
        pool.copy_blocks(*moved)
        pool.clear_blocks(torch.tensor([2]))
    again = Pages(slots, torch.tensor([[1], [2]]), positions, 8)
    assert torch.equal(coded.read("values", again), plain.read("values", again))
    assert coded.cache_bytes < plain.cache_bytes / (3.5 if bits == 8 else 5)


def answers(engine: Engine, count: int = 5) -> list[list[int]]:
    prompts = [some_ids(1, 6 + n, n)[0].tolist() for n in range(count)]
    params = SamplingParams(temperature=0, max_tokens=10)
    return [c.token_ids for c in engine.generate(prompts, params)]


def latent_block() -> BlockSpec:
    mixer = Latent(
        num_heads=4, kv_rank=64, rope_dim=32, nope_dim=32, value_dim=32, positions=Rotary()
    )
    return BlockSpec(mixer=mixer, ffn=SwiGlu(size=256))


@pytest.mark.parametrize("kv_cache", ["int8", "int4"])
@pytest.mark.parametrize("batch", [1, 4])
def test_engines_decode_nearly_as_with_a_plain_cache(kv_cache, batch):
    model = small_model()
    engine = Engine(model, max_batch=batch, kv_cache=kv_cache, block_size=8)
    prompts = [some_ids(1, 6 + n, n)[0].tolist() for n in range(5)]
    allowed = 0.05 if kv_cache == "int8" else 0.6  # of the logits' deviation, at a near-tie
    for prompt, tokens in zip(prompts, answers(engine), strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + tokens]))[0, len(prompt) - 1 : -1]
        behind = logits.max(-1).values - logits.gather(1, torch.tensor(tokens).unsqueeze(1))[:, 0]
        assert float(behind.max()) <= allowed * float(logits.std())


def test_whatever_shares_a_batch_the_answer_is_the_same():
    model = small_model()
    alone = answers(Engine(model, max_batch=1, kv_cache="int8"))
    together = answers(Engine(model, max_batch=5, kv_cache="int8"))
    assert alone == together


def test_latent_caches_go_to_eight_bits():
    model = small_model(block=latent_block())
    engine = Engine(model, kv_cache="int8", block_size=8)
    prompt = some_ids(1, 12)[0].tolist()
    (found,) = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=8))
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + found.token_ids]))[0, len(prompt) - 1 : -1]
    chosen = logits.gather(1, torch.tensor(found.token_ids).unsqueeze(1))[:, 0]
    assert float((logits.max(-1).values - chosen).max()) <= 0.05 * float(logits.std())
    with pytest.raises(UserError, match="int8 at least"):
        Engine(model, kv_cache="int4")


def test_sizes_are_counted_and_names_checked():
    model = small_model()
    plain = bytes_per_token(model)
    assert plain == 2 * 2 * 2 * 32 * 4  # layers, keys and values, heads, channels, bytes
    assert bytes_per_token(model, kv_cache="int8") == 2 * 2 * 2 * (32 + 4)
    assert bytes_per_token(model, kv_cache="int4") == 2 * 2 * 2 * (16 + 4)
    assert cache_bits("auto") is cache_bits(None) is None
    with pytest.raises(UserError, match=r"kv_cache = 'int2' is unknown; use auto, int8 or int4"):
        Engine(model, kv_cache="int2")


def test_a_window_that_is_a_ring_stays_as_it_is():
    mixer = GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary(), window=8)
    model = small_model(block=BlockSpec(mixer=mixer, ffn=SwiGlu(size=256)))
    assert answers(Engine(model, kv_cache="int8")) == answers(Engine(model))
