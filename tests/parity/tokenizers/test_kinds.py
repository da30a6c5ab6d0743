"""WordPiece, Unigram and character tokenizers, and every step around them, against `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from glassbox.tokenizers import Tokenizer
from glassbox.tokenizers.decoders import Decoder
from glassbox.tokenizers.normalizers import build_normalizer
from glassbox.tokenizers.patterns import WorkLimit
from glassbox.tokenizers.splitters import build_splitter

CORPUS = [
    "The cat sat on the mat. The cat's hat isn't a bat's hat!\n\nShe said: \"we'll see 1234 cats\".",
    "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空。青山依旧在，几度夕阳红。滚滚长江。",
    "def cat(n):\n    return [n * i for i in range(1000)]\n\n\n    # the cat\t\tsat --- aaaa aaaaaaa",
    "naïve café, e\u0301te\u0301 \u00a0 \u3000 ١٢٣ the unbelievable unbreakable unreadable table",
] * 3
# Characters that either library's edition of Unicode may not know are left out.
TEXT = st.text(
    st.one_of(
        st.sampled_from(
            "  \n\r\t'sStTlLrRΣſİabcth19.-<|>[]#_▁，。山á\u0301\u3000\u00a0é滚🐈½٣\0\ufffd\u00ad"
        ),
        st.characters(max_codepoint=0x2FF, exclude_categories=["Cs", "Cn"]),
    ),
    max_size=60,
)

NORMALIZERS: dict[str, Any] = {
    "nfc": normalizers.NFC(),
    "nfd": normalizers.NFD(),
    "nfkc": normalizers.NFKC(),
    "nfkd": normalizers.NFKD(),
    "lowercase": normalizers.Lowercase(),
    "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "strip": normalizers.Strip(),
    "strip left": normalizers.Strip(True, False),
    "prepend": normalizers.Prepend("▁"),
    "replace": normalizers.Replace(" ", "▁"),
    "replace pattern": normalizers.Replace(tokenizers.Regex(" {2,}"), r"\1"),
    "bert": normalizers.BertNormalizer(),
    "bert cased": normalizers.BertNormalizer(lowercase=False),
    "bert accents": normalizers.BertNormalizer(strip_accents=False, handle_chinese_chars=False),
    "bert unclean": normalizers.BertNormalizer(clean_text=False),
}
BEHAVIORS = ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")
SPLITTERS: dict[str, Any] = {
    "bytes": pre_tokenizers.ByteLevel(),
    "bytes whole": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    "metaspace": pre_tokenizers.Metaspace(),
    "metaspace first": pre_tokenizers.Metaspace(prepend_scheme="first"),
    "metaspace whole": pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
    "whitespace": pre_tokenizers.Whitespace(),
    "whitespace split": pre_tokenizers.WhitespaceSplit(),
    "bert": pre_tokenizers.BertPreTokenizer(),
    "punctuation": pre_tokenizers.Punctuation(),
    "digits": pre_tokenizers.Digits(),
    "digits alone": pre_tokenizers.Digits(individual_digits=True),
    "delimiter": pre_tokenizers.CharDelimiterSplit("a"),
    "t5": pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
    ),
    **{
        f"{behavior} {invert}": pre_tokenizers.Split(
            tokenizers.Regex("[a-c]|  +"), behavior, invert
        )
        for behavior in BEHAVIORS
        for invert in (False, True)
    },
    **{f"string {behavior}": pre_tokenizers.Split(" ", behavior) for behavior in BEHAVIORS},
}


def entry(part: Any) -> Any:
    return json.loads(part.__getstate__())


@pytest.mark.parametrize("name", list(NORMALIZERS))
@given(text=TEXT)
@example(text="ΟΔΟΣ İ ﬁ ½ e\u0301 滚a 　\t\n x")
@settings(max_examples=60, deadline=None)
def test_normalized_text_is_that_of_tokenizers(name: str, text: str) -> None:
    theirs = NORMALIZERS[name]
    assert build_normalizer(entry(theirs), name)(
        text, WorkLimit(len(text))
    ) == theirs.normalize_str(text)


@pytest.mark.parametrize("name", list(SPLITTERS))
@given(text=TEXT)
@example(text="The  cat's, 1234 ▁▁a  b\n")
@settings(max_examples=60, deadline=None)
def test_words_are_those_of_tokenizers(name: str, text: str) -> None:
    theirs = SPLITTERS[name]
    ours = build_splitter(entry(theirs), name, chars=True)(text, True, WorkLimit(len(text)))
    assert [word for word, _ in ours] == [word for word, _ in theirs.pre_tokenize_str(text)]


PIECES = st.lists(
    st.sampled_from(
        [
            "the",
            "##s",
            "▁cat",
            "▁",
            "▁▁",
            ".",
            "'s",
            "do not",
            "a</w>",
            "b",
            " !",
            "n't",
            "[SEP]",
            "é",
        ]
    ),
    max_size=8,
)
DECODERS: dict[str, Any] = {
    "none": None,
    "bytes": decoders.ByteLevel(),
    "word pieces": decoders.WordPiece(),
    "word pieces as they are": decoders.WordPiece(cleanup=False),
    "metaspace": decoders.Metaspace(),
    "metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "suffix": decoders.BPEDecoder(),
    "fuse": decoders.Fuse(),
    "llama": decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    ),
    "strip": decoders.Sequence([decoders.Strip("▁", 1, 0), decoders.Fuse()]),
}


@pytest.mark.parametrize("name", list(DECODERS))
@given(tokens=PIECES)
@settings(max_examples=60, deadline=None)
def test_decoded_tokens_are_those_of_tokenizers(name: str, tokens: list[str]) -> None:
    theirs = DECODERS[name]
    ours = Decoder(None if theirs is None else entry(theirs), name)
    parts = [ours.piece(t, before) for t, before in zip(tokens, [None, *tokens], strict=False)]
    expected = " ".join(tokens) if theirs is None else theirs.decode(tokens)
    assert b"".join(parts).decode("utf-8", "replace") == expected


# ---- whole tokenizers ---------------------------------------------------------------------------


def word_piece() -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    theirs.normalizer = normalizers.BertNormalizer()
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    theirs.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=special, show_progress=False, limit_alphabet=60
    )
    theirs.train_from_iterator(CORPUS, trainer)
    theirs.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    theirs.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, normalized=False)])
    theirs.add_tokens([tokenizers.AddedToken("Fóx", normalized=True)])
    theirs.add_tokens([tokenizers.AddedToken("zz", single_word=True, normalized=False)])
    return theirs


def unigram(bytes_too: bool = False, split: bool = True) -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer(models.Unigram())
    theirs.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    theirs.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="always" if split else "first", split=split
    )
    theirs.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=180,
        special_tokens=["<unk>", "</s>", "<pad>"],
        unk_token="<unk>",
        show_progress=False,
    )
    theirs.train_from_iterator(CORPUS, trainer)
    theirs.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    if bytes_too:
        raw = json.loads(theirs.to_str())
        raw["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
        raw["model"]["byte_fallback"] = True
        raw["decoder"] = entry(DECODERS["llama"])
        theirs = tokenizers.Tokenizer.from_str(json.dumps(raw))
    return theirs


def char_bpe(**options: Any) -> tokenizers.Tokenizer:
    fuse = options.pop("fuse_unk", False)
    theirs = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, **options))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    suffix = options.get("end_of_word_suffix")
    theirs.decoder = decoders.BPEDecoder() if suffix else decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=170,
        special_tokens=["<unk>"],
        show_progress=False,
        limit_alphabet=50,
        **options,
    )
    theirs.train_from_iterator(CORPUS, trainer)
    return theirs


def roberta() -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    theirs.normalizer = normalizers.NFC()
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(CORPUS, trainer)
    theirs.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    theirs.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, rstrip=True)])
    theirs.add_tokens(["né", "née"])
    return theirs


WHOLE = {
    "WordPiece": word_piece,
    "Unigram": unigram,
    "Unigram of a whole text": lambda: unigram(split=False),
    "Unigram with bytes": lambda: unigram(bytes_too=True),
    "BPE of characters": lambda: char_bpe(end_of_word_suffix="</w>"),
    "BPE with a prefix": lambda: char_bpe(continuing_subword_prefix="##", fuse_unk=True),
    "BPE with spaces before": roberta,
}


@pytest.fixture(scope="module", params=list(WHOLE))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, tokenizers.Tokenizer, Path]:
    """Our reading of a file that `tokenizers` wrote, and theirs."""
    folder = tmp_path_factory.mktemp("theirs")
    theirs = WHOLE[request.param]()
    theirs.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder), theirs, folder


PARTS = st.lists(
    st.one_of(
        TEXT,
        st.sampled_from(
            [
                " <mask> ",
                "fox",
                "FÓX",
                "Fóx",
                "zz",
                " zz ",
                "[SEP]",
                "</s>",
                " née",
                "cats ",
                "unreadtable",
            ]
        ),
    ),
    max_size=5,
)


@given(parts=PARTS)
@example(parts=["The cat ", "sat on\tthe  mat", ". 滚滚 長江 <", "mask>", "  zz"])
@settings(max_examples=120, deadline=None)
def test_ids_and_text_are_those_of_tokenizers(
    pair: tuple[Tokenizer, tokenizers.Tokenizer, Path], parts: list[str]
) -> None:
    ours, theirs, _ = pair
    text = "".join(parts)
    expected = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text, allow_special=True) == expected
    assert ours.encode_plain(text, allow_special=True) == expected
    assert list(ours.encode_stream(parts, allow_special=True)) == expected
    whole = ours.encode(text, allow_special=True, add_special=True)
    assert whole == theirs.encode(text).ids
    for skip in (False, True):
        shown = ours.decode(whole, skip_special=skip)
        assert shown == theirs.decode(whole, skip_special_tokens=skip)
        decoder = ours.stream_decoder(skip_special=skip)
        pieces = [decoder.push(number) for number in whole] + [decoder.flush()]
        assert "".join(pieces) == shown


def test_special_tokens_are_never_made_of_text(
    pair: tuple[Tokenizer, tokenizers.Tokenizer, Path],
) -> None:
    ours, _, _ = pair
    unknown = {ours.token_to_id(token) for token in ("<unk>", "[UNK]")}
    control = set(ours.special_tokens.values()) - unknown
    for token in ours.special_tokens:
        for text in (token, f"a{token}b", f"{token} {token}"):
            assert not control & set(ours.encode(text))


def test_what_we_write_opens_in_transformers_with_the_same_ids(
    pair: tuple[Tokenizer, tokenizers.Tokenizer, Path], tmp_path: Path
) -> None:
    ours, theirs, _ = pair
    ours.save(tmp_path)
    again, reopened = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint == ours.fingerprint
    for text in (*CORPUS, "Fóx <mask> zz</s> [SEP]"):
        expected = theirs.encode(text).ids
        assert reopened(text)["input_ids"] == expected
        assert again.encode(text, allow_special=True, add_special=True) == expected
