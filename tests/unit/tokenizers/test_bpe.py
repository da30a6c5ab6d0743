"""Byte-level BPE: the fast versions against the plain ones, and what every tokenizer promises."""

from __future__ import annotations

import doctest
import importlib
import pickle
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import glassbox.tokenizers.bpe_training as bpe_training
from glassbox.core.errors import UserError
from glassbox.tokenizers import (
    PATTERNS,
    AddedToken,
    PreTokenizer,
    StreamDecoder,
    Tokenizer,
    train_bpe,
    train_bpe_plain,
)
from glassbox.tokenizers.added_tokens import AddedTokenSplitter
from glassbox.tokenizers.bpe import WordCache
from glassbox.tokenizers.bpe_training import (
    count_words,
    link_words,
    train_merges,
    train_merges_plain,
)
from glassbox.tokenizers.merge_learning import _Frequent

CORPUS = [
    "The cat sat on the mat. The cat's hat isn't a bat's hat!\n\nShe said: \"we'll see 1234 cats\".",
    "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空。青山依旧在，几度夕阳红。滚滚长江。",
    "def cat(n):\n    return [n * i for i in range(1000)]\n\n\n    # the cat\t\tsat --- aaaa aaaaaaa",
    "naïve café, e\u0301te\u0301, 👩‍👩‍👧 🐈🐈 \u00a0 \u3000 ١٢٣",
]
# Strings in which patterns, merges and chunk borders have something to get wrong.
TRICKY = st.text(
    st.one_of(
        st.sampled_from("  \n\r\t'stSTlrve abc19.-<|>_，。山á\u0301\u3000🐈"),
        st.characters(codec="utf-8"),
    ),
    max_size=60,
)
WORDS = st.dictionaries(st.text("abcá", min_size=1, max_size=9), st.integers(1, 9), max_size=12)


