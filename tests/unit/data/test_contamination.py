"""Repeated passages and texts of evaluation sets: found exactly, cut where they stand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.data.curation.decontaminate import (
    Decontaminate,
    DecontaminateSpec,
    positioned_words,
    read_texts,
)
from glassbox.data.curation.shingles import plain_words
from glassbox.data.curation.step import Dropped, Record
from glassbox.data.curation.substring import (
    RepeatedPassages,
    SubstringSpec,
    plain_repeated,
    repeated,
    window_classes,
)

QUESTION = (
    "If a train leaves the harbour at seven and travels for three hours at sixty miles an hour, "
    "how far has it come?"
)
FILLER = "The keeper of the lighthouse wrote every evening what ships had gone by. " * 20


@given(st.lists(st.text("abc\U0001f600", max_size=60), max_size=6), st.integers(1, 13))
@settings(max_examples=300, deadline=None)
def test_repeated_stretches_are_those_of_the_plain_version(texts: list[str], length: int) -> None:
    assert repeated(texts, length) == plain_repeated(texts, length)


@given(st.text("ab", min_size=1, max_size=80), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_classes_are_equal_for_equal_windows_alone(text: str, length: int) -> None:
    if length > len(text):
        return
    classes = window_classes(np.frombuffer(text.encode("utf-32-le"), "<u4"), length).tolist()
    windows = [text[i : i + length] for i in range(len(text) - length + 1)]
    assert len(classes) == len(windows)
    assert len(set(zip(classes, windows, strict=True))) == len(set(classes)) == len(set(windows))


@given(st.lists(st.text("ab", max_size=60), max_size=6), st.integers(8, 12))
@settings(max_examples=100, deadline=None)
def test_what_is_left_of_a_corpus_lost_nothing_but_repetitions(
    texts: list[str], length: int
) -> None:
    """Every character that is cut lies in a window that stood before it."""
    for number, (text, spans) in enumerate(zip(texts, repeated(texts, length), strict=True)):
        for start, end in spans:
            covered = set()
            for place in range(start, end - length + 1):
                window = text[place : place + length]
                if any(window in t for t in [*texts[:number], text[: place + length - 1]]):
                    covered.update(range(place, place + length))
            assert covered == set(range(start, end))


def test_the_step_cuts_a_shared_licence_and_drops_copies() -> None:
    licence = "Permission is hereby granted, free of charge, to any person. " * 5
    texts = [f"One. {licence}", f"Another. {licence} Behind.", licence, "Short."]
    step = SubstringSpec(min_characters=100).build()
    records = [Record(text, f"d:{i}") for i, text in enumerate(texts)]
    notes = step.decide([(record.id, step.signature(record)) for record in records])
    assert "d:3" not in notes
    revised = {name: step.revise(records[int(name[2:])], note) for name, note in notes.items()}
    # the sentence comes five times: within the first text too the later four are repetitions
    first = revised["d:0"]
    assert isinstance(first, Record)
    assert first.text.startswith("One. Permission is hereby granted")
    assert first.text.count("Permission") == 1
    second = revised["d:1"]
    assert isinstance(second, Record)
    assert second.text == "Another Behind."  # the point and the space stood there too
    assert revised["d:2"] == Dropped(
        "nothing but repeated passages",
        f"{len(licence):,} characters, all of which stood in the corpus before",
    )


def test_too_large_a_corpus_is_refused() -> None:
    step = RepeatedPassages(8, max_corpus_characters=10)
    with pytest.raises(UserError, match="max_corpus_characters = 10"):
        step.decide([("a", b"123456"), ("b", b"123456")])


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "180"}) + "\n")
    header = "question,A\n"
    (tmp_path / "facts.csv").write_text(
        header + "which of the eight planets is closest to the sun,Mars\n"
    )
    return {"sums": str(tmp_path / "sums.jsonl"), "facts": str(tmp_path / "facts.csv")}


def test_a_question_is_found_whatever_its_case_and_punctuation(sets: dict[str, str]) -> None:
    step = DecontaminateSpec(sets=sets).build()
    assert isinstance(step, Decontaminate)
    clean = Record(FILLER, "a")
    assert step(clean) is clean
    dirty = FILLER + QUESTION.upper().replace(",", " -- ") + FILLER
    found = step(Record(dirty, "b"))
    assert isinstance(found, Dropped)
    assert found.reason == "holds text of sums"
    first = "if a train leaves the harbour at seven and travels for three hours"
    assert found.detail == f"'{first}' is in sums; 11 matches in all"
    short = step(Record("Q: Which of the eight planets is closest to the Sun?", "c"))
    assert isinstance(short, Dropped)
    assert short.reason == "holds text of facts"


def test_twelve_words_in_common_are_not_thirteen(sets: dict[str, str]) -> None:
    step = DecontaminateSpec(sets=sets).build()
    words = QUESTION.split()
    assert isinstance(step(Record(" ".join(words[:12]) + " whale", "a")), Record)
    assert isinstance(step(Record(" ".join(words[:13]) + " whale", "a")), Dropped)


def test_trimming_leaves_what_stands_apart(sets: dict[str, str]) -> None:
    step = DecontaminateSpec(sets=sets, action="trim", margin=50).build()
    assert isinstance(step, Decontaminate)
    before, behind = FILLER + "BORDER " * 20, "EDGE " * 30 + FILLER
    left = step(Record(before + QUESTION + behind, "a"))
    assert isinstance(left, Record)
    assert not step.find(left.text)
    assert left.text == (before[:-50].strip() + "\n" + behind[50:].strip())
    many = step(Record((QUESTION + FILLER) * 11, "b"))
    assert isinstance(many, Dropped)
    assert many.detail.endswith("11 cuts leave too little")


@given(st.text(max_size=80) | st.text("aİßŉ .好é\u0301", max_size=60))
@settings(max_examples=200, deadline=None)
def test_words_with_places_are_the_words(text: str) -> None:
    found = positioned_words(text)
    assert [word for word, _, _ in found] == plain_words(text)
    for word, start, end in found:
        assert word in text[start:end].casefold()


def test_sets_are_read_from_all_formats(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"q": "one", "inner": {"a": ["two"]}, "n": 3}]')
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as stream:
        stream.write('{"q": "three"}\n\n')
    (tmp_path / "c.txt").write_text("four\nfive\n")
    (tmp_path / "d.tsv").write_text("q\ta\nsix\tseven\n")
    (tmp_path / "e.bin").write_bytes(b"\0")
    assert list(read_texts(tmp_path)) == [
        "one",
        "two",
        "three",
        "four",
        "five",
        "q",
        "a",
        "six",
        "seven",
    ]
    assert list(read_texts(tmp_path / "d.tsv", ["a"])) == ["seven"]
    assert list(read_texts(tmp_path / "a.json", ["a"])) == ["two"]


def test_sets_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"a": "b"}\n{oops\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:2 is not JSON"):
        list(read_texts(tmp_path / "bad.jsonl"))
    with pytest.raises(UserError, match="no evaluation set at"):
        list(read_texts(tmp_path / "missing"))
    (tmp_path / "x.doc").write_text("a")
    with pytest.raises(UserError, match=r"must end in one of"):
        list(read_texts(tmp_path / "x.doc"))
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(UserError, match="set 'x' has no text of 8 words"):
        DecontaminateSpec(sets={"x": str(tmp_path / "short.txt")}).build()
    with pytest.raises(ValueError, match="min_words = 9 is above ngram = 5"):
        DecontaminateSpec(sets={"x": "y"}, ngram=5, min_words=9)
