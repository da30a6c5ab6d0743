"""Texts that are too long are refused early, and others get the same ids."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections import defaultdict

import pytest

from glassbox.tokenizers import PreTokenizer, Tokenizer, train_bpe
from glassbox.tokenizers.bounded import (
    _MOST_BYTES_COMPOSED,
    Bounded,
    TooManyTokens,
    longest_token_bytes,
)
from glassbox.tokenizers.bpe import WordCache
from glassbox.tokenizers.chat import _num_shared
from support.tiny_chat import SENTENCES, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@pytest.mark.parametrize(
    "text",
    ["", "The fox", "中文 🦊", " ".join(SENTENCES) * 200, "a" * 50_000, "\n x" * 20_000],
)
def test_ids_are_those_of_encode_or_the_text_is_refused(text: str) -> None:
    expected = TOKENIZER.encode(text)
    bounded = Bounded(TOKENIZER)
    assert bounded.least_tokens(text) <= len(expected)
    assert bounded.encode(text, len(expected)) == expected
    if expected:
        with pytest.raises(TooManyTokens) as refused:
            bounded.encode(text, len(expected) - 1)
        assert len(expected) - 1 < refused.value.least <= len(expected)


def test_a_text_too_large_for_any_tokens_is_refused_without_encoding_it() -> None:
    bounded = Bounded(TOKENIZER)
    most = 100
    text = "ab" * (most * longest_token_bytes(TOKENIZER))
    before = len(TOKENIZER._cache)
    with pytest.raises(TooManyTokens):
        bounded.encode(text, most)
    assert len(TOKENIZER._cache) == before


def test_a_long_text_is_encoded_up_to_the_limit_only() -> None:
    tokenizer = tiny_tokenizer()
    words = [f"w{number}" for number in range(60_000)]
    with pytest.raises(TooManyTokens):
        Bounded(tokenizer).encode(" ".join(words), 20_000)
    assert len(tokenizer._cache) < 10_000  # 20,000 ids are some 5,000 words


def test_composition_makes_text_shorter_by_the_stated_factor_at_most() -> None:
    """Each character against the longest spelling of its parts that is equivalent to it."""
    chars = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    longest: dict[str, int] = defaultdict(int)
    for char in chars:
        parts = unicodedata.normalize("NFD", char)
        if len(parts) == 1:
            longest[parts] = max(longest[parts], len(char.encode()), len(parts.encode()))
    for char in chars:
        if char == unicodedata.normalize("NFC", char):
            spelled = sum(longest[part] for part in unicodedata.normalize("NFD", char))
            assert spelled <= _MOST_BYTES_COMPOSED * len(char.encode()), hex(ord(char))


def test_composed_text_is_not_refused_for_bytes_that_composition_drops() -> None:
    plain = train_bpe(SENTENCES, 300)
    assert isinstance(plain.pretokenizer, PreTokenizer)
    words = PreTokenizer(plain.pretokenizer.stages, nfc=True)
    composing = Tokenizer(plain.model, words, plain.added, roles=plain.roles)
    text = "\u212a" * 300  # the Kelvin sign: three bytes that become one
    ids = composing.encode(text)
    assert Bounded(composing).encode(text, len(ids)) == ids


def test_the_cache_of_words_is_bounded_in_characters_too() -> None:
    cache = WordCache(TOKENIZER.model, limit=1000)
    for number in range(2000):
        _ = cache[f"{number:0120d}"]
        assert sum(len(word) + len(ids) for word, ids in cache.items()) <= 16_000 + 300
    assert cache["0" * 120] == tuple(TOKENIZER.model.encode_word(b"0" * 120))


def test_what_two_long_chats_share_is_found_quickly() -> None:
    one, other = "a" * 4_000_000 + "b", "a" * 4_000_000 + "c"
    begun = time.perf_counter()
    assert _num_shared(one, other) == 4_000_000
    assert time.perf_counter() - begun < 0.2  # character by character: 0.3 s or more
    assert [_num_shared(a, b) for a, b in (("", "x"), ("ab", "abc"), ("x", "y"))] == [0, 2, 0]
