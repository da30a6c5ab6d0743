"""Quality rules held to loops written from the papers, and to documents at each threshold's edge."""

from __future__ import annotations

import doctest
import json
import math
import os
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.data.curation import c4, cleaning, personal, step
from glassbox.data.curation.c4 import C4QualitySpec, count_sentences
from glassbox.data.curation.privacy import PrivacySpec
from glassbox.data.curation.quality import FinewebQualitySpec, GopherQualitySpec
from glassbox.data.curation.repetition import (
    GopherRepetitionSpec,
    GramBounds,
    WordGrams,
    plain_duplicate,
    plain_top,
)
from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec


def run(spec: StepSpec, text: str) -> Record | Dropped:
    step = spec.build()
    assert isinstance(step, RecordStep)
    result = pickle.loads(pickle.dumps(step))(Record(text, "a:1"))  # as a worker gets it
    assert isinstance(result, (Record, Dropped))
    return result


def reason(spec: StepSpec, text: str) -> str:
    result = run(spec, text)
    return result.reason if isinstance(result, Dropped) else ""


STOPS = "the end of "
GOPHER = GopherQualitySpec()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STOPS + "word " * 46, "too few words"),
        (STOPS + "word " * 47, ""),
        (STOPS + "word " * 99_997, ""),
        (STOPS + "word " * 99_998, "too many words"),
        ("the of " + "cat " * 48 + "a cats", "words too short"),  # 150 - 1 characters in 52 words
        ("the of " + "cat " * 49 + "goat", ""),  # 156 in 52 words
        ("the of " + "x" * 10 + " " + ("a" * 10 + " ") * 46 + "b" * 25, ""),  # 500 in 50 words
        ("the of " + "x" * 10 + " " + ("a" * 10 + " ") * 46 + "b" * 26, "words too long"),
        (STOPS + "word " * 47 + "# " * 5, ""),  # 5 in 55 words
        (STOPS + "word " * 42 + "# " * 5, ""),  # 5 in 50
        (STOPS + "word " * 41 + "# " * 6, "too many hashes"),  # 6 in 50
        (STOPS + "word " * 41 + "word... " * 3 + "word… " * 2 + "end", ""),
        (STOPS + "word " * 41 + "word... " * 3 + "word… " * 3, "too many ellipses"),
        ("the of have\n" + "- good words all the line\n" * 9, ""),  # 9 of 10
        ("• the of have\n" + "- good words all the line\n" * 9, "too many bullets"),
        ("the end of long lines here...\n" * 3 + "the end of long lines here\n" * 7, ""),
        (
            "the end of long lines here…\n" * 4 + "the end of long lines here\n" * 6,
            "too many lines cut off",
        ),
        (STOPS + "word " * 37 + "2024 " * 10, ""),  # 40 of 50
        (STOPS + "word " * 36 + "2024 " * 11, "too few words with letters"),
        ("The, " + "word " * 48 + "(of)", ""),
        ("the " * 5 + "word " * 48, "too few stop words"),
        ("", "too few words"),
    ],
)
def test_gopher_quality_at_the_edges(text: str, expected: str) -> None:
    assert reason(GOPHER, text) == expected


def plain_gopher(text: str, spec: GopherQualitySpec) -> str:
    """The paper's sentences one after the other."""
    words = text.split()
    if len(words) < spec.min_words:
        return "too few words"
    if len(words) > spec.max_words:
        return "too many words"
    if not words:
        return ""
    characters = 0
    for word in words:
        characters += len(word)
    if characters / len(words) < spec.min_mean_word_length:
        return "words too short"
    if characters / len(words) > spec.max_mean_word_length:
        return "words too long"
    if text.count("#") / len(words) > spec.max_symbol_ratio:
        return "too many hashes"
    if (text.count("...") + text.count("…")) / len(words) > spec.max_symbol_ratio:
        return "too many ellipses"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if sum(line[0] in "•-*–" for line in lines) / len(lines) > spec.max_bullet_lines:
        return "too many bullets"
    if sum(line.endswith(("...", "…")) for line in lines) / len(lines) > spec.max_ellipsis_lines:
        return "too many lines cut off"
    if sum(any(c.isalpha() for c in word) for word in words) / len(words) < 0.8:
        return "too few words with letters"
    met = set()
    for word in words:
        letters = "".join(c if c.isalpha() else " " for c in word.lower()).split()
        met.update(set(letters) & set(spec.stop_words))
    return "too few stop words" if len(met) < spec.min_stop_words else ""


