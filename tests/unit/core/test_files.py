"""Files, run folders, metrics, seeds and signals: what a crash, a full disk or a second process may do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glassbox.core.config import Spec
from glassbox.core.devices import autocast, peak_memory_bytes, resolve_device
from glassbox.core.distributed import Group, process_group
from glassbox.core.environment import describe_environment
from glassbox.core.errors import UserError
from glassbox.core.files import (
    atomic_writer,
    checksum,
    remove_leftovers,
    write_json,
    write_text,
)
from glassbox.core.files import (
    write_json as save_json,
)
from glassbox.core.interrupts import Interrupts
from glassbox.core.metrics import JsonlSink, read_metrics, truncate_metrics
from glassbox.core.progress import ProgressLine, format_seconds
from glassbox.core.runs import RunFolder, first_difference
from glassbox.core.seeding import derive_seed, preserved_rng, seed_everything


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestAtomicFiles:
    def test_an_error_while_writing_leaves_the_old_content_and_nothing_else(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.json"
        write_text(path, "old")

        def write_half() -> None:
            with atomic_writer(path) as stream:
                stream.write(b"half of the n")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write_half()
        assert path.read_text() == "old"
        assert names(tmp_path) == ["a.json"]

    @pytest.mark.parametrize("fails", ["fsync", "replace"])
    def test_a_full_disk_leaves_the_old_content_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
    ) -> None:
        path = tmp_path / "a.json"
        write_text(path, "old")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, fails, full)
        with pytest.raises(OSError, match="No space"):
            write_text(path, "new")
        assert path.read_text() == "old"
        assert names(tmp_path) == ["a.json"]

    def test_a_kill_before_the_rename_leaves_the_old_content(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        write_text(path, "old")
        code = (
            "import os, signal, sys\n"
            "from glassbox.core import files\n"
            "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "files.write_text(sys.argv[1], 'new')\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert path.read_text() == "old"
        leftover = [name for name in names(tmp_path) if name != "a.json"]
        assert len(leftover) == 1
        (tmp_path / ".mine.tmp").write_text("a user's own")
        remove_leftovers(tmp_path)
        assert names(tmp_path) == [".mine.tmp", "a.json"]

    def test_permissions_are_the_umask_s(self, tmp_path: Path) -> None:
        old = os.umask(0o027)
        try:
            write_text(tmp_path / "a", "x")
        finally:
            os.umask(old)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640

    def test_of_two_writers_one_wins_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        contents = [letter * 200_000 for letter in "abcd"]
        seen = set()

        def write(content: str) -> None:
            for _ in range(10):
                write_text(path, content)

        threads = [threading.Thread(target=write, args=(content,)) for content in contents]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if path.exists():
                seen.add(path.read_text())
        for thread in threads:
            thread.join()
        assert seen <= set(contents)
        assert names(tmp_path) == ["a"]

    def test_folders_are_made_and_json_is_readable(self, tmp_path: Path) -> None:
        write_json(tmp_path / "new" / "a.json", {"ключ": [1, None]})
        assert (tmp_path / "new" / "a.json").read_text("utf-8").count("ключ") == 1

    def test_the_checksum_is_size_and_blake2b(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"abc")
        expected = hashlib.blake2b(b"abc", digest_size=16).hexdigest()
        assert checksum(tmp_path / "a") == f"3-{expected}"


class RunRecipe(Spec):
    lr: float = 1e-3
    name: str = "x"
    sizes: tuple[int, ...] = (1, 2)


HOLD = """
import sys, time
from glassbox.core.runs import RunFolder
with RunFolder(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


class TestRunFolder:
    def test_a_second_process_is_refused_and_a_killed_one_s_lock_is_gone(
        self, tmp_path: Path
    ) -> None:
        folder = tmp_path / "run"
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            with (
                pytest.raises(UserError, match=r"another process is working in .*run"),
                RunFolder(folder),
            ):
                pass
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()
        with RunFolder(folder):
            pass

    def test_another_recipe_is_refused_by_the_first_key_that_differs(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path / "run") as run:
            run.begin(RunRecipe())
            recorded = run.environment.read_text()
            run.begin(RunRecipe())  # the same: goes on
            save_json(run.checkpoints / "step-00000001" / "COMPLETE", {})
            with pytest.raises(UserError, match=r"another recipe \(lr: 0.001 -> 0.002\)"):
                run.begin(RunRecipe(lr=2e-3, name="y"))
            with pytest.raises(UserError, match=r"sizes: \[1, 2\] -> \[1\]"):
                run.begin(RunRecipe(sizes=(1,)))
            assert run.environment.read_text() == recorded
        assert json.loads(recorded)["packages"]["torch"] == torch.__version__

    def test_a_comment_in_the_recorded_recipe_changes_nothing(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path) as run:
            run.begin(RunRecipe())
            run.recipe.write_text("# mine\n" + run.recipe.read_text())
            run.begin(RunRecipe())

    def test_what_a_kill_left_is_cleared_by_the_next_run(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        leftover = tmp_path / "data" / ".train.bin.0123abcd.tmp"
        leftover.write_text("half")
        with RunFolder(tmp_path):
            assert not leftover.exists()

    def test_done_is_none_then_the_summary_then_refused_where_damaged(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path) as run:
            assert run.summary is None
            run.finish({"steps": 3})
            assert run.summary == {"steps": 3}
            for damage in ("{", "[]", "\x00"):
                run.done.write_text(damage)
                with pytest.raises(UserError, match=r"DONE.json' is damaged"):
                    _ = run.summary

    def test_a_file_in_the_way_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(UserError, match="file"), RunFolder(path):
                pass

    def test_the_first_difference_goes_deep(self) -> None:
        assert first_difference({"a": {"b": 1}}, {"a": {}}) == "a.b: 1 -> null"
        assert first_difference({}, {"new": 2}) == "new: null -> 2"


class TestMetrics:
    @given(st.lists(st.text(), max_size=5))
    def test_any_text_survives_line_by_line(self, texts: list[str]) -> None:
        import tempfile

        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.jsonl"
            sink = JsonlSink(path)
            for step, text in enumerate([*texts, "a\u2028b\x85c\x0bd"]):
                sink.log({"step": step, "text": text})
            sink.close()
            whole = path.read_bytes()
            records = read_metrics(path)
            assert [r["text"] for r in records] == [*texts, "a\u2028b\x85c\x0bd"]
            truncate_metrics(path, len(texts))
            assert path.read_bytes() == whole

    def test_a_half_written_line_is_left_out_and_a_damaged_one_named(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
        assert [r["step"] for r in read_metrics(path)] == [1, 2]
        truncate_metrics(path, 1)
        assert path.read_bytes() == b'{"step": 1}\n'
        path.write_bytes(b'{"step": 1}\ngarbage\n{"step": 3}\n')
        with pytest.raises(UserError, match="line 2 is damaged"):
            read_metrics(path)
        assert read_metrics(tmp_path / "none") == []

    def test_what_json_lacks_becomes_null_at_any_depth(self, tmp_path: Path) -> None:
        sink = JsonlSink(tmp_path / "m")
        sink.log({"a": math.nan, "b": {"c": [math.inf, 1.5, (-math.inf,)]}, "d": 0.1})
        sink.close()
        assert read_metrics(tmp_path / "m") == [
            {"a": None, "b": {"c": [None, 1.5, [None]]}, "d": 0.1}
        ]

    def test_a_full_disk_is_told_as_such(self, tmp_path: Path) -> None:
        class FullDisk(io.BytesIO):
            def flush(self) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

        sink = JsonlSink(tmp_path / "m")
        sink._stream.close()
        sink._stream = FullDisk()  # type: ignore[assignment]
        with pytest.raises(UserError, match=r"m': No space left on device; mend that"):
            sink.log({"a": 1})
        sink.close()


class TestSeeding:
    def test_seeds_depend_on_every_part_and_never_on_the_process(self) -> None:
        assert derive_seed(0, "rows", 1) == 7991010665385047434
        assert len({derive_seed(s, n, e) for s in range(3) for n in "ab" for e in range(3)}) == 18
        assert all(0 <= derive_seed(i) < 2**63 for i in range(100))

    def test_every_generator_is_put_back(self) -> None:
        def draw() -> tuple[Any, ...]:
            return (
                random.random(),
                random.gauss(0, 1),
                np.random.rand(),  # noqa: NPY002
                np.random.standard_normal(),  # noqa: NPY002
                float(torch.rand(())),
                float(torch.randn(3)[0]),
            )

        seed_everything(3)
        random.gauss(0, 1)  # each leaves a second draw stored
        np.random.standard_normal()  # noqa: NPY002
        with preserved_rng():
            first = draw()
        assert draw() == first
        assert draw() != first
        seed_everything(3)
        again = draw()
        seed_everything(3)
        assert draw() == again


class TestInterrupts:
    def test_the_first_signal_is_a_request_and_a_later_second_stops(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with Interrupts().watching() as interrupts:
            assert not interrupts.requested
            signal.raise_signal(signal.SIGTERM)
            assert interrupts.requested
            try:
                signal.raise_signal(signal.SIGINT)  # torchrun's echo of the same wish
            except KeyboardInterrupt:
                pytest.fail("an echo is no second wish")
            interrupts._first_at -= 2
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is before

    def test_another_thread_listens_to_nothing(self) -> None:
        seen = []

        def watch() -> None:
            with Interrupts().watching() as interrupts:
                seen.append(interrupts.requested)

        thread = threading.Thread(target=watch)
        thread.start()
        thread.join()
        assert seen == [False]


class TestDevices:
    def test_a_device_that_is_not_there_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="'cuda' is not available"):
            resolve_device("cuda")
        with pytest.raises(UserError, match="use auto, cpu, cuda or mps"):
            resolve_device("gpu")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert resolve_device("auto", local_rank=1) == torch.device("cuda", 1)

    def test_autocast_changes_products_and_only_where_asked(self) -> None:
        x = torch.randn(2, 2)
        for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            with autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
                assert (x @ x).dtype == dtype

    def test_peak_memory_grows_with_what_is_allocated(self) -> None:
        before = peak_memory_bytes(torch.device("cpu"))
        block = torch.ones(before // 4 + (64 << 20), dtype=torch.float32)
        assert peak_memory_bytes(torch.device("cpu")) >= before + (64 << 20)
        del block

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps no such figure")
    def test_peak_memory_is_not_that_of_the_process_that_started_this_one(self) -> None:
        held = torch.ones(1 << 27)  # half a gibibyte, which getrusage of a child would show
        code = "import torch; from glassbox.core.devices import peak_memory_bytes as peak; "
        code += "print(peak(torch.device('cpu')))"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert 0 < int(said.stdout) < held.nbytes


class TestGroup:
    def test_alone_is_a_group_of_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RANK", raising=False)
        monkeypatch.setenv("WORLD_SIZE", "4")  # a cluster's variable, without torchrun
        with process_group() as group:
            assert group == Group()
            tensor = torch.ones(2)
            assert group.sum_(tensor) is tensor
            group.sum_gradients_([tensor])
            group.barrier()
            assert group.any(True)
            assert not group.any(False)
        monkeypatch.setenv("RANK", "zero")
        with pytest.raises(UserError, match="start ranks with torchrun"), process_group():
            pass


class TestProgress:
    def test_lines_come_now_and_then_and_start_where_a_resumed_run_does(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        with ProgressLine("train", 100, start=50) as line:
            for step in range(51, 61):
                clock[0] += 1.0
                line.update(step, "loss 1")
        assert capsys.readouterr().err == (
            "  train:  55%  eta 45s  loss 1\n  train:  60%  eta 40s  loss 1\n"
        )
        with ProgressLine("quiet", 10, enabled=False) as line:
            clock[0] += 100
            line.update(5)
            line.say("nothing")
        assert capsys.readouterr().err == ""

    def test_short_work_leaves_a_line_and_what_is_said_stays(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        with ProgressLine("train", 10) as line:
            clock[0] += 2.0
            line.update(10, "loss 0.5")
            line.say("step 10: heldout_loss 0.7")
        assert capsys.readouterr().err == "  step 10: heldout_loss 0.7\n  train: 2s  loss 0.5\n"

        def fail() -> None:
            with ProgressLine("train", 10) as line:
                line.update(1, "loss 0.5")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(("term", "columns"), [("dumb", 80), ("xterm", 60), ("xterm", 120)])
    def test_every_terminal_shows_something(self, term: str, columns: int) -> None:
        """On a pseudo-terminal: plain lines where it is dumb, else a bar, on a narrow one too."""
        program = (
            "from glassbox.core.progress import ProgressLine\n"
            "with ProgressLine('pretrain', 10) as line:\n"
            "    line.update(5, 'loss 2.3456  12,345 tokens/s')\n"
            "    line._live and line._live.refresh()\n"
        )
        import pty

        main, other = pty.openpty()
        environment = {**os.environ, "TERM": term, "COLUMNS": str(columns), "NO_COLOR": "1"}
        done = subprocess.Popen([sys.executable, "-c", program], stderr=other, env=environment)
        assert done.wait(60) == 0
        os.close(other)
        shown = b""
        with contextlib.suppress(OSError):
            while part := os.read(main, 4096):
                shown += part
        os.close(main)
        text = shown.decode()
        assert "loss 2.3456" in text
        if term != "dumb":
            assert "50%" in text
            assert "━" in text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.2, "0s"), (59.6, "1m00s"), (3600, "1h00m"), (math.nan, "?"), (math.inf, "?")],
    )
    def test_seconds_as_people_read_them(self, seconds: float, text: str) -> None:
        assert format_seconds(seconds) == text


def test_the_environment_names_what_numbers_depend_on() -> None:
    facts = describe_environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["threads"] == torch.get_num_threads()
    assert facts["processor"]
    assert {"torch", "numpy", "safetensors"} <= facts["packages"].keys()
