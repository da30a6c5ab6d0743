"""Tokenizer files that would hang, fill the memory or take a minute end with one clear line, soon."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from glassbox.core.errors import UserError
from glassbox.tokenizers import AddedToken, Tokenizer, train_bpe, train_wordpiece
from glassbox.tokenizers.added_tokens import AddedTokenSplitter

SOON = 8.0  # seconds; each of these took 25 s, a minute, or never ended


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassbox.tokenizers.patterns._SECONDS", 0.5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A tokenizer.json of two kinds, as data."""
    found = {}
    for kind, tokenizer in (
        ("bpe", train_bpe(["a cat sat"], 280)),
        ("wordpiece", train_wordpiece(["a cat sat on a mat"], 60)),
    ):
        folder = tmp_path_factory.mktemp(kind)
        tokenizer.save(folder)
        found[kind] = json.loads((folder / "tokenizer.json").read_text())
    return found


def refusal(tmp_path: Path, raw: dict[str, Any], text: str) -> str:
    """What a file, or the text that it then encodes, is refused with; it must come soon."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(raw))
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        Tokenizer.load(path).encode(text)
    assert time.monotonic() - start < SOON
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def replaces(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_normalizer_that_backtracks_without_end_is_stopped(
    tmp_path: Path, files: dict[str, dict[str, Any]], kind: str
) -> None:
    raw = files[kind] | {"normalizer": replaces({"Regex": "(a+)+$"}, "")}
    assert "(a+)+$" in refusal(tmp_path, raw, "a" * 4000 + "b")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_splitter_that_backtracks_without_end_is_stopped(
    tmp_path: Path, files: dict[str, dict[str, Any]], kind: str
) -> None:
    split = {
        "type": "Split",
        "pattern": {"Regex": r"(a|a)*\d"},
        "behavior": "Removed",
        "invert": False,
    }
    steps = [{"type": "WhitespaceSplit"}, split]
    if kind == "bpe":
        steps = [split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]
    raw = files[kind] | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    text = " ".join("a" * (40 + n) for n in range(20))  # many words: the limit is the text's
    assert "took more than" in refusal(tmp_path, raw, text)


@pytest.mark.parametrize("pattern", ["(?R)?a", "(a(?1)?b)", "(?P<x>a(?&x)?b)", "(?P<x>a(?P>x)?b)"])
def test_a_pattern_that_calls_itself_is_refused(
    tmp_path: Path, files: dict[str, dict[str, Any]], pattern: str
) -> None:
    raw = files["wordpiece"] | {"normalizer": replaces({"Regex": pattern}, "")}
    assert "calls itself" in refusal(tmp_path, raw, "a" * 1000)


def test_what_only_looks_like_a_call_is_read(
    tmp_path: Path, files: dict[str, dict[str, Any]]
) -> None:
    raw = files["wordpiece"] | {"normalizer": replaces({"Regex": r"[(?1]|\(?1x|(?i:Q)"}, "")}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    assert Tokenizer.load(tmp_path).encode("a(?1q") == Tokenizer.load(tmp_path).encode("a")


@pytest.mark.parametrize(
    "steps",
    [
        [replaces({"String": "a"}, "aa")] * 60,
        [replaces({"String": "a"}, "a" * 1_000_000)] * 2,
        [replaces({"Regex": ""}, "b" * 100_000)],
        [{"type": "Prepend", "prepend": "a" * 1_000_000}],
        [{"type": "Lowercase"}] * 5000,
        [{"type": "Sequence", "normalizers": [{"type": "NFC"}] * 200}] * 200,
    ],
    ids=[
        "doublings",
        "long contents",
        "empty matches",
        "long prefix",
        "many steps",
        "nested steps",
    ],
)
def test_normalizer_bombs_are_refused(
    tmp_path: Path, files: dict[str, dict[str, Any]], steps: list[dict[str, Any]]
) -> None:
    raw = files["wordpiece"] | {"normalizer": {"type": "Sequence", "normalizers": steps}}
    message = refusal(tmp_path, raw, "a cat sat " * 100)
    assert "normalizer" in message


def test_replacements_of_an_ordinary_size_pass(
    tmp_path: Path, files: dict[str, dict[str, Any]]
) -> None:
    raw = files["wordpiece"] | {"normalizer": replaces({"String": "c"}, "ca" * 10)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    assert Tokenizer.load(tmp_path).encode("c" * 10_000)


def test_two_hundred_thousand_added_tokens_are_read_and_found(tmp_path: Path) -> None:
    base = train_bpe(["a cat sat"], 280)
    added = [
        AddedToken(f"<unused{n}>", base.vocab_size + n, special=n % 2 == 0) for n in range(200_000)
    ]
    base.save(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    raw["added_tokens"] += [token.to_json() for token in added]
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    start = time.monotonic()
    loaded = Tokenizer.load(tmp_path)
    first = base.vocab_size
    text = "<unused1>a<unused199999><unused12345"
    assert loaded.encode(text)[:3] == [first + 1, *base.encode("a"), first + 199_999]
    assert loaded.encode("<unused2>", allow_special=True) == [first + 2]
    assert loaded.encode("<unused2>") != [first + 2]
    assert list(loaded.encode_stream(iter(text))) == loaded.encode(text)
    assert time.monotonic() - start < 2 * SOON


def test_many_added_tokens_are_found_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {
        t: n
        for n, t in enumerate(["a", "ab", "abc", "b", "bcd", "ca", "aab", "<x>", "[", "^]", "-"])
    }
    texts = ["aabcabcdab", "abcbcdcaaab<x>[^]-", "xyz", "", "aaab", "abcabc<x><x"]
    few = [AddedTokenSplitter(tokens).split(text) for text in texts]
    monkeypatch.setattr("glassbox.tokenizers.added_tokens._REGEX_CHARS", 0)
    assert [AddedTokenSplitter(tokens).split(text) for text in texts] == few


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ([AddedToken("<x>", 1 << 30)], "has id 1073741824, beyond a vocabulary of 261"),
        ([AddedToken("<x>", -1)], "has id -1"),
        ([AddedToken("x" * 5000, 300)], "has 5000 characters"),
    ],
)
def test_added_tokens_that_no_file_may_have_are_refused_by_the_constructor(
    tokens: list[AddedToken], why: str
) -> None:
    base = train_bpe(["a cat sat"], 280, special_tokens=())
    with pytest.raises(UserError, match=why):
        Tokenizer(base.model, base.pretokenizer, tokens)


def test_nested_prefixes_in_a_long_text_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {"a" * n + "c": n for n in range(1, 1000)}
    monkeypatch.setattr("glassbox.tokenizers.added_tokens._REGEX_CHARS", 0)
    monkeypatch.setattr("glassbox.tokenizers.patterns._CHARS_PER_SECOND", 1e9)
    start = time.monotonic()
    with pytest.raises(UserError, match="the added tokens took more than"):
        AddedTokenSplitter(tokens).split("a" * 3_000_000)
    assert time.monotonic() - start < SOON


def test_a_decoder_bomb_is_refused(tmp_path: Path, files: dict[str, dict[str, Any]]) -> None:
    steps = [replaces({"String": "a"}, "aa")] * 40
    raw = files["wordpiece"] | {"decoder": {"type": "Sequence", "decoders": steps}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="makes more than 65536 characters of a token"):
        tokenizer.decode(tokenizer.encode("a"))