WORDS = st.sampled_from(
    ["the", "of", "And", "cat", "#", "...", "12", "- a", "a…", "\n", "\n-", "ab"]
)


@settings(max_examples=300)
@given(st.lists(WORDS, max_size=40).map(" ".join))
def test_gopher_quality_equals_its_loop(text: str) -> None:
    spec = GopherQualitySpec(min_words=4, min_mean_word_length=1.5, max_mean_word_length=3)
    assert reason(spec, text) == plain_gopher(text, spec)


def sentences(count: int) -> list[str]:
    return [f"Sentence number {n} says what none said." for n in range(count)]


FINEWEB = FinewebQualitySpec()
LONG = "a line of text that is more than thirty characters"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([f"{LONG} {n}" for n in range(22)] + sentences(3), "too few lines end in punctuation"),
        ([f"{LONG} {n}" for n in range(21)] + sentences(3), ""),
        ([f"Tells {n:023d}." for n in range(9)] + ["Tells " + "0" * 23 + "."], None),
        ([f"Says {n:024d}." for n in range(10)], ""),  # 30 characters each
        (["Short ends.", *sentences(1)], ""),
        (["Short.", "Brief.", *sentences(1)], ""),  # 2 of 3 is below 0.67
        ([f"Short {n}." for n in range(67)] + sentences(33), "too many short lines"),
        ([f"Short {n}." for n in range(66)] + sentences(34), ""),
        ([" ", ""], "no lines"),
    ],
)
def test_fineweb_quality_at_the_edges(lines: list[str], expected: str | None) -> None:
    if expected is None:  # one of ten equal-sized lines again: exactly a tenth, which is dropped
        result = run(FINEWEB, "\n".join(lines))
        assert result == Dropped(
            "too many characters in duplicated lines", "30 of 300, less than 10% wanted"
        )
    else:
        assert reason(FINEWEB, "\n".join(lines)) == expected


LINES = st.sampled_from(
    ["One line. ", "A longer one, with more than thirty of them!", "menu", "", "x"]
)


@settings(max_examples=200)
@given(st.lists(LINES, max_size=12))
def test_fineweb_quality_equals_its_loop(given_lines: list[str]) -> None:
    lines = [line.strip() for line in given_lines if line.strip()]
    expected = ""
    characters = duplicated = ended = short = 0
    for index, line in enumerate(lines):
        characters += len(line)
        duplicated += len(line) if line in lines[:index] else 0
        ended += line[-1] in ".!?"
        short += len(line) < 30
    if not lines:
        expected = "no lines"
    elif ended / len(lines) <= 0.12:
        expected = "too few lines end in punctuation"
    elif duplicated / characters >= 0.1:
        expected = "too many characters in duplicated lines"
    elif short / len(lines) >= 0.67:
        expected = "too many short lines"
    assert reason(FINEWEB, "\n".join(given_lines)) == expected


C4 = C4QualitySpec()
FIVE = "\n".join(sentences(5))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (FIVE, FIVE),
        (FIVE + "\nHome | About us", FIVE),  # no terminal punctuation
        (FIVE + "\nRead more...", FIVE),
        (FIVE + "\nWell said.", FIVE),  # two words
        (FIVE + "\nThat was said.", FIVE + "\nThat was said."),
        (FIVE + '\nHe asked "what now?"', FIVE + '\nHe asked "what now?"'),
        ("Please enable JavaScript in your browser.\n" + FIVE, FIVE),
        (FIVE + "\n\nA last paragraph, too.", FIVE + "\n\nA last paragraph, too."),
        ("One. Two. Three. Four. Five.", "One. Two. Three. Four. Five."),
    ],
)
def test_c4_keeps_lines_of_prose(text: str, kept: str) -> None:
    result = run(C4, text)
    assert isinstance(result, Record)
    assert result.text == kept


