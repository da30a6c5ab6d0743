"""glassbox data curate, as users run it: clean, read the report, train on what it leaves."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glassbox.cli.main import main
from glassbox.tokenizers.training import train_tokenizer
from support.curation_case import contents, write_corpus

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes/curate/curate-web.yaml")
CLEANING = "{kind: repair}, {kind: html_to_text}, {kind: normalize}"
SMALL = [
    "shard_bytes=2048",
    f"steps=[{CLEANING}, {{kind: boilerplate_lines, min_documents: 5}}]",
]


def run(*words: str) -> None:
    """A command in a process of its own."""
    shown = subprocess.run(
        [sys.executable, "-m", "glassbox", *words], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr


def command(*words: str, expect: int = 0) -> str:
    """A command in this process, which has torch in memory already; what it says."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == expect, said.getvalue()
    return said.getvalue()


def curate(source: Path, out: Path, *words: str, expect: int = 0) -> str:
    given = (RECIPE, f"source={source}", f"out={out}", *SMALL, *words)
    return command("data", "curate", *given, expect=expect)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "web"
    write_corpus(folder)
    (folder / "picture.png").write_bytes(b"\x89PNG")
    with (folder / "part-1.jsonl").open("a") as stream:
        stream.write(
            '{"text": "<html><p>cafÃ© <script>alert(1)</script> & <b>more</b> words</html>"}\n'
        )
    return folder


