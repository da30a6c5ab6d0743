"""Checkpoints: whole or not there, damaged ones refused by name, a full disk survived."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.seeding import rng_state
from glassbox.formats.checkpoints import checkpoint_step, list_checkpoints, verify_checkpoint
from glassbox.formats.huggingface import load_pretrained
from glassbox.tokenizers import Tokenizer, train_bpe
from glassbox.training import checkpoint
from glassbox.training.checkpoint import load_checkpoint, prune_checkpoints, save_checkpoint
from support.tiny_run import Signal, TinyRun, everything, tiny_model, tiny_trainer

FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training/optimizer.safetensors",
    "training/rng-0000.json",
    "training/rng-0000.safetensors",
    "training/state.json",
]


def tokenizer() -> Tokenizer:
    return train_bpe(["a small text to learn a few merges from"], 280)


def save(folder: Path, step: int, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "model": tiny_model(),
        "tokenizer": None,
        "optimizer_state": {"first.w": torch.arange(3.0)},
        "state": {"source": {"cursor": step}},
        "rng": rng_state(),
        "group": Group(),
        **changes,
    }
    return save_checkpoint(folder, step, given.pop("model"), **given)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("whole"), 7, tokenizer=tokenizer())


def test_it_holds_what_it_says_and_nothing_that_runs_code(whole: Path) -> None:
    found = sorted(p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file())
    assert found == sorted([*FILES, "COMPLETE"])
    assert names(whole.parent) == ["step-00000007"]
    verify_checkpoint(whole)
    model = tiny_model(seed=5)
    state, optimizer_state, rng = load_checkpoint(whole, model, group=Group())
    assert state["source"] == {"cursor": 7}
    assert torch.equal(optimizer_state["first.w"], torch.arange(3.0))
    assert rng is not None
    for mine, saved in zip(model.parameters(), tiny_model().parameters(), strict=True):
        assert torch.equal(mine, saved)
    assert torch.equal(load_pretrained(whole).embedding.weight, tiny_model().embedding.weight)


@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped", "empty"])
@pytest.mark.parametrize("name", [*FILES, "COMPLETE"])
def test_a_damaged_file_is_refused_by_name_and_touches_no_weight(
    whole: Path, tmp_path: Path, name: str, damage: str
) -> None:
    path = tmp_path / whole.name
    shutil.copytree(whole, path)
    file = path / name
    content = file.read_bytes()
    if damage == "deleted":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[:-3])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    model = tiny_model(seed=5)
    flipped_list = name == "COMPLETE" and damage == "flipped"
    with pytest.raises(UserError) as caught:
        load_checkpoint(path, model, group=Group())
    message = str(caught.value)
    assert str(path) in message
    assert flipped_list or name in message
    assert torch.equal(model.embedding.weight, tiny_model(seed=5).embedding.weight)


def test_one_without_complete_is_never_loaded(tmp_path: Path) -> None:
    for step in (3, 20, 100_000_000):
        save(tmp_path, step)
    (tmp_path / "step-00000020" / "COMPLETE").unlink()
    (tmp_path / "notes").mkdir()
    found = list_checkpoints(tmp_path)
    assert [checkpoint_step(path) for path in found] == [3, 100_000_000]
    assert list_checkpoints(tmp_path / "none") == []
    with pytest.raises(UserError, match="no COMPLETE file: it is no finished checkpoint"):
        verify_checkpoint(tmp_path / "step-00000020")


def test_a_complete_one_of_the_same_step_is_left_and_a_half_one_replaced(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    before = (path / "COMPLETE").stat().st_mtime_ns
    assert save(tmp_path, 3, model=tiny_model(seed=1)) == path
    assert (path / "COMPLETE").stat().st_mtime_ns == before
    (path / "COMPLETE").unlink()
    (path / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".writing-step-00000003").mkdir()
    save(tmp_path, 3, model=tiny_model(seed=1))
    assert torch.equal(load_pretrained(path).embedding.weight, tiny_model(seed=1).embedding.weight)


def test_pruning_keeps_the_last_and_the_best_and_clears_what_kills_left(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step)
    (tmp_path / "step-00000002" / "COMPLETE").unlink()
    (tmp_path / ".writing-step-00000009").mkdir()
    (tmp_path / "notes").mkdir()
    prune_checkpoints(tmp_path, keep_last=2, keep_step=3)
    assert names(tmp_path) == ["notes", "step-00000003", "step-00000005", "step-00000006"]
    for path in list_checkpoints(tmp_path):
        verify_checkpoint(path)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_in_rust(*_: object, **__: object) -> None:
    raise safetensors.SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    )


@pytest.mark.parametrize(
    ("where", "name", "failure"),
    [
        (os, "fsync", full_disk),
        (os, "replace", full_disk),
        (checkpoint, "write_json", full_disk),
        (checkpoint, "write_bytes", full_disk),
        (checkpoint, "save_pretrained", full_disk_in_rust),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    failure: Callable[..., None],
) -> None:
    options = TinyRun(steps=8, checkpoint_every=4)
    folder = tmp_path / "run"
    tiny_trainer(folder, options, hooks=[Signal(5)]).run()  # stops with a checkpoint at 5
    with monkeypatch.context() as patch:
        patch.setattr(where, name, failure)
        with pytest.raises(UserError) as caught:
            save(folder / "checkpoints", 6)
    message = str(caught.value)
    assert message.startswith("the disk is full: could not write a checkpoint into")
    assert "the last whole checkpoint is 'step-00000005'" in message
    assert [path.name for path in list_checkpoints(folder / "checkpoints")][-1] == "step-00000005"
    tiny_trainer(folder, options).run()  # with space again it goes on
    assert names(folder / "checkpoints") == ["step-00000005", "step-00000008"]


def test_a_disk_that_fills_while_training_stops_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def fill(descriptor: int) -> None:
        written.append(str(descriptor))
        if len(written) > 25:  # in the middle of the second checkpoint
            full_disk()

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(
        UserError, match=r"the disk is full.*'step-0000000[1-3]'.*run the same command"
    ):
        tiny_trainer(tmp_path, TinyRun(checkpoint_every=1)).run()
    for path in list_checkpoints(tmp_path / "checkpoints"):
        verify_checkpoint(path)
    monkeypatch.undo()
    tiny_trainer(tmp_path, TinyRun(checkpoint_every=1)).run()
    tiny_trainer(tmp_path / "whole", TinyRun(checkpoint_every=1)).run()
    assert everything(tmp_path) == everything(tmp_path / "whole")


def test_another_fault_of_the_disk_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UserError, match=r"Read-only file system; no checkpoint exists yet"):
        save(tmp_path / "checkpoints", 1)


def test_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    with pytest.raises(UserError, match="has schema 1, this version reads 2"):
        load_checkpoint(path, tiny_model(), group=Group())


def test_a_rank_that_was_not_there_gets_no_random_state(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    _, _, rng = load_checkpoint(path, tiny_model(), group=Group(rank=1, world_size=2))
    assert rng is None
