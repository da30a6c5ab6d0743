"""Sentencepiece vocabularies: fast against plain, and both against `tokenizers` on our file."""

from __future__ import annotations

import pickle
import string
from functools import lru_cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.tokenizers import AddedToken, PreTokenizer, Tokenizer
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import BYTE_TO_CHAR
from glassbox.tokenizers.sentencepiece import SPACE, SentencePieceModel, SpacedText
from glassbox.tokenizers.tokenizer_json import begins_with

MERGED = [
    "th",
    "▁t",
    "he",
    "▁th",
    "the",
    "▁the",
    "an",
    "▁a",
    "and",
    "▁an",
    "▁and",
    "er",
    "in",
    "ing",
    "▁▁",
    "▁▁▁▁",
    "aa",
    "aaa",
    "ab",
    "ba",
    "bab",
]
ACROSS = ["of▁the", "a▁b"]

texts = st.text(alphabet="abehtnd gir é中\n", max_size=40)


@lru_cache(maxsize=4)
def build(prefix: bool = True, across: bool = False) -> Tokenizer:
    """Letters, some pieces scored by their place, the 256 bytes, and three control tokens."""
    letters = [SPACE, *string.ascii_letters, *string.punctuation]
    pieces = [*MERGED, *(ACROSS if across else []), *letters]
    scored = [(259 + n, piece, -float(n)) for n, piece in enumerate(pieces)]
    model = SentencePieceModel(scored, range(3, 259))
    added = [AddedToken(text, n) for n, text in enumerate(("<unk>", "<s>", "</s>"))]
    return Tokenizer(
        model,
        SpacedText(prefix, model.spaces_lead()),
        added,
        roles={"bos_token": "<s>", "eos_token": "</s>"},
        post_processor=begins_with(added[1]),
    )


@settings(max_examples=200, deadline=None)
@given(text=texts, prefix=st.booleans(), across=st.booleans())
def test_fast_equals_plain_and_nothing_is_lost(text: str, prefix: bool, across: bool) -> None:
    ours = build(prefix, across)
    ids = ours.encode(text)
    assert ids == ours.encode_plain(text)
    assert ids == list(ours.encode_stream(list(text)))
    assert ours.decode(ids) == (" " + text if prefix and text else text)
    whole = ours.pretokenizer.normalize(text)
    assert ids == ours.model.encode_word_plain(whole.encode()), "cuts change nothing"


def test_words_are_cut_only_where_no_piece_goes_on() -> None:
    assert build().pretokenizer.split(" of the") == [" of", " the"]
    assert build(across=True).pretokenizer.split(" of the") == [" of the"]


@pytest.mark.parametrize(("prefix", "across"), [(True, False), (False, False), (True, True)])
def test_our_file_gives_the_same_ids_there(prefix: bool, across: bool, tmp_path: Path) -> None:
    ours = build(prefix, across)
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == ours.fingerprint

    @settings(max_examples=150, deadline=None)
    @given(text=texts)
    def check(text: str) -> None:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected == again.encode(text)

    check()
    assert theirs.encode("a").ids[0] == 1
    assert again.adds_bos
    copy = pickle.loads(pickle.dumps(ours))
    assert (copy.encode("and the"), copy.fingerprint) == (ours.encode("and the"), ours.fingerprint)


def test_control_tokens_and_bytes_are_no_text() -> None:
    ours = build()
    assert 1 not in ours.encode("<s>")
    assert ours.encode("<s>", allow_special=True) == [1]
    assert ours.encode("<0x41>") != [3 + 0x41]
    space = 259 + len(MERGED)
    assert ours.encode("中") == [space, *(3 + byte for byte in "中".encode())]


def test_a_vocabulary_without_all_bytes_is_refused() -> None:
    with pytest.raises(UserError, match="has pieces for 2 bytes, not for all 256"):
        SentencePieceModel([(0, "a", 0.0)], [1, 2])
    with pytest.raises(UserError, match="two pieces of the vocabulary are the same"):
        SentencePieceModel([(300, "a", 0.0), (301, "a", 0.0)], range(256))


def test_byte_level_vocabulary_without_rare_bytes(tmp_path: Path) -> None:
    """SmolLM2's lacks some control characters: they are left out, as `tokenizers` does."""
    chars = [char for byte, char in enumerate(BYTE_TO_CHAR) if byte not in (4, 0xC0, 0xFF)]
    model = BytePairModel({char: n for n, char in enumerate(chars)}, [])
    ours = Tokenizer(model, PreTokenizer.named("gpt2"))
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("a\x04b", "\x04", "plain", "é\x04中"):
        assert ours.encode(text) == ours.encode_plain(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text.replace("\x04", "")
