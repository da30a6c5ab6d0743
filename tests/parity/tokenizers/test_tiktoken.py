"""tiktoken's encodings by name, its special-token arguments, bytes that are no UTF-8: the same ids."""

from __future__ import annotations

import base64
import hashlib
import itertools
from pathlib import Path

import pytest
import regex
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from glassbox.core.errors import UserError
from glassbox.tokenizers import PATTERNS, Tokenizer, train_bpe
from glassbox.tokenizers.tiktoken_file import KNOWN

TEXTS = (
    "It's the McDonald's HTTPServer's camelCase, I'LL say: don't! 1234567 a/b//c\n\n  x",
    "naïve e\u0301clat हिन्दी में 滚滚长江东逝水 ǅ ʰ ﬁ 😀👍🏽",
    " \t\n  \r\n def f(x):\n    return x  # comment\n",
)
TRICKY = st.lists(
    st.sampled_from(
        [*"aAbZ zZ'sS\n\r\t/1٣,.e\u0301ʰǅ滚", "'ll", "'S", "<|endoftext|>", "<|fim_prefix|>"]
    ),
    max_size=30,
).map("".join)
SPECIAL = {"<|endoftext|>": 600, "<|fim_prefix|>": 601, "<|fim_middle|>": 602}


@pytest.fixture(scope="module", params=["gpt2", "gpt4", "o200k"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, tiktoken.Encoding]:
    """Ours read from a rank file, and tiktoken's of the same ranks."""
    pattern = PATTERNS[request.param]
    trained = train_bpe([*TEXTS] * 3, 500, pattern=request.param, special_tokens=())
    ranks = {trained.token_bytes(number): number for number in range(trained.vocab_size)}
    path = tmp_path_factory.mktemp("ranks") / "own.tiktoken"
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    path.write_text("".join(lines))
    ours = Tokenizer.from_tiktoken(path, pattern=pattern, special_tokens=SPECIAL)
    theirs = tiktoken.Encoding(
        "own", pat_str=pattern, mergeable_ranks=ranks, special_tokens=SPECIAL
    )
    return ours, theirs


@pytest.mark.parametrize("name", list(KNOWN))
def test_patterns_and_special_ids_of_known_names_are_tiktokens(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ranks(address: str, expected_hash: str | None = None) -> dict[bytes, int]:
        asked.append(address)
        return {b"a": 0}

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", ranks)
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda **_: {b"a": 0})
    published = openai_public.ENCODING_CONSTRUCTORS[name]()
    special = dict(published["special_tokens"])
    if name == "o200k_harmony":  # it has the id of <|endofprompt|>
        assert special.pop("<|reserved_200018|>") == special["<|endofprompt|>"]
    assert dict(KNOWN[name].special) == special
    if name not in (
        "gpt2",
        "r50k_base",
        "p50k_base",
        "p50k_edit",
    ):  # theirs is written possessively
        sample = "".join(TEXTS)
        ours = regex.findall(PATTERNS[KNOWN[name].pattern], sample)
        assert ours == regex.findall(published["pat_str"], sample)
    if asked:
        assert asked[0].endswith(f"/{KNOWN[name].file}.tiktoken")


@given(text=TRICKY)
@example(text="".join(TEXTS))
@settings(max_examples=200, deadline=None)
def test_ids_are_tiktokens(both: tuple[Tokenizer, tiktoken.Encoding], text: str) -> None:
    ours, theirs = both
    assert ours.encode(text) == theirs.encode_ordinary(text)
    assert ours.encode(text, allow_special=True) == theirs.encode(text, allowed_special="all")


@given(text=TRICKY, sizes=st.lists(st.integers(0, 5), max_size=40))
@example(text=TEXTS[0], sizes=[3] * 40)
@settings(max_examples=200, deadline=None)
def test_a_stream_cut_anywhere_gives_the_ids_of_the_whole(
    both: tuple[Tokenizer, tiktoken.Encoding], text: str, sizes: list[int]
) -> None:
    ours, _ = both
    ends = [0, *itertools.accumulate(sizes), len(text)]
    chunks = [text[start:end] for start, end in itertools.pairwise(ends)]
    if ends[-2] > len(text):
        chunks = chunks[:-1]
    assert list(ours.encode_stream(chunks)) == ours.encode(text)


@given(
    text=TRICKY,
    allowed=st.sets(st.sampled_from(list(SPECIAL))),
    disallowed=st.one_of(st.just("all"), st.sets(st.sampled_from(list(SPECIAL)))),
)
@settings(max_examples=200, deadline=None)
def test_allowed_and_disallowed_special_tokens_are_tiktokens(
    both: tuple[Tokenizer, tiktoken.Encoding], text: str, allowed: set[str], disallowed: set[str]
) -> None:
    ours, theirs = both
    try:
        wanted = theirs.encode(text, allowed_special=allowed, disallowed_special=disallowed)
    except ValueError:
        with pytest.raises(UserError, match="contains the special token '<"):
            ours.encode(text, allow_special=allowed, disallowed_special=disallowed)
        return
    assert ours.encode(text, allow_special=allowed, disallowed_special=disallowed) == wanted


def test_a_set_of_allowed_tokens_holds_in_batches_streams_and_the_plain_encoder(
    both: tuple[Tokenizer, tiktoken.Encoding],
) -> None:
    ours, _ = both
    text, allowed = "a<|endoftext|>b<|fim_prefix|>c", {"<|fim_prefix|>"}
    wanted = ours.encode(text, allow_special=allowed)
    assert 601 in wanted
    assert 600 not in wanted
    assert ours.encode_batch([text], allow_special=allowed) == [wanted]
    assert list(ours.encode_stream(iter(text), allow_special=allowed)) == wanted
    assert ours.encode_plain(text, allow_special=allowed) == wanted
    with pytest.raises(UserError, match=r"'<\|nope\|>' is no special token"):
        ours.encode(text, allow_special={"<|nope|>"})


@given(content=st.binary(max_size=40) | TRICKY.map(lambda text: text.encode()[:-1] + b"\xff a b"))
@example(content=b"it's  \n\n " + b"\xff\xfe a b c")
@example(content=b"\xe6\xbb")
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_utf8_get_tiktokens_ids(
    both: tuple[Tokenizer, tiktoken.Encoding], content: bytes
) -> None:
    ours, theirs = both
    ids = ours.encode_bytes(content)
    assert ids == theirs._encode_bytes(content)
    assert ours.decode_bytes(ids) == content


def test_a_surrogate_pair_is_the_character_that_it_stands_for(
    both: tuple[Tokenizer, tiktoken.Encoding],
) -> None:
    ours, theirs = both
    assert ours.encode("a\ud83d\ude00b") == theirs.encode("a\ud83d\ude00b") == ours.encode("a😀b")
    assert list(ours.encode_stream(["a\ud83d", "\ude00b"])) == ours.encode("a😀b")
    for lone in ("\ud83d", "\ude00\ud83d", "😀\ud83d"):
        with pytest.raises(UserError, match="lone surrogate"):
            ours.encode(lone)
        with pytest.raises(UserError, match="lone surrogate"):
            list(ours.encode_stream([lone]))


def test_known_names_are_found_in_the_folder_in_tiktokens_cache_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    singles = [bytes([byte]) for byte in range(256)]
    longer = (bytes(pair) for pair in itertools.product(range(256), repeat=3))
    tokens = [*singles, *itertools.islice(longer, 199998 - 256)]
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    with pytest.raises(UserError, match=r"`o200k_harmony` needs .* 'o200k_base.tiktoken'"):
        Tokenizer.load("o200k_harmony")
    address = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
    (cache / hashlib.sha1(address.encode()).hexdigest()).write_text("".join(lines))
    harmony = Tokenizer.load("o200k_harmony")
    assert harmony.vocab_size == 201088
    assert harmony.encode("<|start|>a<|end|>", allow_special=True) == [200006, 97, 200007]
    assert harmony.eos_id == 199999
