"""WordPiece, Unigram and character tokenizers trained here, against `tokenizers` and sentencepiece."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

import glassbox
from glassbox.core.errors import UserError
from glassbox.tokenizers import Tokenizer, train_characters, train_unigram, train_wordpiece
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.unigram import UnigramModel
from glassbox.tokenizers.unigram_training import (
    Segmentations,
    _digamma,
    expected_counts_plain,
    seed_pieces,
)
from glassbox.tokenizers.wordpiece_training import (
    count_processed,
    train_pieces,
    train_pieces_plain,
)

CORPUS = [
    "The cat sat on the mat. The cat's hat isn't a bat's hat!\n\nShe said: \"we'll see 1234 cats\".",
    "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空。青山依旧在，几度夕阳红。滚滚长江。",
    "def cat(n):\n    return [n * i for i in range(1000)]\n\n\n    # the cat\t\tsat --- aaaa aaaaaaa",
    "naïve café, e\u0301te\u0301 the unbelievable unbreakable unreadable table",
] * 3
WORDS = st.dictionaries(st.text("ab▁c", min_size=1, max_size=8), st.integers(1, 9), max_size=8)
TRAINED = {
    "wordpiece": lambda: train_wordpiece(CORPUS, 220),
    "wordpiece cased": lambda: train_wordpiece(CORPUS, 220, lowercase=False),
    "unigram": lambda: train_unigram(CORPUS, 190),
    "unigram as it is": lambda: train_unigram(CORPUS, 190, normalizer="none"),
    "characters, bytes": lambda: train_characters(CORPUS, 300),
    "characters, token": lambda: train_characters(CORPUS, 60, unknown="token"),
}


@pytest.fixture(scope="module", params=list(TRAINED))
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, tokenizers.Tokenizer, Path]:
    """A tokenizer trained here, and `tokenizers` reading its file."""
    folder = tmp_path_factory.mktemp("trained")
    ours = TRAINED[request.param]()
    ours.save(folder)
    return ours, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), folder


@given(
    parts=st.lists(
        st.one_of(
            st.text("The catsmbl unrd.1'\n 滚江🐈é\u0301", max_size=30),
            st.sampled_from(["<|im_end|>", " unreadtable", "<unk>", "[UNK]"]),
        ),
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_ids_are_those_of_tokenizers(
    saved: tuple[Tokenizer, tokenizers.Tokenizer, Path], parts: list[str]
) -> None:
    ours, theirs, _ = saved
    text = "".join(parts)
    ids = theirs.encode(text).ids
    assert ours.encode(text, allow_special=True) == ids
    assert ours.encode_plain(text, allow_special=True) == ids
    assert list(ours.encode_stream(parts, allow_special=True)) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    control = set(ours.special_tokens.values()) - {
        ours.token_to_id("<unk>"),
        ours.token_to_id("[UNK]"),
    }
    assert not control & set(ours.encode(text))


def test_they_open_in_transformers(saved: tuple[Tokenizer, tokenizers.Tokenizer, Path]) -> None:
    ours, _, folder = saved
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
    for text in CORPUS:
        assert theirs(text)["input_ids"] == ours.encode(text)
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    assert theirs.apply_chat_template(chat, tokenize=False) == ours.apply_chat_template(chat)
    ids, mask = ours.encode_chat(chat)
    assert len(ids) == len(mask)
    assert 0 < sum(mask) < len(mask)


# ---- WordPiece ----------------------------------------------------------------------------------


@given(words=WORDS, size=st.integers(1, 30), least=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_pieces_are_those_of_the_plain_trainer(
    words: dict[str, int], size: int, least: int
) -> None:
    counts = Counter(words)
    fast = train_pieces(counts, size, min_frequency=least)
    assert fast == train_pieces_plain(counts, size, min_frequency=least)


def test_wordpiece_vocabulary_is_that_of_tokenizers() -> None:
    """Counts are made not to tie: theirs numbers the pieces within words by the order of a hash table."""
    draw = random.Random(3)
    syllables = ["ka", "to", "mi", "re", "su", "no"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(60)]
    text = " ".join(word for i, word in enumerate(words) for _ in range(1 + i * i % 97))
    special = ["<|endoftext|>", "[UNK]"]
    theirs = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer, theirs.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    theirs.train_from_iterator([text], trainer)
    ours = train_wordpiece([text], 60, special_tokens=special[:1])
    # Theirs lets in the bare form of each character as well: the same pieces are learned after it.
    learned = {t for t in theirs.get_vocab() if len(t.removeprefix("##")) > 1}
    mine = {t for t in ours.model.vocab if len(t.removeprefix("##")) > 1}
    assert learned <= mine
    assert len(mine) - len(learned) == sum(len(t) == 1 for t in theirs.get_vocab()) - sum(
        len(t) == 1 for t in ours.model.vocab
    )


# ---- Unigram ------------------------------------------------------------------------------------


@given(words=WORDS.filter(bool), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_expected_counts_are_those_of_all_segmentations(words: dict[str, int], seed: int) -> None:
    draw = random.Random(seed)
    pieces = list(seed_pieces(words, 40, 5))
    scores = {p: -draw.uniform(1, 5) for p in pieces if len(p) == 1 or draw.random() < 0.7}
    graph = Segmentations(words, pieces)
    expected = expected_counts_plain(words, scores)
    counts = graph.expected_counts(scores)
    assert counts.keys() == expected.keys()
    for piece, count in expected.items():  # sums of exponentials: float64 leaves some 1e-12
        assert counts[piece] == pytest.approx(count, rel=1e-9)
    model = UnigramModel(list(scores.items()), None)
    total = sum(count * model.log_probability(word) for word, count in words.items())
    assert graph.log_likelihood(scores) == pytest.approx(total, rel=1e-9)
    best: Counter[str] = Counter()
    for word, count in words.items():
        for number in model.encode_word(word.encode()):
            best[model.pieces[number][0]] += count
    assert sum(scores[p] * n for p, n in graph.best_counts(scores).items()) == pytest.approx(
        sum(scores[p] * n for p, n in best.items()), rel=1e-9
    )


@pytest.mark.parametrize("x", [0.5, 1.0, 3.7, 25.0, 1e6])
def test_digamma_is_that_of_torch(x: float) -> None:
    expected = torch.digamma(torch.tensor(x, dtype=torch.float64)).item()
    assert _digamma(x) == pytest.approx(expected, rel=1e-8)  # a series of four terms


SMALL = [
    ("<unk>", 0.0),
    ("a", -1.5),
    ("b", -2.0),
    ("ab", -2.2),
    ("ba", -3.0),
    ("aba", -4.0),
    ("c", -3.3),
]


@given(text=st.text("abcx", max_size=7), num=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_best_segmentations_are_the_best_of_all(text: str, num: int) -> None:
    model = UnigramModel(SMALL, 0, hidden=frozenset([0]))
    scores = dict(SMALL[1:])
    scores |= {char: model.floor for char in text if char not in scores}
    totals = []
    for cuts in itertools.product((0, 1), repeat=max(0, len(text) - 1)):
        places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(text)]
        parts = [text[a:b] for a, b in itertools.pairwise(places) if b > a]
        if all(part in scores for part in parts):
            totals.append(sum(scores[part] for part in parts))
    found = model.nbest(text, num)
    assert [total for total, _ in found] == pytest.approx(sorted(totals, reverse=True)[:num])
    assert found[0][1] == model.encode_word(text.encode()) or len(found) > 1
    assert model.log_probability(text) == pytest.approx(math.log(sum(map(math.exp, totals))))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_samples_come_as_often_as_they_are_probable(alpha: float) -> None:
    model = UnigramModel(SMALL, 0, hidden=frozenset([0]))
    ways = model.nbest("ababa", 100)
    weights = {tuple(ids): math.exp(alpha * total) for total, ids in ways}
    draw = random.Random(0)
    drawn = Counter(tuple(model.sample("ababa", alpha, draw)) for _ in range(20_000))
    for ids, weight in weights.items():
        expected = weight / sum(weights.values())
        # five standard deviations of 20,000 draws
        assert abs(drawn[ids] / 20_000 - expected) < 5 * math.sqrt(expected / 20_000) + 1e-4
    assert drawn.keys() <= weights.keys()


def _lines(folder: str) -> list[str]:
    """Lines of our own source: words of English and code, single spaces between them."""
    paths = sorted((Path(glassbox.__file__).parent / folder).glob("*.py"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths[:12])
    return [" ".join(line.split()) for line in text.splitlines() if line.isascii() and line.strip()]


def test_unigram_vocabulary_is_as_good_as_that_of_the_libraries(tmp_path: Path) -> None:
    """What is maximised: the probability of the text, over all segmentations, with 400 entries each."""
    texts = _lines("layers")
    ours = train_unigram(texts, 400, normalizer="none", special_tokens=[])
    theirs = tokenizers.Tokenizer(models.Unigram())
    theirs.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    theirs.train_from_iterator(texts, trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(tmp_path / "spm"),
        vocab_size=400,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    found = {
        "ours": ours,
        "tokenizers": Tokenizer.load(tmp_path),
        "sentencepiece": Tokenizer.load(tmp_path / "spm.model"),
    }
    assert isinstance(ours.pretokenizer, Processing)
    for lines, most in ((texts, 1.0), (_lines("ops"), 1.02)):
        words = count_processed(lines, ours.pretokenizer)
        nats = {}
        for name, one in found.items():
            assert one.vocab_size <= 400
            assert isinstance(one.model, UnigramModel)
            nats[name] = -sum(n * one.model.log_probability(word) for word, n in words.items())
        # On the text itself ours is to be the best; on another two per cent are chance.
        assert nats["ours"] <= most * min(nats.values()), nats


# ---- characters ---------------------------------------------------------------------------------


@given(text=st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_characters_with_bytes_give_any_text_back(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    tokenizer = train_characters(CORPUS, unknown="bytes")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    decoder = tokenizer.stream_decoder()
    parts = [decoder.push(number) for number in ids]
    assert "".join(parts) + decoder.flush() == text
    assert not any("\ufffd" in part for part in parts if "\ufffd" not in text)


def test_what_becomes_of_unknown_characters() -> None:
    assert train_characters(["ab"], unknown="token", special_tokens=[]).encode("axb") == [1, 0, 2]
    strict = train_characters(["ab"], unknown="error", special_tokens=[])
    assert strict.encode("ba") == [1, 0]
    with pytest.raises(UserError, match="'x' is not in the vocabulary"):
        strict.encode("ax")
    for arguments in ({"unknown": "drop"}, {"vocab_size": 260}, {"special_tokens": ["x"]}):
        with pytest.raises(UserError):
            train_characters(["ab"], **arguments)
    with pytest.raises(UserError, match="characters"):
        train_unigram(CORPUS, 20)
    with pytest.raises(UserError, match="no room"):
        train_wordpiece(CORPUS, 4)