def test_c4_drops_pages() -> None:
    assert run(C4, "One. Two. Three. Four.\nmenu\nenable Javascript now.") == Dropped(
        "too few sentences",
        "4, at least 5; lines taken out: 1 on Javascript, 1 without terminal punctuation",
    )
    assert run(C4, FIVE + " Lorem Ipsum dolor.") == Dropped("lorem ipsum", "at character 195")
    assert run(C4, "if (a) { b }\n" + FIVE) == Dropped("curly bracket", "at character 7")
    words = C4QualitySpec(bad_words=("darn", "粗口"))
    assert run(words, FIVE + " Darn it.") == Dropped("bad words", "'Darn' at character 195")
    assert reason(words, FIVE + " 说粗口的人。") == "bad words"
    assert reason(words, FIVE + " He darned a sock.") == ""


def test_c4_words_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("darn\n\nheck\n")
    assert reason(C4QualitySpec(bad_words_file=str(path)), FIVE + " What the heck.") == "bad words"
    with pytest.raises(UserError, match=r"bad_words_file '.*none.txt' cannot be read"):
        C4QualitySpec(bad_words_file=str(tmp_path / "none.txt")).build()


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["Go on. Now!", "a b c", "a b c.", "b.", "", "x y…"]), max_size=9))
def test_c4_equals_its_loop(lines: list[str]) -> None:
    kept, count = [], 0
    for line in lines:
        if line and (line[-1] not in '.!?"' or len(line.split()) < 3):
            continue
        kept.append(line)
        count += {"Go on. Now!": 2, "a b c.": 1}.get(line, 0)
    result = run(C4QualitySpec(min_sentences=3), "\n".join(lines))
    if count < 3:
        assert isinstance(result, Dropped)
        assert result.detail.startswith(f"{count}, at least 3")
    else:
        assert isinstance(result, Record)
        assert result.text.strip("\n") == "\n".join(kept).strip("\n")


def test_counting_sentences() -> None:
    assert count_sentences("One. Two! Three?! Four") == 4
    assert count_sentences('He said "stop." Then (why?) he left.') == 3
    assert count_sentences("Version 1.5 is out.") == 1
    assert count_sentences("\n \n") == 0


REPETITION = GopherRepetitionSpec()


def distinct(count: int, tag: str = "w") -> list[str]:
    """Words of four characters, all different."""
    return [f"{tag}{n:03d}" for n in range(count)]


NO_NGRAMS: dict[str, Any] = {"max_top_ngram": {}, "max_duplicate_ngrams": {}}


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({"max_duplicate_line_characters": 1}, [*distinct(7), *["w000"] * 3], ""),
        ({"max_duplicate_line_characters": 1}, [*distinct(6), *["w000"] * 3], "duplicate lines"),
        ({}, [*distinct(8), "w000", "w000"], ""),  # 8 of 40 characters
        ({}, [*distinct(7), "w000", "w000"], "characters in duplicate lines"),  # 8 of 36
    ],
)
def test_gopher_repetition_of_lines(
    settings: dict[str, Any], text: list[str], expected: str
) -> None:
    assert reason(GopherRepetitionSpec(**NO_NGRAMS, **settings), "\n".join(text)) == expected


@pytest.mark.parametrize("size", [2, 3, 4])
def test_gopher_repetition_of_the_top_ngram(size: int) -> None:
    limit = REPETITION.max_top_ngram[size]
    only = GopherRepetitionSpec(max_top_ngram={size: limit}, max_duplicate_ngrams={})
    gram = distinct(size, "g")
    enough = {2: 20, 3: 34, 4: 50}[size]  # 2 n of so many words are no more than the limit
    for total, expected in ((enough, ""), (enough - 1, f"top {size}-gram")):
        text = " ".join([*gram, *distinct(total - 2 * size), *gram])
        assert reason(only, text) == expected


@pytest.mark.parametrize("size", range(5, 11))
def test_gopher_repetition_of_ngrams(size: int) -> None:
    limit = REPETITION.max_duplicate_ngrams[size]
    only = GopherRepetitionSpec(max_top_ngram={}, max_duplicate_ngrams={size: limit})
    for total in (int(size / limit) + 1, int(size / limit - 1e-9)):
        text = " ".join([*distinct(total - size), *distinct(size)])
        assert reason(only, text) == (f"duplicate {size}-grams" if size > limit * total else "")
    assert size > limit * total  # the second of them was over the edge, the first was not


