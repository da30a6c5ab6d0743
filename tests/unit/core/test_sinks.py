"""Trackers: records as scalars and texts; each written offline for real and read back by its own library."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glassbox.core.config import parse_any
from glassbox.core.errors import UserError
from glassbox.core.metrics import read_metrics
from glassbox.core.sinks import Tracker
from glassbox.core.sinks.base import TrackerSink, split_record
from support.tiny_run import Signal, TinyRun, tiny_trainer

RECORDS: list[dict[str, Any]] = [
    {"step": 1, "loss": 3.5, "lr": 0.1, "seconds": 1.0},
    {"step": 2, "event": "evaluation", "heldout_loss": 3.25, "sample_0": "Once upon"},
    {"step": 2, "event": "telemetry", "residual_rms/blocks.0": 0.75, "noise_scale": 40.0},
    {"step": 3, "loss": 3.0, "lr": float("nan"), "changes": {"a": [1, 2]}},
]


def spec(**keys: Any) -> Any:
    return parse_any(Tracker, keys, where="logging")


def test_a_record_is_scalars_and_texts_by_event() -> None:
    assert split_record(RECORDS[0])[0] == {"train/loss": 3.5, "train/lr": 0.1, "train/seconds": 1.0}
    assert split_record(RECORDS[1]) == (
        {"evaluation/heldout_loss": 3.25},
        {"evaluation/sample_0": "Once upon"},
    )
    assert split_record(RECORDS[2])[0] == {
        "residual_rms/blocks.0": 0.75,
        "telemetry/noise_scale": 40.0,
    }
    assert split_record(RECORDS[3]) == ({"train/loss": 3.0}, {})


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'glassbox-lm\[wandb\]'"):
        spec(kind="wandb").check()
    with pytest.raises(UserError, match="kind"):
        spec(kind="mlflow")


def write(sink: TrackerSink) -> None:
    for record in RECORDS:
        sink.log(record)
    sink.close()
    sink.close()  # nothing more


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    names = reader.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in reader.Scalars(name)] for name in names}


def test_tensorboard_reads_back_what_was_sent(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(spec(kind="tensorboard").build(tmp_path, {"stage": "pretrain"}))
    found = scalars(tmp_path / "tensorboard")
    assert found["train/loss"] == [(1, 3.5), (3, 3.0)]
    assert found["evaluation/heldout_loss"] == [(2, 3.25)]
    assert found["residual_rms/blocks.0"] == [(2, 0.75)]
    assert found["train/lr"] == [(1, pytest.approx(0.1))]
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    texts = {
        tag: reader.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in reader.Tags()["tensors"]
    }
    assert texts["evaluation/sample_0/text_summary"] == "Once upon"
    assert "stage: pretrain" in texts["recipe/text_summary"]


def test_a_killed_run_s_events_are_purged_on_resume(tmp_path: Path) -> None:
    """The event file has what metrics.jsonl has, each step once, although steps were done twice."""
    pytest.importorskip("tensorboard")
    options = TinyRun(steps=9, log_every=1, evaluate_every=0, checkpoint_every=4)

    def train(stop: int | None) -> None:
        sink = spec(kind="tensorboard").build(tmp_path, {})
        trainer = tiny_trainer(tmp_path, options, sinks=[sink])
        if stop is not None:
            trainer.hooks = [Killed(stop)]
        try:
            trainer.run()
        except RuntimeError:
            sink.close()

    train(7)  # after the checkpoint of step 4
    assert scalars(tmp_path / "tensorboard")["train/loss"][-1][0] == 7
    train(None)
    lines = [(r["step"], r["loss"]) for r in read_metrics(tmp_path / "metrics.jsonl")]
    found = scalars(tmp_path / "tensorboard")["train/loss"]
    assert [step for step, _ in found] == list(range(1, 10))
    assert found == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in lines]


class Killed:
    """A hook that ends the run without a checkpoint."""

    every = 1

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, model: Any, step: int) -> dict[str, float | str]:
        if step == self.at:
            raise RuntimeError
        return {}


def test_weights_and_biases_reads_back_its_offline_file(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    code = (
        "import sys, json; from pathlib import Path; sys.path[:0] = json.loads(sys.argv[2]);"
        "from unit_sinks import write, spec;"
        "write(spec(kind='wandb', project='p').build(Path(sys.argv[1]), {'stage': 'pretrain'}))"
    )
    run_apart(code, tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    from wandb.proto import wandb_internal_pb2

    history: dict[int, dict[str, Any]] = {}
    config: dict[str, Any] = {}
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {
                "/".join(i.nested_key) or i.key: json.loads(i.value_json)
                for i in record.history.item
            }
            history[int(record.history.step.num)] = items
        if record.WhichOneof("record_type") == "run":
            assert record.run.project == "p"
            config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
    assert history[1]["train/loss"] == 3.5
    assert history[2]["evaluation/heldout_loss"] == 3.25
    assert history[2]["residual_rms/blocks.0"] == 0.75
    assert history[3]["train/loss"] == 3.0
    assert config["stage"] == "pretrain"


def leveldb_records(content: bytes) -> list[bytes]:
    """The records of a file of W&B: LevelDB's log format after a header of seven bytes."""
    records, whole, at = [], b"", 7
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length = int.from_bytes(content[at + 4 : at + 6], "little")
        kind = content[at + 6]  # 1 full, 2 first, 3 middle, 4 last
        if kind == 0:
            break
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            records.append(whole)
            whole = b""
    return records


