"""Every kind of stage on a tiny model: held-out figures, the best checkpoint, and what a resume insists on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.core.metrics import read_metrics
from glassbox.data.heldout import split_heldout
from glassbox.evaluation.hooks import GradeHook, HeldoutHook, LossHook
from glassbox.formats.huggingface import save_pretrained
from glassbox.formats.open_model import find_model, open_model
from glassbox.runs.recipe import parse_recipe, read_recipe
from glassbox.runs.setup import Setup
from glassbox.runs.train import build_trainer, run_recipe
from glassbox.training.loop import Trainer
from support.stages import (
    KINDS,
    ROLLOUT,
    ROWS,
    TRAIN,
    make_home,
    recipe,
)
from support.tiny_chat import tiny_chat_model, tiny_tokenizer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("stages"))


def evaluations(out: Path) -> list[dict[str, Any]]:
    return [one for one in read_metrics(out / "metrics.jsonl") if one.get("event") == "evaluation"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_measured_on_what_it_did_not_train_on(
    home: Path, tmp_path: Path, name: str
) -> None:
    assert run_recipe(recipe(home, tmp_path, name))["status"] == "finished"
    found = evaluations(tmp_path)
    assert [one["step"] for one in found] == [0, 2, 4]
    for one in found:
        assert KINDS[name][1] <= one.keys()
    if name not in ("pretrain", "distill-cached"):  # whose split is by each text itself
        split = json.loads((tmp_path / "heldout.json").read_text())
        assert split["seed"] == 3
        assert 0 < len(split["heldout"]) < split["examples"] // 2


@pytest.mark.parametrize(
    ("name", "metric", "mode"),
    [
        ("pretrain", "heldout_loss", "min"),
        ("dpo", "heldout_reward_accuracy", "max"),
        ("reward", "heldout_loss", "min"),
        ("grpo", "heldout_reward", "max"),
        ("distill", "heldout_divergence", "min"),
    ],
)
def test_the_best_checkpoint_is_what_a_run_gives(
    home: Path,
    tmp_path: Path,
    name: str,
    metric: str,
    mode: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    best = {"metric": metric, "mode": mode, "patience": 1}
    train = {
        **TRAIN,
        "steps": 40,
        "lr": 1e-9,
        "best_metric": best,
        "early_stop": True,
        "keep_last": 2,
    }
    done = run_recipe(recipe(home, tmp_path, name, train=train))
    told = capsys.readouterr().err
    figures = {one["step"]: one[metric] for one in evaluations(tmp_path) if one["step"]}
    wanted = (min if mode == "min" else max)(figures.values())
    first = next(step for step, value in figures.items() if value == wanted)
    assert done["best_checkpoint"] == f"step-{first:08d}"
    assert json.loads((tmp_path / "best.json").read_text())["step"] == first
    if done["stopped_early"]:
        assert f"stopped early at step {done['steps']} of 40: {metric} no better than" in told
    assert find_model(tmp_path).name == find_model(f"{tmp_path}@best").name == f"step-{first:08d}"
    assert find_model(f"{tmp_path}@last").name == f"step-{done['steps']:08d}"
    assert find_model(f"{tmp_path}@step-{done['steps']}") == find_model(f"{tmp_path}@last")
    with pytest.raises(UserError, match="no complete checkpoint of step 999; it has"):
        find_model(f"{tmp_path}@step-999")


def test_an_early_stop_is_said(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    best = {"metric": "heldout_loss", "patience": 2}
    train = {**TRAIN, "steps": 40, "lr": 0.5, "best_metric": best, "early_stop": True}
    done = run_recipe(recipe(home, tmp_path, "sft", train=train))
    told = capsys.readouterr().err
    assert done["stopped_early"]
    assert done["steps"] < 40
    assert "in 2 evaluations; that checkpoint is kept" in told
    assert "heldout_loss" in told


def test_without_a_measure_the_newest_is_taken_and_best_is_refused(home: Path, tmp_path: Path) -> None:  # fmt: skip
    run_recipe(recipe(home, tmp_path, "sft"))
    assert find_model(tmp_path).name == "step-00000004"
    with pytest.raises(UserError, match="keeps no best checkpoint"):
        find_model(f"{tmp_path}@best")
    with pytest.raises(UserError, match="is no run"):
        find_model(f"{home / 'model'}@best")


def test_a_newer_checkpoint_that_is_not_whole_is_told(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_recipe(recipe(home, tmp_path, "sft"))
    (tmp_path / "checkpoints" / "step-00000004" / "COMPLETE").unlink()
    assert find_model(tmp_path).name == "step-00000003"
    assert "step-00000004' has no COMPLETE file" in capsys.readouterr().err


def test_weights_that_the_manifest_leaves_out_are_refused(home: Path, tmp_path: Path) -> None:
    run_recipe(recipe(home, tmp_path, "sft"))
    manifest = tmp_path / "checkpoints" / "step-00000004" / "COMPLETE"
    listed = json.loads(manifest.read_text())
    del listed["model.safetensors"]
    manifest.write_text(json.dumps(listed))
    with pytest.raises(UserError, match=r"'model.safetensors' is not among the files"):
        open_model(tmp_path)


def test_best_metric_needs_evaluations(home: Path, tmp_path: Path) -> None:
    train = {**TRAIN, "best_metric": {"metric": "heldout_loss"}}
    with pytest.raises(UserError, match=r"set evaluation\.every"):
        recipe(home, tmp_path, "sft", train=train, evaluation={"every": 0})
    wrong = {**TRAIN, "best_metric": {"metric": "heldout_los"}}
    with pytest.raises(UserError, match=r"measured by no hook; use one of: heldout_loss"):
        run_recipe(recipe(home, tmp_path / "run", "sft", train=wrong))
    assert not (tmp_path / "run").exists()


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, made: Any) -> None:
    """Run a recipe up to a step, as if it were killed there."""
    one = Trainer._step

    def stop(self: Trainer) -> None:
        if self.state.step == step:
            raise RuntimeError("killed")
        one(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop)
        with pytest.raises(RuntimeError, match="killed"):
            run_recipe(made)


@pytest.mark.parametrize("name", ["kto", "grpo", "dpo"])
def test_a_resume_wants_the_same_start_and_the_same_data(
    home: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "start"
    shutil.copytree(home / "model", model)
    data = tmp_path / Path(KINDS[name][0]["data"]["path"]).name
    shutil.copy(home / data.name, data)
    made = recipe(home, tmp_path / "run", name)
    raw = made.model_dump(mode="json", exclude_none=True)
    raw |= {"init": str(model), "data": {**raw["data"], "path": str(data)}}
    made = parse_recipe(raw, where=name)
    killed_at(2, monkeypatch, made)

    lines = data.read_text().splitlines()
    data.write_text("\n".join(lines[::-1]))
    with pytest.raises(UserError, match="the checkpoint was made with data"):
        run_recipe(made)
    data.write_text("\n".join(lines))

    other = tiny_chat_model(tiny_tokenizer())
    with torch.no_grad():
        other.embedding.weight.mul_(1.5)
    shutil.rmtree(model)
    save_pretrained(other, model, tokenizer=tiny_tokenizer())
    with pytest.raises(UserError, match="has other weights than when this run began"):
        run_recipe(made)
    shutil.rmtree(model)
    shutil.copytree(home / "model", model)
    assert run_recipe(made)["status"] == "finished"


def test_a_run_named_as_init_is_resolved_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`init: runs/sft` is the checkpoint it was at the start, though that run has gone on since."""
    first = recipe(home, tmp_path / "sft", "sft", evaluation={"every": 0})
    killed_at(2, monkeypatch, first)
    raw = recipe(home, tmp_path / "dpo", "dpo").model_dump(mode="json", exclude_none=True)
    made = parse_recipe({**raw, "init": str(tmp_path / "sft")}, where="dpo")
    killed_at(2, monkeypatch, made)
    record = json.loads((tmp_path / "dpo" / "models.json").read_text())
    assert record[str(tmp_path / "sft")]["path"].endswith("checkpoints/step-00000002")
    assert run_recipe(first)["status"] == "finished"
    assert find_model(tmp_path / "sft").name == "step-00000004"
    assert run_recipe(made)["status"] == "finished"
    again = json.loads((tmp_path / "dpo" / "models.json").read_text())
    assert again == record


