"""Languages: 150 short sentences in ten of them, and what a step does with its labels."""

from __future__ import annotations

import json
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from glassbox.core.errors import UserError
from glassbox.data.curation import language
from glassbox.data.curation.language import LanguageSpec, LanguageStep, known_languages
from glassbox.data.curation.step import Dropped, Record

FIXTURE = Path(__file__).parents[2] / "data" / "languages.jsonl"


def test_short_texts_of_ten_languages() -> None:
    rows = [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
    assert len({row["language"] for row in rows}) == 10
    assert len(rows) == 150
    assert max(len(row["text"]) for row in rows) <= 65
    step = LanguageSpec(min_score=0.0).build()
    assert isinstance(step, LanguageStep)
    right = [step.identify(row["text"])[0] == row["language"] for row in rows]
    assert sum(right) >= 0.97 * len(rows)


def test_labels_and_drops() -> None:
    step = LanguageSpec(keep=("de", "fr")).build()
    assert isinstance(step, LanguageStep)
    step = pickle.loads(pickle.dumps(step))
    german = step(Record("Der Hund schläft heute den ganzen Tag im Garten.", "a:1", {"url": "x"}))
    assert isinstance(german, Record)
    assert german.metadata["language"] == "de"
    assert german.metadata["url"] == "x"
    assert 0.5 < german.metadata["language_score"] <= 1
    english = step(Record("The dog has been asleep in the garden all day.", "a:2"))
    assert isinstance(english, Dropped)
    assert english.reason == "another language"
    assert english.detail.startswith("en (")
    assert english.detail.endswith("), wanted de, fr")
    numbers = step(Record("12 34 56", "a:3"))
    assert isinstance(numbers, Dropped)
    assert numbers.reason == "unsure language"
    assert pickle.loads(pickle.dumps(step))._identifier is None  # workers load it themselves


def test_all_are_kept_and_labelled_where_none_is_named() -> None:
    step = LanguageSpec().build()
    assert isinstance(step, LanguageStep)
    result = step(Record("$ % &", "a:1"))
    assert isinstance(result, Record)
    assert result.metadata["language"] == "und"


def test_only_the_beginning_is_looked_at() -> None:
    step = LanguageSpec(characters=40).build()
    assert isinstance(step, LanguageStep)
    text = "Gestern haben wir den ganzen Tag Karten " + "and then we went home " * 50
    assert step.identify(text)[0] == "de"


def test_fewer_languages_in_question() -> None:
    step = LanguageSpec(among=("en", "nl"), min_score=0).build()
    assert isinstance(step, LanguageStep)
    assert step.identify("Der Hund schläft im Garten.")[0] in ("en", "nl")
    with pytest.raises(UserError, match="keep has 'fr', which among has not; add it"):
        LanguageSpec(keep=("fr",), among=("en", "nl")).build()
    with pytest.raises(UserError, match="'klingon' is no language it knows; choose among"):
        LanguageSpec(keep=("klingon",)).build()
    assert {"en", "zh", "zxx"} <= set(known_languages())


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(UserError, match=r'pip install "glassbox-lm\[language\]"'):
        LanguageSpec().build()


@pytest.mark.parametrize("among", [(), ("de", "en", "sr", "zh")])
def test_equal_to_the_library_to_the_last_bit(among: tuple[str, ...]) -> None:
    """The automaton's steps for all bytes at once, and the weights widened once, change no score."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    theirs = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    theirs.set_languages(list(among) or None)
    ours = language._load(among)
    draw = random.Random(0)
    lines = FIXTURE.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    texts += [" ".join(draw.choices(texts, k=9)) for _ in range(50)]
    texts += ["", "a", "7", "$ % &", "SHOUTED ALOUD", "\ud800", "\0", "e\u0301te\u0301", "x" * 2000]
    texts += ["".join(map(chr, draw.choices(range(1, 0x3000), k=60))) for _ in range(100)]
    for text in texts:
        assert np.array_equal(ours._decide(text), theirs._decide(text)), text
