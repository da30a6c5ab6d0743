"""glassbox recommend, as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glassbox.cli.main import main

SMALL = ["data.num_playlists=150", "data.num_artists=24", "data.songs_per_artist=3"]


def glassbox(*words: object) -> tuple[int, str, str]:
    """Exit code, output and errors of a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main([str(word) for word in words])
    return int(end.value.code or 0), out.getvalue(), err.getvalue()


def refusal(*words: object) -> str:
    """The one line with which a command ends where it cannot go on."""
    code, _, err = glassbox(*words)
    assert code == 2
    last = err.strip().splitlines()
    assert len(last) == 1, err
    return last[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    for kind, more in (
        ("skipgram", ["model.epochs=5"]),
        ("popularity", []),
        ("bpr", ["model.epochs=2"]),
    ):
        code, _, err = glassbox(
            "recommend", "train", "--kind", kind, "--out", folder / kind, *SMALL, *more
        )
        assert code == 0, err
        assert "150 lists, 72 items" in err
    return folder


def test_a_list_goes_on_with_names_scores_and_reasons(models: Path) -> None:
    items = json.loads((models / "skipgram" / "items.json").read_text(encoding="utf-8"))
    names = [f"{items['title'][n]} - {items['artist'][n]}" for n in (3, 8)]
    code, out, err = glassbox("recommend", models / "skipgram", "--playlist", "; ".join(names))
    assert code == 0
    assert f"behind: {'; '.join(names)}" in err
    assert "most like, in the list" in out
    code, out, _ = glassbox(
        "recommend", "continue", models / "skipgram", "--playlist", "#3; #8", "--count", 4, "--json"
    )
    found = json.loads(out)
    assert len(found) == 4
    assert {one["nearest"]["key"] for one in found} <= {"3", "8"}
    assert all(-1 <= one["similarity"] <= 1 for one in found)


def test_models_are_measured_beside_each_other(models: Path, tmp_path: Path) -> None:
    code, out, _ = glassbox(
        "recommend", "eval", models / "popularity", models / "skipgram", models / "bpr", "--ceiling",
        "--output", tmp_path / "figures.json",
    )  # fmt: skip
    assert code == 0
    assert "95 % intervals" in out
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [one["kind"] for one in found] == ["popularity", "skipgram", "bpr", "exact"]
    for one in found:
        for name in ("recall@10", "ndcg@10", "mrr"):
            figure = one["summary"][name]
            assert 0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1


def test_the_classic_files_are_written_read_and_trained_on(tmp_path: Path) -> None:
    assert glassbox("recommend", "playlists", "--out", tmp_path / "lists", "num_playlists=80",
                    "num_artists=24", "songs_per_artist=3")[0] == 0  # fmt: skip
    code, _, err = glassbox("recommend", "train", "--data", tmp_path / "lists", "--out", tmp_path / "m",
                            "--kind", "cbow", "model.epochs=1", "--whole-lists")  # fmt: skip
    assert code == 0, err
    assert "80 lists, 72 items" in err
    assert "without --whole-lists" in refusal("recommend", "eval", tmp_path / "m")
    with (tmp_path / "lists" / "train.txt").open("a", encoding="utf-8") as stream:
        stream.write("1 2 900\n")
    said = refusal("recommend", "train", "--data", tmp_path / "lists", "--out", tmp_path / "n")
    assert "line 83: song '900' is not in song_hash.txt; add its line" in said
    assert not (tmp_path / "n").exists()


def test_what_is_wrong_is_one_line(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "recbole==1.2.1" in refusal(
        "recommend", "train", "--data", tmp_path / "ml", "--out", out
    )
    assert "did you mean 'skipgram'" in refusal(
        "recommend", "train", "--kind", "skipgramm", "--out", out
    )
    assert "did you mean 'epochs'" in refusal("recommend", "train", "--out", out, "model.epoch=3")
    assert "holds a recommender already" in refusal("recommend", "train", "--out", models / "bpr")
    assert "no item is called" in refusal("recommend", models / "bpr", "--playlist", "Nowhere Man")
    assert "glassbox recommend train" in refusal("recommend", tmp_path / "none", "--playlist", "x")
    assert not out.exists()


def test_an_interrupted_transformer_goes_on(tmp_path: Path) -> None:
    """Its checkpoints lie in OUT/training: with some there, the same command ends at the same bits."""
    words = ["recommend", "train", "--kind", "transformer", "model.epochs=4", "model.hidden_size=16",
             "model.num_layers=1", *SMALL]  # fmt: skip
    assert glassbox(*words, "--out", tmp_path / "a")[0] == 0
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "training").rename(tmp_path / "b" / "training")
    assert glassbox(*words, "--out", tmp_path / "b")[0] == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_the_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom glassbox.cli.main import main\n"
        "try:\n    main(['recommend', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert "continue" in done.stdout