def test_trackio_reads_back_its_database(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    code = (
        "import sys, json; from pathlib import Path; sys.path[:0] = json.loads(sys.argv[2]);"
        "from unit_sinks import write, spec;"
        "write(spec(kind='trackio', project='p', name='r').build(Path(sys.argv[1]), {}));"
        "from trackio.sqlite_storage import SQLiteStorage as S;"
        "print('READ', json.dumps(S.get_logs('p', 'r')))"
    )
    said = run_apart(code, tmp_path)
    logs = json.loads(said.split("READ ")[1].splitlines()[0])
    by_step = [(one["step"], one) for one in logs]
    assert [one["train/loss"] for _, one in by_step if "train/loss" in one] == [3.5, 3.0]
    assert [s for s, one in by_step if "evaluation/heldout_loss" in one] == [2]
    assert list((tmp_path / "trackio").glob("*.db"))
    assert sqlite3.sqlite_version


def test_swanlab_reads_back_its_offline_file(tmp_path: Path) -> None:
    pytest.importorskip("swanlab")
    code = (
        "import sys, json; from pathlib import Path; sys.path[:0] = json.loads(sys.argv[2]);"
        "from unit_sinks import write, spec;"
        "write(spec(kind='swanlab', project='p').build(Path(sys.argv[1]), {'stage': 'pretrain'}))"
    )
    code += (
        ";from swanlab.sdk.internal.core_python.store import DataStoreReader;"
        "from swanlab.proto.swanlab.record.v1.record_pb2 import Record;"
        "reader = DataStoreReader();"
        "reader.open(next(Path(sys.argv[1]).glob('swanlab/run-*/*.swanlab')));"
        "records = [Record.FromString(one) for one in reader];"
        "found = [(r.scalar.key, r.scalar.step, r.scalar.value.number) for r in records "
        "if r.WhichOneof('record_type') == 'scalar'];"
        "print('READ', json.dumps(found))"
    )
    said = run_apart(code, tmp_path)
    found = json.loads(said.split("READ ")[1].splitlines()[0])
    assert [one[1:] for one in found if one[0] == "train/loss"] == [[1, 3.5], [3, 3.0]]
    assert ["evaluation/heldout_loss", 2, 3.25] in found
    assert ["residual_rms/blocks.0", 2, 0.75] in found


def run_apart(code: str, folder: Path) -> str:
    """A client in a process of its own: they change the environment and start threads."""
    here = Path(__file__)
    copy = folder / "unit_sinks.py"
    copy.write_text(here.read_text(encoding="utf-8"), encoding="utf-8")
    paths = [str(folder), *sys.path, str(here.parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), json.dumps(paths)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder), "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert Signal  # the tiny run's support is importable there too
    return done.stdout