@pytest.fixture(scope="module")
def curated(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    said = curate(corpus, out)
    assert "dropped" in said
    assert "boilerplate_lines: nothing but boilerplate" in said
    assert re.search(r"ignored +1  files of no known kind: \.png 1\n", said)
    return out


def test_report(curated: Path) -> None:
    report = json.loads((curated / "report.json").read_text())
    assert report["read"] == 82
    assert report["read"] == report["kept"] + report["dropped"]
    assert report["corrupt"] == 2
    steps = {step["name"]: step for step in report["steps"]}
    assert steps["repair"]["changed"] == 1
    assert steps["html_to_text"]["changed"] == 1
    assert steps["boilerplate_lines"]["dropped"]["nothing but boilerplate"] > 0
    page = (curated / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(
        r"<(?:link|img|iframe|object)|url\(|@import|src=", page
    )  # nothing is fetched
    assert "nothing but boilerplate" in page
    for sample in report["kept_samples"]:
        assert sample["id"] in page
    texts = [
        json.loads(line)["text"] for f in (curated / "documents").iterdir() for line in f.open()
    ]
    assert "café & more words" in texts
    assert not (curated / "work").exists()


def test_finished_refused_and_mistaken(corpus: Path, curated: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in curated.rglob("*") if p.name != ".lock"}
    assert "is finished; nothing was changed" in curate(corpus, curated, "workers=1")
    assert before == {p: p.stat().st_mtime_ns for p in curated.rglob("*") if p.name != ".lock"}
    said = curate(corpus, curated, "strict=true", expect=2)
    assert "another recipe or source (strict: false -> true)" in said
    assert len(said.splitlines()) == 1
    said = curate(corpus, tmp_path / "a", "steps=[{kind: repiar}]", expect=2)
    assert "did you mean 'repair'?" in said
    said = curate(tmp_path / "nowhere", tmp_path / "b", expect=2)
    assert "source: nothing at" in said
    assert "data curate" in command("train", RECIPE, expect=2)
    said = curate(corpus, tmp_path / "c", "strict=true", expect=2)
    assert "part-0.jsonl' line 41: not JSON" in said


def test_what_a_recipe_names_has_to_hold_the_same(corpus: Path, tmp_path: Path) -> None:
    """A word list, an evaluation set and a tokenizer that changed are refused as a setting is."""
    words, exam, tokenizer = tmp_path / "bad.txt", tmp_path / "exam", tmp_path / "tok"
    words.write_text("pest\n")
    exam.mkdir()
    (exam / "a.txt").write_text("which of these nine words is in no document here\n")
    texts = [(corpus / "plain.txt").read_text()]
    train_tokenizer(texts, 270).save(tokenizer)
    steps = (
        f"steps=[{{kind: c4_quality, min_sentences: 0, bad_words_file: {words}}},"
        f"{{kind: decontaminate, sets: {{exam: {exam}}}}},"
        f"{{kind: chunk, by: tokens, size: 200, tokenizer: {tokenizer}}}]"
    )
    given = (corpus, tmp_path / "out", steps, "workers=1")
    curate(*given)
    assert "is finished" in curate(*given)
    (exam / ".hidden").write_text("is not read")
    assert "is finished" in curate(*given)
    train_tokenizer(texts, 271).save(tokenizer)
    assert "(contents.chunk." in curate(*given, expect=2)
    train_tokenizer(texts, 270).save(tokenizer)
    assert "is finished" in curate(*given)
    (exam / "b.txt").write_text("more of it\n")
    assert "(contents.decontaminate." in curate(*given, expect=2)
    words.write_text("plague\n")
    said = curate(*given, expect=2)
    assert "another recipe or source (contents.c4_quality." in said
    assert str(words) in said
    words.unlink()
    assert "cannot be read" in curate(*given, expect=2)


def test_interrupted_by_hand_and_gone_on_with(corpus: Path, curated: Path, tmp_path: Path) -> None:
    big = tmp_path / "web"
    shutil.copytree(corpus, big)
    words = [RECIPE, f"source={big}", f"out={tmp_path / 'out'}", *SMALL, "shard_bytes=1024"]
    process = subprocess.Popen(
        [sys.executable, "-m", "glassbox", "data", "curate", *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    work = tmp_path / "out/work"
    deadline = time.monotonic() + 60
    while not list(work.glob("pass-0/*.done.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    command("data", "curate", *words)
    words[2] = f"out={tmp_path / 'b'}"
    command("data", "curate", *words)
    assert contents(tmp_path / "out") == contents(tmp_path / "b")
    reports = [(tmp_path / name / "report.json").read_bytes() for name in ("out", "b")]
    assert reports[0] == reports[1]


def test_pretraining_reads_it(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "curated"
    curate(corpus, out, "format=jsonl.zst")
    run(
        "train",
        str(ROOT / "recipes/pretrain/pretrain.yaml"),
        f"data.path={out}",
        f"out={tmp_path / 'run'}",
        "train.steps=2",
        "train.schedule.warmup_steps=1",
        "tokenizer.vocab_size=300",
        "data.row_length=64",
        "evaluation.every=0",
        "model.hidden_size=32",
        "model.ffn_size=64",
        "model.num_layers=1",
    )
    shard = json.loads((tmp_path / "run/data/train.json").read_text())
    heldout = json.loads((tmp_path / "run/data/heldout.json").read_text())
    kept = json.loads((out / "report.json").read_text())["kept"]
    assert shard["num_documents"] + heldout["num_documents"] == kept


@pytest.mark.realdata
@pytest.mark.skipif("GLASSBOX_TESTDATA" not in os.environ, reason="GLASSBOX_TESTDATA is not set")
def test_c4_sample(tmp_path: Path) -> None:
    """300 raw web documents through the whole recipe, as it comes: most stay, each loss has a reason."""
    source = Path(os.environ["GLASSBOX_TESTDATA"]) / "llama-factory/c4_demo.jsonl"
    for name, workers in (("one", 1), ("two", 2)):
        words = (f"source={source}", f"out={tmp_path / name}", f"workers={workers}")
        command("data", "curate", RECIPE, "shard_bytes=100000", *words)
    report = json.loads((tmp_path / "one/report.json").read_text())
    assert (report["read"], report["corrupt"]) == (300, 0)
    assert report["read"] == report["kept"] + report["dropped"]
    assert 230 <= report["kept"] <= 290
    assert report["steps"][5]["dropped"]["too few words"] >= 20
    assert len(report["kept_samples"]) == 10
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