def test_gopher_repetition_of_paragraphs() -> None:
    parts = [" ".join(distinct(10, tag)) for tag in "abcdefg"]
    only = GopherRepetitionSpec(
        max_duplicate_lines=1,
        max_duplicate_line_characters=1,
        max_duplicate_paragraph_characters=1,
        max_top_ngram={},
        max_duplicate_ngrams={},
    )
    assert reason(only, "\n\n".join(parts + parts[:3])) == ""  # 3 of 10
    assert run(only, "\n \n".join(parts + parts[:4])) == Dropped(
        "duplicate paragraphs", "4 of 11, at most 30%"
    )
    assert run(
        only.model_copy(update={"max_duplicate_paragraph_characters": 0.2}),
        "\n\n".join(parts + parts[:2]),
    ) == Dropped("characters in duplicate paragraphs", "80 of 360 characters, at most 20%")


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=30) | st.lists(st.text(max_size=3)),
    st.integers(1, 10),
)
def test_fractions_of_ngrams_equal_their_loops(words: list[str], size: int) -> None:
    grams = WordGrams(words)
    covered, times, best = grams.top(size)
    assert covered == plain_top(words, size)
    assert grams.duplicate(size) == plain_duplicate(words, size)
    bounds = GramBounds(words)
    assert bounds.total == grams.total
    for shorter in range(1, size + 1):  # what is known of shorter ones bounds longer ones too
        assert bounds.top(shorter) >= plain_top(words, shorter)
        assert bounds.duplicate(shorter) >= plain_duplicate(words, shorter)
        bounds.covered[shorter] = plain_duplicate(words, shorter)
    if covered:
        counts = Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
        assert counts[tuple(best)] == times == max(counts.values())


def test_an_overlapping_ngram_counts_its_characters_once() -> None:
    assert WordGrams(["ha"] * 5).top(2) == (10, 4, ["ha", "ha"])
    assert WordGrams(["ha"] * 5).duplicate(2) == 8


@pytest.mark.parametrize(
    ("spec", "raw", "message"),
    [
        (GopherRepetitionSpec, {"max_top_ngram": {"0": 0.5}}, "give n >= 1 and a share of 0 to 1"),
        (GopherQualitySpec, {"min_word": 5}, "did you mean 'min_words'"),
    ],
)
def test_settings_that_cannot_be(spec: Any, raw: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(spec, raw)


@pytest.mark.parametrize("module", [c4, step])
def test_worked_examples(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


@pytest.mark.realdata
@pytest.mark.skipif("GLASSBOX_TESTDATA" not in os.environ, reason="GLASSBOX_TESTDATA is not set")
def test_quick_ways_through_real_pages_are_the_long_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the C4 sample no document fares otherwise where nothing is left out for its bounds."""
    sample = Path(os.environ["GLASSBOX_TESTDATA"]) / "llama-factory/c4_demo.jsonl"
    lines = sample.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    texts += [" ".join(texts[i : i + 5]) for i in range(0, len(texts), 5)]

    def through() -> list[Any]:
        steps = [GopherQualitySpec().build(), GopherRepetitionSpec().build(), PrivacySpec().build()]
        records = [Record(text, f"c4:{i}") for i, text in enumerate(texts)]
        return [cleaning.repair(text) for text in texts] + [
            step(record) for step in steps for record in records
        ]

    quick = through()
    reasons = {result.reason for result in quick if isinstance(result, Dropped)}
    assert len(reasons) >= 5, reasons
    everywhere = re.compile("")
    for module, name in ((cleaning, "_SUSPECT"), (cleaning, "_RARE_SPACE")):
        monkeypatch.setattr(module, name, everywhere)
    for name in (
        "_IBAN_DIGITS",
        "_THIRTEEN_DIGITS",
        "_SIX_DIGITS",
        "_NINE_DIGITS",
        "_DOTTED_DIGITS",
    ):
        monkeypatch.setattr(personal, name, everywhere)
    forms = tuple((everywhere.search, *form[1:]) for form in personal._NATIONAL_FORMS)
    monkeypatch.setattr(personal, "_NATIONAL_FORMS", forms)
    monkeypatch.setattr(personal, "_phone_windows", personal._PHONE_WINDOW.finditer)
    monkeypatch.setattr(GramBounds, "top", lambda self, size, enough: math.inf)
    monkeypatch.setattr(GramBounds, "duplicate", lambda self, size, enough: math.inf)
    assert through() == quick
