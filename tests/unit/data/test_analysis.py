"""Analysis of a corpus: counts against counting, laws against text made by them, the page."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.data import analysis as subject
from glassbox.data.analysis import analyze, fit_power_law, zipf_fit
from glassbox.data.curation.language import language_teller
from glassbox.data.curation.shingles import plain_words, words
from glassbox.data.curation.sources import FilesSource, Sources, find_sources
from glassbox.reports.corpus import write_analysis


def sources_of(folder: Path, texts: list[str]) -> Sources:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return find_sources([FilesSource(path=str(path))], downloads=folder)


class Letters:
    """A tokenizer whose tokens are bytes."""

    vocab_size = 256

    def encode(self, text: str, /) -> list[int]:
        return list(text.encode())


@given(st.text(max_size=200) | st.text("ab_ ,.\n é好かー\u0301İß", max_size=200))
@settings(max_examples=300, deadline=None)
def test_words_are_those_of_the_plain_version(text: str) -> None:
    assert words(text) == plain_words(text)


def test_everything_is_counted(tmp_path: Path) -> None:
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(300)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(5, 80))) for _ in range(60)]
    long = rng.choices(vocabulary, k=200)
    texts += [texts[3], texts[3].upper(), " ".join(long), " ".join([*long[:-1], "other"])]
    found = analyze(sources_of(tmp_path, texts), tokenizer=Letters(), language_of=lambda t: "xx")
    assert found.documents == 64
    assert found.word_counts == Counter(word for text in texts for word in plain_words(text))
    assert found.words.tolist() == [len(plain_words(text)) for text in texts]
    assert found.tokens is not None
    assert found.tokens.tolist() == found.bytes_.tolist() == [len(text) for text in texts]
    assert found.token_counts is not None
    assert found.token_counts[ord("w")] == sum(text.count("w") for text in texts)
    assert (found.exact, found.near) == (2, 1)
    assert found.languages == {"xx": 64}
    # the curve: after n words so many different ones, the last point all of them
    everything = [word for text in texts for word in plain_words(text)]
    for read, different in found.growth.astype(int).tolist():
        assert different == len(set(everything[:read]))
    assert found.growth[-1].tolist() == [len(everything), len(set(everything))]
    quantiles = [quantile for quantile, _, _ in found.samples]
    assert quantiles == sorted(quantiles)
    assert found.samples[0][1] == min(found.words)
    assert found.samples[-1][1] == max(found.words)
    for _, length, record in found.samples:
        assert len(plain_words(record.text)) == length


def test_rare_words_are_forgotten_when_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "DIFFERENT_WORDS", 100)
    texts = [" ".join(["often"] * 3 + [f"w{i}x{j}" for j in range(40)]) for i in range(10)]
    found = analyze(sources_of(tmp_path, texts))
    assert found.word_counts["often"] == 30
    assert len(found.word_counts) <= 140
    assert found.forgotten + len(found.word_counts) == 401


@given(st.floats(0.5, 1.5), st.floats(1e3, 1e6))
def test_a_power_law_is_found_again(exponent: float, scale: float) -> None:
    x = np.geomspace(1, 1e4, 30)
    law = fit_power_law(x, scale * x**-exponent)
    assert law is not None
    assert law.exponent == pytest.approx(-exponent, abs=1e-6)
    assert law.scale == pytest.approx(scale, rel=1e-6)
    assert law.explained == pytest.approx(1)


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2])
def test_zipf_of_words_drawn_by_the_law(exponent: float) -> None:
    """300,000 draws; the tail of small counts biases the slope by less than 0.05."""
    share = np.arange(1, 5001) ** -exponent
    draws = np.random.default_rng(0).choice(5000, 300_000, p=share / share.sum())
    law = zipf_fit(np.sort(np.bincount(draws))[::-1].astype(float))
    assert law is not None
    assert law.exponent == pytest.approx(-exponent, abs=0.05)


def test_a_corpus_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document to look at"):
        analyze(sources_of(tmp_path, [""]))


def test_the_command_writes_a_page_that_needs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [
        "<script>alert(1)</script> one two three " * 4,
        "好猫 " * 30,
        "x",
        "one two three " * 20,
    ]
    sources_of(tmp_path, [*texts, texts[0]])
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as end:
        main(["data", "analyze", str(tmp_path / "corpus.jsonl"), "--out", str(page)])
    assert not end.value.code
    assert "5 documents, 1 exact and 0 near duplicates" in capsys.readouterr().err
    html = page.read_text()
    assert html.count("<svg") == 4  # the sign, and three drawings
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import""", html)
    assert "corpus.jsonl:1" in html
    assert "same as corpus.jsonl:1" in html
    assert "1 repeats an earlier one but for case and spaces, 0 nearly repeat one" in html


@pytest.mark.parametrize("installed", [True, False])
def test_the_page_tells_languages_where_the_extra_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if not installed:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    texts = ["The children went home because it was getting dark and cold."] * 3
    texts += ["Die Kinder gingen nach Hause, weil es schon dunkel und kalt war."]
    path = sources_of(tmp_path, texts).parts[0].path  # type: ignore[union-attr]
    found = write_analysis([str(path)], tmp_path / "page.html", language_of=language_teller())
    html = (tmp_path / "page.html").read_text()
    assert found.languages == ({"en": 3, "de": 1} if installed else {})
    assert ("und: unsure" in html) == installed
    assert ("glassbox-lm[language]" in html) != installed
