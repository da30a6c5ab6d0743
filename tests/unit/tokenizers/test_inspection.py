"""What inspection counts, by hand."""

from __future__ import annotations

import pytest

from glassbox.tokenizers import train_characters
from glassbox.tokenizers.inspection import inspect_texts, pieces_of, writing_system


def test_counts_are_those_by_hand() -> None:
    tokenizer = train_characters(["ab "], unknown="token", special_tokens=[])
    found = inspect_texts(tokenizer, ["ab a", "b", "滚滚", ""])
    assert {name: one.texts for name, one in found.groups.items()} == {
        "Han": 1,
        "Latin": 2,
        "none": 1,
    }
    latin, han = found.groups["Latin"], found.groups["Han"]
    assert (latin.tokens, latin.words, latin.characters, latin.unknown) == (5, 3, 5, 0)
    assert (han.tokens, han.words, han.num_bytes, han.unknown) == (2, 2, 6, 2)
    assert latin.fertility == pytest.approx(5 / 3)
    assert han.bytes_per_token == 3
    assert found.groups["none"].fertility == found.groups["none"].bytes_per_token == 0
    assert found.total.tokens == 7
    assert found.counts == {1: 1, 2: 2, 3: 2, 0: 2}
    assert found.used == 1.0
    by_length = inspect_texts(tokenizer, ["a", "ab"], group=lambda text: str(len(text)))
    assert list(by_length.groups) == ["1", "2"]


def test_half_characters_are_shown() -> None:
    tokenizer = train_characters(["a"], unknown="bytes", special_tokens=[])
    assert [piece for _, piece in pieces_of(tokenizer, "aé")] == ["a", "\\xc3", "\\xa9"]
    assert writing_system("ひらがな") == "Hiragana"
