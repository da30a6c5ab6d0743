"""Corpus files of the story world: the same for any number of workers, mended, and bad ones named."""

from __future__ import annotations

import math

import pytest

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.data.storyworld import (
    CorpusSizes,
    StoryWorldConfig,
    check_answer,
    draw,
    generate,
    load_language,
    question_from_json,
    read_jsonl,
    read_manifest,
    write_corpus,
    write_jsonl,
)

SMALL = CorpusSizes(
    train_bytes=30_000,
    heldout=12,
    unseen=8,
    chats_train=30,
    chats_heldout=8,
    questions_heldout=9,
    arithmetic_train=11,
    arithmetic_heldout=7,
    preferences_train=10,
    preferences_heldout=6,
)


@pytest.fixture(params=["en", "zh"])
def config(request):
    return StoryWorldConfig(seed=11, language=request.param)


# --- files and settings


def test_corpus_is_the_same_for_any_number_of_workers(tmp_path, config):
    seen = []
    one = write_corpus(config, tmp_path / "one", SMALL, progress=lambda *p: seen.append(p))
    two = write_corpus(config, tmp_path / "two", SMALL, workers=2)
    assert one == two == read_manifest(tmp_path / "one")
    for name, entry in one["files"].items():
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert len(content) == entry["file_bytes"]
        assert content.count(b"\n") == entry["count"]
    assert {name for name, _, _ in seen} == set(one["files"])
    rows = list(read_jsonl(tmp_path / "one" / "heldout.jsonl", ["text", "log_prob", "kind"]))
    nats = math.fsum(-row["log_prob"] for row in rows)
    assert one["files"]["heldout.jsonl"]["total_nats"] == pytest.approx(nats)


def test_workers_do_not_change_the_order(config):
    one = list(generate(config, "story", "train", count=600))
    assert one == list(generate(config, "story", "train", count=600, workers=2))


def test_a_finished_corpus_is_left_alone_and_a_damaged_one_is_mended(tmp_path, config):
    write_corpus(config, tmp_path, SMALL)
    before = (tmp_path / "train.jsonl").stat().st_mtime_ns
    write_corpus(config, tmp_path, SMALL)
    assert (tmp_path / "train.jsonl").stat().st_mtime_ns == before
    content = (tmp_path / "train.jsonl").read_bytes()
    (tmp_path / "train.jsonl").write_bytes(content[:-10])
    write_corpus(config, tmp_path, SMALL)
    assert (tmp_path / "train.jsonl").read_bytes() == content
    (tmp_path / "manifest.json").write_text("{half", encoding="utf-8")
    assert read_manifest(tmp_path) is None


def test_bytes_asked_for_are_reached_with_the_last_document(config):
    documents = list(generate(config, "document", "train", num_bytes=20_000))
    sizes = [len(document.text.encode()) for document in documents]
    assert sum(sizes[:-1]) < 20_000 <= sum(sizes)


def test_questions_survive_json(tmp_path, config):
    questions = list(generate(config, "question", "heldout", count=20))
    write_jsonl(tmp_path / "q.jsonl", (question.to_json() for question in questions))
    back = [question_from_json(row) for row in read_jsonl(tmp_path / "q.jsonl")]
    assert [question.to_json() for question in back] == [q.to_json() for q in questions]
    assert all(check_answer(question, question.sentence) for question in back)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{oops\n', "line 2: not valid JSON"),
        (b'\n["a"]\n', "line 2: give an object, not list"),
        (b'{"b": 1}\n', "line 1: missing key 'a'"),
        (b"\xff\n", "line 1: not valid JSON"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_jsonl(path, ["a"]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"languag": "en"}, "did you mean 'language'"),
        ({"language": "fr"}, "language"),
        ({"arithmetic_min_steps": 4}, "make it smaller"),
        ({"story_weight": 0}, "story_weight"),
    ],
)
def test_bad_settings_are_named(raw, message):
    with pytest.raises(UserError, match=message):
        parse(StoryWorldConfig, raw)


def test_bad_requests_are_named():
    config = StoryWorldConfig()
    with pytest.raises(UserError, match="split = 'test'"):
        draw(config, "story", "test", 0)
    with pytest.raises(UserError, match="kind = 'poem'"):
        draw(config, "poem", "train", 0)
    with pytest.raises(UserError, match="give one of the two"):
        next(generate(config, "story", "train"))
    with pytest.raises(UserError, match="workers = 0"):
        next(generate(config, "story", "train", count=1, workers=0))
    with pytest.raises(UserError, match="known languages"):
        load_language("fr")