@pytest.fixture(scope="module", params=list(PATTERNS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_bpe(CORPUS, 420, pattern=request.param)


@pytest.fixture(scope="module")
def composing() -> Tokenizer:
    """With NFC, tokens that overlap, and one that is added but not special."""
    base = train_bpe(CORPUS, 400, pattern="qwen2", special_tokens=["<|a|>", "<|a|>b", "ab<"])
    extra = AddedToken("  \n", base.vocab_size, special=False)
    words = PreTokenizer(base.pretokenizer.stages, nfc=True)
    return Tokenizer(base.model, words, [*base.added, extra])


@pytest.mark.parametrize(
    "name", ["bytelevel", "patterns", "bpe_training", "bpe", "streaming", "chat", "tokenizer"]
)
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    module = importlib.import_module(f"glassbox.tokenizers.{name}")
    assert doctest.testmod(module).failed == 0


# ---- training -----------------------------------------------------------------------------------


@given(words=WORDS, num_tokens=st.integers(256, 300), least=st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_fast_training_learns_the_plain_merges(
    words: dict[str, int], num_tokens: int, least: int
) -> None:
    counts = Counter(words)
    options = {"forbidden": ["abc", "aa"], "min_frequency": least}
    plain = train_merges_plain(counts, num_tokens, **options)  # type: ignore[arg-type]
    assert train_merges(link_words(counts), num_tokens, **options) == plain  # type: ignore[arg-type]


@given(words=st.dictionaries(st.text("ab", min_size=1, max_size=40), st.integers(1, 3), max_size=4))
@settings(max_examples=200, deadline=None)
def test_fast_training_learns_the_plain_merges_in_long_runs(
    words: dict[str, int],
) -> None:
    counts = Counter(words)
    assert train_merges(link_words(counts), 400) == train_merges_plain(counts, 400)


@given(
    words=st.dictionaries(
        st.text("abc", min_size=1, max_size=14), st.integers(1, 10**6), max_size=9
    ),
    least=st.sampled_from([1, 1000]),
)
@settings(max_examples=200, deadline=None)
def test_rare_pairs_that_were_let_go_come_back_when_their_turn_comes(
    words: dict[str, int], least: int
) -> None:
    # counts this far apart lower the floor several times, and spell tokens in two ways
    options = {"min_frequency": least, "forbidden": ["ab", "cca"]}
    plain = train_merges_plain(Counter(words), 300, **options)  # type: ignore[arg-type]
    assert train_merges(link_words(words), 300, **options) == plain  # type: ignore[arg-type]


def test_rare_pairs_are_not_kept() -> None:
    words = {f"x{a}{b}": 1 for a in "abcdef" for b in "ghijkl"}
    pairs = _Frequent(link_words({**words, "the": 10**6}), 1)
    kept = []
    while (pair := pairs.pop()) is not None:
        kept.append(len(pairs.counts))
        pairs.refuse(pair)
    assert kept == [2, 1, *range(42, 0, -1)]  # th and he alone, and the others when these are gone


def test_words_are_counted_alike_by_any_number_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bpe_training, "_GROUP_CHARS", 1000)
    words = PreTokenizer.named("gpt4")
    texts = [" ".join(CORPUS)] * 20
    counted = count_words(texts, words, workers=2)
    assert counted == count_words(texts, words)
    assert sum(counted.values()) == 20 * len(words.split(texts[0]))


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+"])
def test_train_bpe_equals_the_plain_one(pattern: str) -> None:
    fast = train_bpe(CORPUS, 400, pattern=pattern)
    plain = train_bpe_plain(CORPUS, 400, pattern=pattern)
    assert fast.vocab_size == 400
    assert fast.fingerprint == plain.fingerprint


def test_words_are_counted_alike_in_blocks_and_whole() -> None:
    text = " ".join(CORPUS) * 3
    for name in PATTERNS:
        words = PreTokenizer.named(name)
        blocks = list(words.blocks(text, size=40))
        assert len(blocks) > 10
        assert "".join(blocks) == text
        assert [w for block in blocks for w in words.split(block)] == words.split(text)
        assert count_words([text], words) == Counter(words.split(text))


def test_a_block_without_a_cut_grows_until_there_is_one() -> None:
    words = PreTokenizer.named("gpt4")
    text = "a" * 1000 + " b c d" * 90
    lengths = [len(block) for block in words.blocks(text, size=10)]
    assert lengths[0] > 1000
    assert max(lengths[1:]) <= 10
    assert list(PreTokenizer.named(r"\w+").blocks(text, size=10)) == [text]


def test_no_merge_spells_a_special_token() -> None:
    tokenizer = train_bpe(["hello hello hello"] * 9, 300, special_tokens=["<|e|>", "hello", "el"])
    words = [left + right for left, right in tokenizer.model.merges]
    assert not {"hello", "el"} & set(words)
    assert tokenizer.special_tokens["hello"] not in tokenizer.encode("hello hello")
    assert tokenizer.encode("hello", allow_special=True) == [1]


def test_too_little_text_gives_a_smaller_vocabulary_and_says_so() -> None:
    said: list[tuple[str, int, int | None]] = []
    tokenizer = train_bpe(["aaaa"], 5000, progress=lambda *news: said.append(news))
    assert tokenizer.vocab_size == 262  # 4 special, 256 bytes, aa, aaaa
    assert said[-1] == ("too little text", 262, 5000)
    assert [stage for stage, _, _ in said] == ["count words", "learn merges", "too little text"]
    assert train_bpe([], 5000).vocab_size == 260


def test_a_rare_pair_is_not_merged() -> None:
    assert train_bpe(["ab ab cd"], 300, min_frequency=2).vocab_size == 261


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 259}, "vocab_size = 259 is too small.*need 260"),
        ({"vocab_size": 300, "min_frequency": 0}, "min_frequency = 0"),
        ({"vocab_size": 300, "special_tokens": ["<a>", "<a>"]}, "'<a>' twice"),
        ({"vocab_size": 300, "special_tokens": ["a"]}, "'a'; use at least two"),
        ({"vocab_size": 300, "special_tokens": "<a>"}, "give a list"),
        ({"vocab_size": 300, "pattern": "gpt5"}, "pattern = 'gpt5' is unknown"),
        ({"vocab_size": 300, "pattern": "(a"}, "no regular expression"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_bpe(["abc"], **arguments)  # type: ignore[arg-type]


def test_text_that_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match=r"texts\[1\] is a bytes"):
        train_bpe(["a", b"b"], 300)  # type: ignore[list-item]
    with pytest.raises(UserError, match="lone surrogate"):
        train_bpe(["a\ud800"], 300)
    with pytest.raises(UserError, match="lone surrogate"):
        train_bpe(["a"], 300).encode("a\ud800")
    with pytest.raises(UserError, match="int cannot be encoded"):
        train_bpe(["a"], 300).encode(3)  # type: ignore[arg-type]


def test_a_pattern_that_backtracks_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassbox.tokenizers.patterns._SECONDS", 0.2)
    with pytest.raises(UserError, match="backtracks"):
        train_bpe(["a" * 60], 300, pattern=r"(a|a)*\d")


