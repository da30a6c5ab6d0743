"""`glassbox convert` killed, on a full disk, and run again: the job is finished and nothing is left over."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch

from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.core.files import _hold, atomic_folder, clear_leftovers
from glassbox.formats import tensor_files
from glassbox.formats.convert import convert, load_model
from glassbox.formats.huggingface import save_pretrained, write_folder
from glassbox.models.causal_lm import CausalLM
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

# The process kills itself at the n-th of the calls by which files come into being.
KILLED = """
import os, signal, sys
from pathlib import Path
import glassbox.cli.main as program
left = int(sys.argv.pop(1))
def counted(call):
    def step(*arguments, **words):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **words)
    return step
os.fsync, os.replace, Path.mkdir = counted(os.fsync), counted(os.replace), counted(Path.mkdir)
Path.replace = counted(Path.replace)
program.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), folder, tokenizer=tokenizer)
    return folder


def same_weights(one: CausalLM, two: CausalLM) -> bool:
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "moments"), [("out", (1, 3, 5, 9, 14, 15)), ("m.gguf", (1, 2))], ids=["hf", "gguf"]
)
def test_killed_at_several_moments_and_run_again(
    source: Path, tmp_path: Path, name: str, moments: tuple[int, ...]
) -> None:
    """After each kill the destination is missing or whole, and once run again nothing else is there."""
    left_something = False
    for moment in moments:
        home = tmp_path / str(moment)
        home.mkdir()
        target = home / name
        words = [sys.executable, "-c", KILLED, str(moment), "convert", str(source), str(target)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == -9, (moment, done.stderr)
        left_something |= any(home.iterdir())
        if not target.exists():
            convert(source, target)
        assert [path.name for path in home.iterdir()] == [name], moment
        assert same_weights(load_model(target).model, load_model(source).model)
    assert left_something


def test_what_earlier_versions_left_is_cleared(source: Path, tmp_path: Path) -> None:
    """A folder with nothing but a temporary file is no model of anybody's."""
    target = tmp_path / "out"
    target.mkdir()
    (target / ".model.safetensors.tmp").write_bytes(bytes(100))
    (target / ".config.json.0123abcd.tmp").write_bytes(b"{")
    (tmp_path / ".m.gguf.0123abcd.tmp").write_bytes(bytes(100))
    convert(source, target)
    convert(source, tmp_path / "m.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "out"]
    assert not [path for path in target.iterdir() if path.name.startswith(".")]


def test_what_is_not_ours_or_is_being_written_stays(source: Path, tmp_path: Path) -> None:
    for name in (".m.gguf.tmp", ".other.gguf.0123abcd.tmp", ".m.gguf.0123abcz.tmp"):
        (tmp_path / name).write_bytes(b"x")
    busy = tmp_path / ".m.gguf.00000000.tmp"
    busy.write_bytes(b"x")
    held = _hold(busy)
    assert held is not None
    clear_leftovers(tmp_path / "m.gguf")
    assert len(list(tmp_path.iterdir())) == 4
    os.close(held)
    clear_leftovers(tmp_path / "m.gguf")
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        convert(source, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_folder_whose_place_cannot_be_replaced(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point, say: its files are moved in one by one, config.json last."""
    moved: list[str] = []
    ordinary = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.is_dir():
            raise OSError(errno.EBUSY, "Device or resource busy")
        moved.append(self.name)
        return ordinary(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    (tmp_path / "out").mkdir()
    convert(source, tmp_path / "out")
    assert moved[-1] == "config.json"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert same_weights(load_model(tmp_path / "out").model, load_model(source).model)


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    to: str,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if to == "hf":
        monkeypatch.setattr(tensor_files.safetensors.torch, "save_file", full)
    else:
        monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SystemExit) as done:
        main(["convert", str(source), str(tmp_path / "out.x1"), "--to", to])
    assert done.value.code == 2
    said = capsys.readouterr().err
    assert "the disk is full (No space left on device)" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out", "m.gguf"])
def test_a_file_larger_than_may_be_is_one_line(source: Path, tmp_path: Path, name: str) -> None:
    """For real: the kernel refuses to write more than 10 kB."""
    done = subprocess.run(
        [sys.executable, "-m", "glassbox", "convert", str(source), str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_writing_a_folder_twice_is_refused(source: Path, tmp_path: Path) -> None:
    model = load_model(source).model
    write_folder(model, tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        write_folder(model, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    write_folder(model, tmp_path / "out")
