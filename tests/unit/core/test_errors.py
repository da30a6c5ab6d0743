"""Errors of the machine that a user can mend are one line, wherever they come up."""

from __future__ import annotations

import errno
import os

import pytest

from glassbox.cli import main as command_line
from glassbox.core.errors import UserError, explain_system
from glassbox.core.workers import run_tasks


def failing(task: int) -> int:
    if task == 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/part-2")
    return task


def test_a_full_disk_in_a_worker_is_one_line_of_the_users() -> None:
    with pytest.raises(UserError, match=r"^'out/part-2': the disk is full") as caught:
        list(run_tasks(failing, [1, 2, 3], 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, 2, "the disk is full"),
        (errno.EACCES, 2, "choose a place that you may write to"),
        (errno.EIO, 1, "a fault in Glassbox"),
    ],
)
def test_the_command_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    words: str,
) -> None:
    def command(**_: object) -> None:
        raise OSError(number, os.strerror(number), "runs/a")

    monkeypatch.setattr(command_line, "build", lambda: command)
    with pytest.raises(SystemExit) as stopped:
        command_line.main([])
    said = capsys.readouterr().err
    assert stopped.value.code == code
    assert words in said.splitlines()[-1]
    assert ("Traceback" in said) == (code == 1)


def test_what_a_user_cannot_mend_is_not_explained() -> None:
    assert explain_system(OSError(errno.EIO, "Input/output error", "a")) is None
    assert explain_system(PermissionError(errno.EACCES, "Permission denied")) is None


def test_a_name_out_of_a_file_cannot_break_the_line_or_colour_the_terminal() -> None:
    error = UserError("key 'a\nb\x1b[31m\u2028' of 'é.gguf'")
    assert str(error) == r"key 'a\nb\x1b[31m\u2028' of 'é.gguf'"
    assert str(UserError(str(error))) == str(error)