# ---- encoding -----------------------------------------------------------------------------------


@given(text=TRICKY)
@settings(max_examples=150, deadline=None)
def test_fast_encoding_gives_the_plain_ids_and_the_text_back(
    tokenizer: Tokenizer, text: str
) -> None:
    for allow in (False, True):
        ids = tokenizer.encode(text, allow_special=allow)
        assert ids == tokenizer.encode_plain(text, allow_special=allow)
        assert tokenizer.decode(ids) == text


@given(word=st.text("ab ", min_size=40, max_size=200))
@settings(max_examples=60, deadline=None)
def test_long_words_give_the_plain_ids(word: str) -> None:
    model = train_bpe(["a ab aba abab bbbb aaa  b" * 3], 290, pattern=r"[\s\S]+").model
    assert model.encode_word(word.encode()) == model.encode_word_plain(word.encode())


def test_a_megabyte_without_a_space_is_encoded() -> None:
    tokenizer = train_bpe(["abab" * 50], 270)
    ids = tokenizer.encode("ab" * 100_000)
    assert tokenizer.decode(ids) == "ab" * 100_000
    assert len(ids) < 10_000


def test_special_tokens_in_text_are_text_unless_allowed(tokenizer: Tokenizer) -> None:
    text = "a<|im_end|>b<|im_start|>"
    start, end = tokenizer.special_tokens["<|im_start|>"], tokenizer.special_tokens["<|im_end|>"]
    assert not set(tokenizer.encode(text)) & set(tokenizer.special_tokens.values())
    allowed = tokenizer.encode(text, allow_special=True)
    assert allowed[1] == end
    assert allowed[3] == start
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.decode(allowed) == text
    assert tokenizer.decode(allowed, skip_special=True) == "ab"


def test_of_overlapping_special_tokens_the_longest_is_taken(composing: Tokenizer) -> None:
    ids = composing.special_tokens
    assert composing.encode("<|a|>b", allow_special=True) == [ids["<|a|>b"]]
    assert composing.encode("<|a|>ab<|a|>", allow_special=True)[:2] == [ids["<|a|>"], ids["ab<"]]


def test_an_added_token_that_is_not_special_is_found_in_any_text(composing: Tokenizer) -> None:
    added = composing.token_to_id("  \n")
    assert added not in composing.special_tokens.values()
    assert composing.encode("a  \nb")[1] == added
    assert composing.decode([added], skip_special=True) == "  \n"  # type: ignore[list-item]


def test_batches_in_processes_equal_single_texts() -> None:
    tokenizer = train_bpe(CORPUS, 400)
    texts = ["", *CORPUS, "<|im_end|>"]
    expected = [tokenizer.encode(text, allow_special=True) for text in texts]
    said: list[tuple[str, int, int | None]] = []
    for workers in (1, 2):
        assert tokenizer.encode_batch(texts, allow_special=True, workers=workers) == expected
    tokenizer.encode_batch(texts, progress=lambda *news: said.append(news))
    assert said[-1] == ("encode", 6, 6)
    with pytest.raises(UserError, match="workers = 0"):
        tokenizer.encode_batch(texts, workers=0)


def test_the_cache_is_bounded_and_forgets_long_words(tokenizer: Tokenizer) -> None:
    cache = WordCache(tokenizer.model, limit=3)
    for word in ["a", "b", "c", "d", "e", "x" * 1000]:
        assert list(cache[word]) == tokenizer.model.encode_word(word.encode())
    assert set(cache) == {"d", "e"}


def test_a_pickled_copy_is_equal_and_leaves_the_cache_behind(tokenizer: Tokenizer) -> None:
    tokenizer.encode(CORPUS[0])
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.eos_id == tokenizer.eos_id
    assert not copy._cache


def test_fingerprints_differ_with_anything_that_changes_ids(tokenizer: Tokenizer) -> None:
    model, words, added = tokenizer.model, tokenizer.pretokenizer, tokenizer.added
    others = [
        tokenizer,
        Tokenizer(model, PreTokenizer(words.stages, nfc=True), added),
        Tokenizer(model, PreTokenizer((r"\w+",)), added),
        Tokenizer(model, words, added[:-1]),
        train_bpe(CORPUS, 419),
    ]
    assert len({t.fingerprint for t in others}) == len(others)
    assert tokenizer.with_chat_template(None).fingerprint == tokenizer.fingerprint


