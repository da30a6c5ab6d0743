"""Overlap of tasks with training shards: held to a plain search, blind across documents, in the result file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.data.shards import Shard, write_shard
from glassbox.evaluation.tasks.contamination import (
    TrainingShards,
    covered,
    ngram_hashes,
    open_training_shards,
    shard_hashes,
)
from glassbox.evaluation.tasks.results import read_results
from glassbox.formats.huggingface import write_folder
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

DOCUMENTS = st.lists(st.lists(st.integers(0, 2), max_size=14), min_size=1, max_size=6)


def shard_of(documents: list[list[int]]) -> Shard:
    offsets = np.cumsum([0, *map(len, documents)])
    flat = np.asarray([one for some in documents for one in some], dtype="<u2")
    return Shard(flat, offsets.astype(np.int64), None, {})


def plain_covered(ids: list[int], documents: list[list[int]], n: int) -> int:
    marked = set()
    for i in range(len(ids) - n + 1):
        window = ids[i : i + n]
        if any(window == d[j : j + n] for d in documents for j in range(len(d) - n + 1)):
            marked.update(range(i, i + n))
    return len(marked)


@given(DOCUMENTS, st.lists(st.integers(0, 2), max_size=20), st.integers(2, 5), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_covered_tokens_are_those_of_a_plain_search(
    documents: list[list[int]], ids: list[int], ngram: int, block: int
) -> None:
    shard = shard_of(documents)
    blocks = list(shard_hashes(shard, ngram, block))
    found = np.unique(np.concatenate([np.empty(0, np.uint64), *(one for one, _ in blocks)]))
    assert covered(ids, found, ngram) == (plain_covered(ids, documents, ngram), len(ids))
    windows = sum(max(0, len(one) - ngram + 1) for one in documents)
    assert sum(len(one) for one, _ in blocks) == windows


def test_hashes_of_different_ngrams_differ() -> None:
    ids = np.random.default_rng(0).integers(0, 50_000, 200_000)
    assert len(np.unique(ngram_hashes(ids, 10))) == len(ids) - 9
    assert ngram_hashes(ids[:9], 10).size == 0


SEEN = "The fox found a red ball under the old tree and took it home to her mother."
NEW = "Nobody in the village had ever thought that seven ships could vanish overnight."


def test_documents_are_told_apart(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    text = f"Once upon a time. {SEEN} The end."
    halves = [tokenizer.encode(NEW)[:8], tokenizer.encode(NEW)[8:16]]
    write_shard(
        tmp_path / "data" / "train",
        [tokenizer.encode(text), *halves],
        vocab_size=tokenizer.vocab_size,
        fingerprint=tokenizer.fingerprint,
    )
    checkpoint = tmp_path / "checkpoints" / "step-00000001"
    training = open_training_shards(["auto"], checkpoint, tokenizer)
    assert isinstance(training, TrainingShards)
    docs = [{"question": SEEN, "label": 1}, {"a": {"b": [NEW]}}, {"question": "?"}]
    seen, new, short = training.overlaps(docs)
    assert seen == 1.0  # in the midst of a training document, where a space stands before it
    assert new == 0.0  # no n-gram runs over the border of two training documents
    assert short is None
    with pytest.raises(UserError, match="no training shard at"):
        open_training_shards(["auto"], tmp_path / "elsewhere" / "a" / "b", tokenizer)
    with pytest.raises(UserError, match="--contamination /nowhere: no training shard"):
        open_training_shards(["/nowhere"], checkpoint, tokenizer)


def test_the_command_reports_scores_on_clean_items(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tiny_tokenizer()
    run = tmp_path / "run"
    model = run / "checkpoints" / "step-00000001"
    write_folder(tiny_chat_model(tokenizer), model, tokenizer=tokenizer)
    write_shard(
        run / "data" / "train",
        [tokenizer.encode(SEEN)],
        vocab_size=tokenizer.vocab_size,
        fingerprint=tokenizer.fingerprint,
    )
    rows = [
        {"question": q, "choices": {"text": ["a", "bb"], "label": ["A", "B"]}, "answerKey": "A"}
        for q in (SEEN, NEW, NEW[::-1])
    ]
    (tmp_path / "arc_easy").mkdir()
    (tmp_path / "arc_easy" / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = ["eval", str(model), "--tasks", "arc_easy", "--data", str(tmp_path)]
    with pytest.raises(SystemExit) as done:
        main([*words, "--contamination", "auto", "--out", str(tmp_path / "out")])
    assert not done.value.code
    assert "contaminated" in capsys.readouterr().out
    (folder,) = (tmp_path / "out").iterdir()
    task = read_results(folder)["tasks"]["arc_easy"]
    found = task["contamination"]
    assert (found["judged"], found["clean"], found["contaminated"]) == (3, 2, 1)
    assert found["items"] == [{"doc_id": 0, "overlap": 1.0}]
    assert found["clean_metrics"]["acc,none"]["n"] == 2
    assert task["metrics"]["acc,none"]["n"] == 3
