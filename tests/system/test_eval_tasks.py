"""`glassbox eval --tasks` as users run it: files, a second start, killed at ten moments, by URL, in a recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import glassbox
from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.catalogue import Catalogue, build_tasks
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.local import LocalModel
from glassbox.evaluation.tasks.remote import RemoteModel
from glassbox.evaluation.tasks.requests import Request
from glassbox.evaluation.tasks.results import read_samples
from glassbox.evaluation.tasks.run import EvaluationSettings, evaluate_tasks
from glassbox.formats.huggingface import write_folder
from glassbox.inference import Engine
from support.harness import write_rows
from support.kill_evaluation import evaluate, lines
from support.tiny_chat import tiny_chat_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = tiny_tokenizer()
    write_folder(tiny_chat_model(tokenizer, context_length=512), folder, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("arc_easy", "piqa", "lambada_openai", "gsm8k"):
        write_rows(folder, name)
    return folder


def run(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as done:
        main(["eval", *words])
    assert (done.value.code or 0) == code


def test_eval_and_reproduce(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evals"
    words = [str(model), "--tasks", "arc_easy,piqa,ai2_arc", "--data", str(data), "--limit", "6"]
    run(*words, "--out", str(out), code=2)  # arc_challenge has no data
    assert "task 'arc_challenge': no documents" in capsys.readouterr().err
    assert not out.exists()
    words[2] = "arc_easy,piqa"
    run(*words, "--num-fewshot", "1", "--out", str(out), "--log-samples")
    shown = capsys.readouterr().out
    assert "arc_easy" in shown
    assert "acc_norm" in shown
    (folder,) = out.iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["settings"]["num_fewshot"] == 1
    assert results["tasks"]["piqa"]["n"] == 6
    assert len((folder / "samples_piqa.jsonl").read_text().splitlines()) == 6
    run("--reproduce", str(folder))
    assert "the same figures" in capsys.readouterr().out
    rows = data / "piqa" / "validation.jsonl"
    before = rows.read_text()
    try:
        changed = [json.loads(line) for line in before.splitlines()]
        changed[0]["label"] = 1 - changed[0]["label"]
        rows.write_text("".join(json.dumps(one) + "\n" for one in changed))
        run("--reproduce", str(folder), code=1)
    finally:
        rows.write_text(before)
    shown = capsys.readouterr().out
    assert "piqa.documents_sha256:" in shown
    assert "piqa, acc,none:" in shown
    assert "arc_easy," not in shown


def test_the_list_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    run("--list")
    shown = capsys.readouterr().out
    for name in ("hellaswag", "mmlu", "core", "gsm8k", "humaneval", "truthfulqa_mc2", "wikitext"):
        assert name in shown


def test_what_users_get_wrong_is_one_line(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = tmp_path / "a.yaml"
    hostile.write_text("task: !!python/object/apply:os.system ['echo']\n")
    for words, message in (
        (["--tasks", "arc_easy"], "name a model to evaluate"),
        ([str(model), "--tasks", "arc_eazy"], "did you mean 'arc_easy'?"),
        (
            [str(model), "--tasks", "arc_easy", "--data", "/nowhere"],
            "--data '/nowhere' is no folder",
        ),
        ([str(model), "--tasks", "arc_easy", "--log-samples"], "--log-samples needs --out"),
        ([str(model), "--tasks", "gsm8k", "--data", str(data)], "use --max-tokens N"),
        ([str(model), "--task-file", str(hostile)], "could not determine a constructor"),
        ([str(model), "--tasks", "arc_easy", "--data", str(data), "--bos", "no"], "use 'auto'"),
        (["--reproduce", str(hostile)], "is no result file"),
    ):
        words = [*words, "--max-tokens", "600"] if "gsm8k" in words else words
        run(*words, code=2)
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1, said
        assert message in said[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_at_ten_moments(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    evaluate(whole)
    total = lines(whole)
    assert total >= 22
    moments = ",".join(str(1 + 2 * n) for n in range(10))
    subprocess.run(
        [sys.executable, "-m", "support.kill_evaluation", str(broken), moments],
        check=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    names = sorted(file.name for file in (whole / "out").iterdir() if file.name != "timing.json")
    assert names == sorted(p.name for p in (broken / "out").iterdir() if p.name != "timing.json")
    for name in names:
        mine, other = ((folder / "out" / name).read_bytes() for folder in (whole, broken))
        assert mine == other, name
    keys = [
        key
        for line in next((broken / "out").glob("requests-*.jsonl")).read_text().splitlines()
        for key, _ in json.loads(line)
    ]
    assert len(keys) == len(set(keys))  # nothing was answered twice


def test_tasks_while_training(data: Path, tmp_path: Path) -> None:
    book = Path(__file__).parents[2] / "examples" / "data" / "mybook.txt"
    changes = {
        "out": str(tmp_path / "run"),
        "data.path": str(book),
        "evaluation.every": 0,
        "evaluation.tasks": {
            "tasks": ["piqa", "lambada_openai"], "data": str(data), "limit": 4, "every": 2,
        },
        "train.steps": 4,
        "train.schedule.warmup_steps": 2,
        "model.hidden_size": 16,
        "model.num_layers": 1,
        "model.num_heads": 2,
        "model.ffn_size": 16,
        "model.context_length": 256,
        "data.row_length": 32,
        "data.rows_per_step": 2,
        "tokenizer.vocab_size": 300,
    }  # fmt: skip
    wrong = {**changes, "evaluation.tasks": {**changes["evaluation.tasks"], "tasks": ["boolq"]}}  # type: ignore[dict-item]
    with pytest.raises(UserError, match="task 'boolq': no documents of split 'validation'"):
        glassbox.run_recipe("pretrain.yaml", wrong)
    assert not (tmp_path / "run").exists()
    glassbox.run_recipe("pretrain.yaml", changes)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    values = {one["step"]: one for one in records if "task/piqa/acc" in one}
    assert sorted(values) == [0, 2, 4]
    assert all(0 <= one["task/piqa/acc"] <= 1 for one in values.values())
    assert values[4]["task/lambada_openai/perplexity"] > 1
    assert "task/piqa/acc_error" in values[2]
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "run")])
    assert "share right" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_model_behind_a_url_answers_as_it_does_here(data: Path, tmp_path: Path) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    from glassbox.serving.app import build_app
    from glassbox.serving.service import Service

    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer, context_length=512)
    service = Service(
        Engine(model, tokenizer), tokenizer, name="tiny", model=model, prompt_prefix=[]
    )
    server = uvicorn.Server(
        uvicorn.Config(build_app(service), host="127.0.0.1", port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    try:
        specs, _ = Catalogue.builtin().select(["arc_easy", "lambada_openai", "gsm8k"])
        tasks = build_tasks(specs, Data(data), num_fewshot=1)
        settings = EvaluationSettings(limit=5)
        away = RemoteModel(url, max_tokens=8)
        here = LocalModel(model, tokenizer, "tiny", max_tokens=8)
        found = [
            evaluate_tasks(one, tasks, None, settings, folder=tmp_path / name, log_samples=True)
            for one, name in ((away, "away"), (here, "here"))
        ]
        assert found[0]["model"]["kind"] == "url"
        for name in tasks:
            pairs = zip(
                read_samples(tmp_path / "away", name),
                read_samples(tmp_path / "here", name),
                strict=True,
            )
            for mine, other in pairs:
                assert mine["arguments"] == other["arguments"]
                for one, reference in zip(mine["resps"], other["resps"], strict=True):
                    if name == "gsm8k":
                        assert one == reference
                    else:  # float32, other batches
                        assert one[0][0] == pytest.approx(reference[0][0], abs=1e-3)
                        assert one[0][1] == reference[0][1]
        chat = evaluate_tasks(
            away,
            {"gsm8k": tasks["gsm8k"]},
            None,
            EvaluationSettings(limit=2, apply_chat_template=True),
        )
        assert chat["tasks"]["gsm8k"]["n"] == 2
        rolling = Request("loglikelihood_rolling", ("a text",))
        with pytest.raises(UserError, match="which needs the model's tokens"):
            list(away.answer([rolling], away.plan([rolling])[0], {0}))
    finally:
        server.should_exit = True
        thread.join(30)
    with pytest.raises(UserError, match="does not answer"):
        RemoteModel(url)