def test_the_vocabulary_answers_questions(tokenizer: Tokenizer) -> None:
    number = tokenizer.token_to_id("Ġcat")
    assert number is not None
    assert tokenizer.id_to_token(number) == "Ġcat"
    assert tokenizer.token_bytes(number) == b" cat"
    assert tokenizer.token_to_id("nowhere") is None
    assert tokenizer.id_to_token(10**6) is None
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (0, 3, None)
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(UserError, match=f"token id {bad} is not in the vocabulary of 420"):
            tokenizer.token_bytes(bad)
        with pytest.raises(UserError, match=f"token id {bad} is not"):
            tokenizer.decode([bad])
    bare = train_bpe(CORPUS, 300, special_tokens=[])
    with pytest.raises(UserError, match="names no eos_token"):
        _ = bare.eos_id
    with pytest.raises(UserError, match="no chat_template"):
        bare.apply_chat_template([{"role": "user", "content": "x"}])


# ---- streams ------------------------------------------------------------------------------------


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(min(p, len(text)) for p in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@given(
    pieces=st.lists(st.one_of(TRICKY, st.sampled_from(["<|im_end|>", "<|im_", " \n ", "'ll"]))),
    places=st.lists(st.integers(0, 80), max_size=12),
    allow=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_stream_gives_the_ids_of_the_whole(
    tokenizer: Tokenizer, pieces: list[str], places: list[int], allow: bool
) -> None:
    text = "".join(pieces)
    chunks = cut(text, places)
    streamed = list(tokenizer.encode_stream(chunks, allow_special=allow))
    assert streamed == tokenizer.encode(text, allow_special=allow)


@given(
    text=st.lists(
        st.one_of(
            st.sampled_from(["<|a|>", "<|a|>b", "ab<", "  \n"]),
            st.text("<|a|>b \ne\u0301\u0327가\u1100\u1161\u11a8Å1山，", max_size=20),
        ),
        max_size=8,
    ).map("".join),
    places=st.lists(st.integers(0, 60), max_size=12),
    allow=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_stream_that_is_composed_gives_the_ids_of_the_whole(
    composing: Tokenizer, text: str, places: list[int], allow: bool
) -> None:
    streamed = list(composing.encode_stream(cut(text, places), allow_special=allow))
    assert streamed == composing.encode(text, allow_special=allow)
    assert streamed == composing.encode_plain(text, allow_special=allow)


def test_a_stream_gives_ids_before_it_ends_and_holds_little(tokenizer: Tokenizer) -> None:
    read = 0

    def chunks() -> object:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield "山高月小，水落石出。 The cat sat. <|im_e"

    stream = tokenizer.encode_stream(chunks(), allow_special=True)  # type: ignore[arg-type]
    next(stream)
    assert read <= 2


@given(
    tokens=st.lists(st.text("ab", min_size=1, max_size=4), max_size=4, unique=True),
    text=st.text("abc", max_size=20),
    places=st.lists(st.integers(0, 20), max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_added_tokens_are_found_in_a_stream_as_in_the_whole(
    tokens: list[str], text: str, places: list[int]
) -> None:
    splitter = AddedTokenSplitter({token: i for i, token in enumerate(tokens)})

    def joined(pieces: object) -> list[object]:
        result: list[object] = []
        for piece in pieces:  # type: ignore[attr-defined]
            if isinstance(piece, str) and result and isinstance(result[-1], str):
                result[-1] += piece
            elif piece != "":
                result.append(piece)
        return result

    assert joined(splitter.split_stream(cut(text, places))) == splitter.split(text)


@given(ids=st.lists(st.integers(0, 419), max_size=40), skip=st.booleans())
@settings(max_examples=150, deadline=None)
def test_decoding_id_by_id_never_shows_half_a_character(
    tokenizer: Tokenizer, ids: list[int], skip: bool
) -> None:
    decoder = tokenizer.stream_decoder(skip_special=skip)
    parts = [decoder.push(number) for number in ids]
    assert "".join(parts) + decoder.flush() == tokenizer.decode(ids, skip_special=skip)


def test_a_character_of_many_tokens_is_shown_when_it_is_whole(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.model.byte_ids[byte] for byte in "🦊x".encode()]
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(number) for number in ids] == ["", "", "", "🦊", "x"]
    assert decoder.flush() == ""
    decoder.push(ids[0])
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""


@given(content=st.binary(max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_bytes_decode(tokenizer: Tokenizer, content: bytes) -> None:
    ids = [tokenizer.model.byte_ids[byte] for byte in content]
    assert tokenizer.decode_bytes(ids) == content
    assert tokenizer.decode(ids) == content.decode("utf-8", "replace")