def test_held_out_loss_looks_at_every_source_and_everywhere_in_it(home: Path, tmp_path: Path) -> None:  # fmt: skip
    sources = [
        {"path": str(home / "text.jsonl"), "weight": 3},
        {"path": str(home / "other.jsonl"), "weight": 1},
    ]
    raw = recipe(home, tmp_path, "pretrain").model_dump(mode="json", exclude_none=True)
    raw["data"] = {"sources": sources, "heldout_share": 0.5, **ROWS}
    made: Any = parse_recipe(raw, where="mixture")
    run_recipe(made)
    (last,) = evaluations(tmp_path)[-1:]
    text, other = last["heldout_loss/text"], last["heldout_loss/other"]
    assert last["heldout_loss"] == pytest.approx((3 * text + other) / 4)
    setup = Setup(made)
    (hook,) = made.build(setup).hooks
    assert isinstance(hook, LossHook)
    (_, ids, _), (_, others, _) = hook._parts
    assert (len(ids), len(others)) == (6, 2)
    places = [part.shard.ids.tolist() for part, _, _ in hook._parts]
    starts = [str(places[0]).index(str(one)[1:-1]) / len(str(places[0])) for one in ids]
    assert starts == sorted(starts)
    assert starts[-1] > 0.7


def test_epochs_are_steps_of_the_data(home: Path, tmp_path: Path) -> None:
    train = {"epochs": 1.5, "lr": 0.001}
    evaluation = {"every": 0}
    made = recipe(home, tmp_path / "a", "dpo", train=train, evaluation=evaluation)
    assert run_recipe(made)["steps"] == 15  # 40 pairs, 4 a step
    sft = recipe(home, tmp_path / "b", "sft", train=train, evaluation=evaluation)
    trainer = build_trainer(sft, Setup(sft))
    rows = trainer.source.steps_per_epoch * 2  # type: ignore[attr-defined]
    assert trainer.steps == -(-rows * 1.5 // 2)
    with pytest.raises(UserError, match=r"give one of them"):
        recipe(home, tmp_path, "sft", train={"epochs": 1, "steps": 3, "lr": 0.1})
    with pytest.raises(UserError, match=r"give one of them"):
        recipe(home, tmp_path, "sft", train={"lr": 0.1})


def test_long_conversations_are_left_out_or_cut(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    question = {"role": "user", "content": "the fox?"}
    rows = [
        {"messages": [question, {"role": "assistant", "content": " the old tree" * n}]}
        for n in (1, 2, 40)
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    counts = {}
    for how in ("leave_out", "cut"):
        made = recipe(home, tmp_path / how, "sft", evaluation={"every": 0})
        raw = made.model_dump(mode="json", exclude_none=True)
        raw["data"] |= {"path": str(data), "too_long": how}
        run_recipe(parse_recipe(raw, where="r"))
        counts[how] = json.loads((tmp_path / how / "data" / "train.json").read_text())
    assert counts["leave_out"]["num_documents"] == 2
    assert counts["cut"]["num_documents"] == 3
    assert (
        counts["cut"]["num_tokens"] - counts["leave_out"]["num_tokens"] == 65
    )  # a row and its last target


def test_sft_rows_beyond_the_context_are_refused(home: Path, tmp_path: Path) -> None:
    rows = {**ROWS, "row_length": 256, "path": "chats.jsonl"}
    with pytest.raises(UserError, match=r"row_length = 256 is more than .* context_length = 128"):
        run_recipe(recipe(home, tmp_path / "run", "sft", data=rows))
    assert not (tmp_path / "run").exists()


def test_an_adapters_reference_is_the_base_itself(home: Path, tmp_path: Path) -> None:
    """With LoRA no second model is opened, and the run is the one that a copy of the base gives."""
    adapter = {"kind": "lora", "rank": 2}
    method = {**ROLLOUT, "kl_beta": 0.1}
    made = recipe(home, tmp_path / "one", "grpo", adapter=adapter, grpo=method)
    setup = Setup(made)
    opened: list[str] = []
    before = setup._open
    setup._open = lambda name: opened.append(name) or before(name)  # type: ignore[method-assign,func-returns-value]
    trainer = build_trainer(made, setup)
    assert len(opened) == 1
    assert trainer.objective.reference.model is trainer.model  # type: ignore[attr-defined]
    run_recipe(made)

    copied = recipe(home, tmp_path / "two", "grpo", adapter=adapter, grpo=method)
    with pytest.MonkeyPatch.context() as patch:
        from glassbox.tuning.reference import Reference

        patch.setattr(Setup, "reference", lambda self, init: Reference(self.another(init)))
        run_recipe(copied)
    figures = [
        [(one["loss"], one["kl"]) for one in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in one]
        for name in ("one", "two")
    ]  # fmt: skip
    assert figures[0] == figures[1]
    assert figures[0][-1][1] > 0


def test_the_split_hangs_on_prompt_and_seed_alone() -> None:
    prompts = [f"q{n % 50}" for n in range(100)]
    split = split_heldout(prompts, 0.2, 0)
    assert 4 <= len({prompts[n] for n in split.heldout}) <= 18
    assert not {prompts[n] for n in split.heldout} & {prompts[n] for n in split.train}
    backwards = split_heldout(prompts[::-1], 0.2, 0)
    assert {prompts[n] for n in split.heldout} == {prompts[::-1][n] for n in backwards.heldout}
    assert split_heldout(prompts, 0.2, 1) != split
    assert split_heldout(["a", "a"], 0.5, 0) == ([0, 1], [])
    assert len(split_heldout(["a", "b"], 0.001, 0).heldout) == 1
    assert len(split_heldout(["a", "b", "c"], 0.999, 0).train) >= 1


def test_hooks_are_of_the_kind(home: Path, tmp_path: Path) -> None:
    for name, kind in (("dpo", HeldoutHook), ("grpo", GradeHook), ("sft", LossHook)):
        made = recipe(home, tmp_path / name, name)
        (hook,) = made.build(Setup(made)).hooks
        assert isinstance(hook, kind)
    quiet = read_recipe("dpo.yaml", [f"init={home / 'model'}", f"data.path={home / 'pairs.jsonl'}", f"out={tmp_path}"])  # fmt: skip
    assert not quiet.build(Setup(quiet)).hooks


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_held_out_examples_that_do_not_fit_end_no_run(
    home: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one prompt that the split holds out is too long; the others train, and a line says so."""
    questions = [f"the {n} fox?" for n in range(6)]
    split = split_heldout([[{"role": "user", "content": q}] for q in questions], 0.001, 3)
    (held,) = split.heldout
    answers = ["the tree" * (60 if n == held else 1) for n in range(6)]
    pairs = list(zip(questions, answers, strict=True))
    rows: list[dict[str, Any]] = [{"prompt": q, "chosen": a, "rejected": "x"} for q, a in pairs]
    if name == "sft":
        rows = [{"instruction": q, "output": a} for q, a in pairs]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    raw = recipe(home, tmp_path / "run", name).model_dump(mode="json", exclude_none=True)
    raw["data"] |= {"path": str(data), "heldout_share": 0.001}
    raw["data"] |= {"row_length": 64} if name == "sft" else {"max_length": 64}
    assert run_recipe(parse_recipe(raw, where="r"))["status"] == "finished"
    assert "so nothing is evaluated" in capsys.readouterr().err
    assert not evaluations(tmp_path / "run")
