"""The size of a cache follows the memory that is free."""

from __future__ import annotations

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.inference import Engine, SamplingParams, cache_size
from glassbox.inference.cache_size import bytes_per_token, choose_cache_tokens
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

MODEL = tiny_chat_model(tiny_tokenizer(), context_length=512)


def test_bytes_per_token_are_those_of_an_engines_cache() -> None:
    engine = Engine(MODEL, max_batch=1, keep_prefixes=True)
    engine.generate([[5] * 500], SamplingParams(max_tokens=4, ignore_eos=True))
    blocks = engine.cache_bytes / (16 * bytes_per_token(MODEL))
    # 32 blocks hold 504 tokens; the pools have one more for what is thrown away
    assert blocks == 33
    assert bytes_per_token(MODEL, MODEL) == 2 * bytes_per_token(MODEL)


@pytest.mark.parametrize(
    ("free", "tokens"), [(0, 1000), (1 << 40, 1000), (4 * 100, 100), (4 * 999, 999)]
)
def test_a_quarter_of_what_is_free_is_taken_at_most(
    monkeypatch: pytest.MonkeyPatch, free: int, tokens: int
) -> None:
    size = bytes_per_token(MODEL)
    monkeypatch.setattr(cache_size, "available_memory", lambda: free * size)
    chosen = choose_cache_tokens(1000, MODEL)
    assert (chosen.tokens, chosen.token_bytes, chosen.free_bytes) == (tokens, size, free * size)
    assert f"{tokens:,} tokens" in str(chosen)


def test_no_room_at_all_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_size, "available_memory", lambda: 4 * 15 * bytes_per_token(MODEL))
    with pytest.raises(UserError, match=r"too few for a KV cache.*--cache-tokens"):
        choose_cache_tokens(1000, MODEL)


def test_weights_narrower_than_float32_have_a_narrower_cache() -> None:
    half = tiny_chat_model(tiny_tokenizer(), context_length=512).to(torch.bfloat16)
    assert 2 * bytes_per_token(half) == bytes_per_token(MODEL)
