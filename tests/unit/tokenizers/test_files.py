"""tokenizer.json in and out: other people's files, and files that are broken."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.tokenizers import PATTERNS, AddedToken, PreTokenizer, Tokenizer, train_bpe
from glassbox.tokenizers.bytelevel import BYTE_TO_CHAR
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.tokenizer_json import parse_config, parse_tokenizer

TEXT = "It's a café, 2024 reasons!\n\n  naïve  <|im_end|> e\u0301 山"


def small() -> Tokenizer:
    return train_bpe(["the cat sat on the mat, isn't it?"] * 3, 280)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizer")
    small().save(folder)
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return content


def write(folder: Path, content: Any, name: str = "tokenizer.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+|\s+"])
def test_what_is_saved_is_loaded(tmp_path: Path, pattern: str) -> None:
    tokenizer = train_bpe(["the cat sat on the mat"] * 3, 270, pattern=pattern)
    tokenizer.save(tmp_path / "new" / "folder")
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.chat_template == tokenizer.chat_template
        assert (loaded.eos_id, loaded.pad_id, loaded.bos_id) == (0, 3, None)
        assert loaded.special_tokens == tokenizer.special_tokens
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json"}


def test_composition_added_tokens_and_named_templates_survive(tmp_path: Path) -> None:
    base = small()
    tokenizer = Tokenizer(
        base.model,
        PreTokenizer((r"\p{N}", PATTERNS["gpt2"]), nfc=True),
        [*base.added, AddedToken("<think>", 280, special=False)],
        roles=base.roles,
        chat_template={"default": "{{ messages[0].content }}", "tool_use": "{{ tools }}"},
    )
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.apply_chat_template([{"role": "user", "content": "x"}], tools=[]) == "[]"
    assert loaded.encode("e\u0301") == loaded.encode("é")
    assert loaded.vocab_size == 281


def test_a_template_file_beside_the_tokenizer_is_read(tmp_path: Path) -> None:
    small().save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages|length }}", encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.apply_chat_template([{"role": "user", "content": "x"}]) == "1"


def test_gpt2_by_its_published_files(tmp_path: Path) -> None:
    merges = ["t h", "th e", "Ġ the", "Ġ c", "# #"]
    tokens = [*sorted(BYTE_TO_CHAR), *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    vocab = write(tmp_path, {token: i for i, token in enumerate(tokens)}, "encoder.json")
    bpe = tmp_path / "vocab.bpe"
    bpe.write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_gpt2_files(vocab, bpe)
    assert tokenizer.vocab_size == 262
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("the the c##")] == [
        "the",
        "Ġthe",
        "Ġc",
        "##",
    ]
    assert tokenizer.eos_id == tokenizer.bos_id == tokenizer.pad_id == 261
    with pytest.raises(UserError, match=r"vocab\.json"):
        Tokenizer.from_gpt2_files(tmp_path / "vocab.json", bpe)
    with pytest.raises(UserError, match="no file"):
        Tokenizer.from_gpt2_files(vocab, tmp_path / "none.bpe")
    with pytest.raises(UserError, match=r"lacks '<\|endoftext\|>'"):
        Tokenizer.from_gpt2_files(write(tmp_path, [], "list.json"), bpe)


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
SPLIT = {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.type", "WordLevel", r"model\.type = 'WordLevel' is not supported"),
        ("model.type", "Unigram", r"model\.vocab = .* is no list"),
        ("model.type", "WordPiece", r"unknown token '\[UNK\]' is not in the vocabulary"),
        ("model.dropout", 0.1, r"model\.dropout = 0\.1 is not supported"),
        ("model.end_of_word_suffix", "</w>", r"end_of_word_suffix = '</w>'"),
        ("model.vocab", [], r"model\.vocab = \[\] is no dict"),
        ("model.vocab.!", "4", r"vocab\['!'\] = '4'"),
        ("model.vocab.!", True, r"vocab\['!'\] = True"),
        ("model.vocab.!", 10**30, r"vocab\['!'\] = 1000"),
        ("model.vocab.!", 5, "same id"),
        ("model.merges", [["t", "zz"]], r"merges\[0\] = 't' 'zz': 'zz' is not in the vocabulary"),
        ("model.merges", ["t h e"], r"merges\[0\] = 't h e'"),
        ("model.merges", [[1, 2]], r"merges\[0\] = \[1, 2\]"),
        ("pre_tokenizer", {"type": "Whitespaces"}, r"type = 'Whitespaces' is not supported"),
        ("pre_tokenizer.pretokenizers", [BYTE_LEVEL, BYTE_LEVEL], "not the last step"),
        (
            "pre_tokenizer.pretokenizers",
            [{**SPLIT, "behavior": "Dropped"}, BYTE_LEVEL],
            "behavior = 'Dropped'",
        ),
        (
            "pre_tokenizer.pretokenizers",
            [{**SPLIT, "pattern": {"Text": " "}}, BYTE_LEVEL],
            "only a String or a Regex",
        ),
        (
            "pre_tokenizer.pretokenizers",
            [{**SPLIT, "pattern": {"Regex": "("}}, BYTE_LEVEL],
            "no regular expression",
        ),
        ("normalizer", {"type": "Nmt"}, r"normalizer\.type = 'Nmt' is not supported"),
        ("normalizer", {"type": "Prepend"}, r"normalizer lacks 'prepend'"),
        ("decoder", {"type": "CTC"}, r"decoder\.type = 'CTC'"),
        ("decoder", {"type": "Strip", "content": " ", "start": -1, "stop": 0}, "start = -1"),
        ("post_processor", {"type": "BertProcessing"}, r"post_processor lacks 'cls'"),
        ("added_tokens.0.lstrip", 1, r"added_tokens\[0\]\.lstrip = 1 is no bool"),
        ("added_tokens.0.id", 7, "has id 7, but the vocabulary says 0"),
        ("added_tokens.0.id", -1, r"id = -1 is out of range"),
        ("added_tokens.0.content", "new", "has id 0, which another token has"),
        ("added_tokens.0.content", "", "is empty"),
        ("added_tokens.0.content", None, "content = None is no str"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, raw: dict[str, Any], path: str, value: Any, message: str
) -> None:
    broken = copy.deepcopy(raw)
    *parents, last = path.split(".")
    place: Any = broken
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    with pytest.raises(UserError, match=message):
        Tokenizer.load(write(tmp_path, broken))


def test_a_merge_that_spells_a_special_token_is_refused(
    tmp_path: Path, raw: dict[str, Any]
) -> None:
    broken = copy.deepcopy(raw)
    merged = "".join(broken["model"]["merges"][0])
    broken["added_tokens"].append(
        {"id": broken["model"]["vocab"][merged], "content": merged, "special": True}
    )
    with pytest.raises(UserError, match="user text could pass for it"):
        Tokenizer.load(write(tmp_path, broken))


def test_digits_and_both_spellings_of_merges_are_read(raw: dict[str, Any]) -> None:
    other = copy.deepcopy(raw)
    other["model"]["merges"] = [" ".join(pair) for pair in raw["model"]["merges"]]
    other["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ],
    }
    parts = parse_tokenizer(other)
    assert parts.model.merges == parse_tokenizer(raw).model.merges
    assert parts.pretokenizer.split("a 123 b") == ["a", " ", "1", "2", "3", " b"]
    other["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    assert parse_tokenizer(other).pretokenizer.split("a 123 b") == ["a", " ", "123", " b"]


def test_sequences_of_one_and_incomplete_alphabets(raw: dict[str, Any]) -> None:
    other = copy.deepcopy(raw)
    other["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    other["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}
    assert parse_tokenizer(other).pretokenizer.nfc
    other["added_tokens"][0]["normalized"] = True
    assert isinstance(parse_tokenizer(other).pretokenizer, Processing)
    other["normalizer"] = None
    del other["model"]["vocab"]["!"]
    with pytest.raises(UserError, match=r"lacks 1 of the 256 bytes, first byte 33 \('!'\)"):
        parse_tokenizer(other)


def test_config_is_read_in_both_spellings() -> None:
    roles, _ = parse_config(
        {"eos_token": {"content": "<e>"}, "bos_token": "<b>", "pad_token": None}
    )
    assert roles == {"eos_token": "<e>", "bos_token": "<b>"}
    for broken in ([], {"eos_token": 3}, {"chat_template": 3}, {"chat_template": [{"name": "a"}]}):
        with pytest.raises(UserError, match=r"tokenizer_config\.json"):
            parse_config(broken)


def test_a_role_must_be_in_the_vocabulary(tmp_path: Path) -> None:
    small().save(tmp_path)
    write(tmp_path, {"eos_token": "<nowhere>"}, "tokenizer_config.json")
    with pytest.raises(UserError, match="eos_token = '<nowhere>' is not in the vocabulary"):
        Tokenizer.load(tmp_path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(UserError, match=r"no file|cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b"9" * 10_000, b"NaN"])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_a_file_with_anything_in_any_place_loads_or_is_refused(
    raw: dict[str, Any], data: st.DataObject
) -> None:
    broken = copy.deepcopy(raw)
    place: Any = broken
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and data.draw(st.booleans()):
            place = inner
            continue
        if data.draw(st.booleans()):
            place[key] = data.draw(JSON)
        else:
            del place[key]
        break
    _loads_or_refuses(broken)


def _loads_or_refuses(content: Any) -> None:
    refusal = ""
    try:
        parts = parse_tokenizer(content)
        tokenizer = Tokenizer(parts.model, parts.pretokenizer, parts.added)
        ids = tokenizer.encode(TEXT)
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert len(refusal) < 600
        assert "\n" not in refusal
        return
    if isinstance(tokenizer.pretokenizer, Processing):
        return  # other kinds may lose something
    assert tokenizer.decode(ids) in (TEXT, tokenizer.pretokenizer.normalize(TEXT))


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_file_cut_or_flipped_anywhere_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: dict[str, Any], data: st.DataObject
) -> None:
    content = bytearray(json.dumps(raw).encode())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    path.write_bytes(content)
    refusal = "tokenizer.json"
    try:
        Tokenizer.load(path)
    except UserError as error:
        refusal = str(error)
    assert "tokenizer.json" in refusal


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small().save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        train_bpe(["other words"], 270).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
