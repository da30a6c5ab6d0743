"""The terminal's view of a run: what it draws, and plain lines where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from glassbox.core.sparkline import braille_plot, sparkline
from glassbox.training.live import TrainingView


def terminal(width: int = 100, height: int = 30) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None
    )


def drawn(view: TrainingView) -> str:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(view.render())
    return console.export_text()


def test_it_draws_curve_heldout_skips_speed_and_time() -> None:
    view = TrainingView("pretrain", 200, console=terminal())
    with view:
        for step in range(1, 101):
            view.update(step, 4 - step / 50, 1234.5, skipped=2)
        view.update(101, float("nan"), 1234.5, skipped=3)
        view.evaluated("heldout_loss", 2.5)
        view.evaluated("heldout_loss", 2.25)
        view.judged(2.25, 100, 1, 3)
        view.mfu = 0.415
        view.alarm("blocks.3: dead units")
        text = drawn(view)
    assert "pretrain" in text
    assert "101 / 200" in text
    assert "eta" in text
    assert "loss 2.0000" in text
    assert "3.980" in text  # the top of the axis
    assert "2.000" in text  # and its bottom
    assert "heldout_loss 2.2500  █▁  best 2.2500 at step 100, 1 of 3 without improvement" in text
    assert "1,234 tokens/s  ·  MFU 41.5%  ·  3 skipped" in text
    assert "! blocks.3: dead units" in text


@pytest.mark.parametrize("size", [(50, 30), (100, 10)])
def test_a_small_terminal_and_none_get_plain_lines(
    size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    for console in (terminal(*size), None):
        with TrainingView("sft", 4, console=console) as view:
            view.update(4, 1.5, 100.0, skipped=0)
            view.say("step 4: heldout_loss 1.4")
        said = capsys.readouterr().err
        assert "sft: 0s  loss 1.5000  100 tokens/s" in said
        assert "step 4: heldout_loss 1.4" in said
        assert "\x1b" not in said


def test_other_ranks_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingView("sft", 4, enabled=False) as view:
        view.update(4, 1.5, 100.0, skipped=0)
        view.say("x")
    assert capsys.readouterr().err == ""


def test_permanent_lines_stand_above_the_view() -> None:
    console = terminal()
    with TrainingView("sft", 4, console=console) as view:
        view.update(1, 1.5, 100.0, skipped=0)
        view.say("step 1 was skipped: x")
    assert "step 1 was skipped: x" in console.file.getvalue()  # type: ignore[attr-defined]


def test_plots_keep_extremes_and_gaps() -> None:
    lines = braille_plot([1.0, float("nan"), None, 3.0], width=2, height=2)
    assert lines[0].startswith("3.000")
    assert lines[1].startswith("1.000")
    assert sum(bin(ord(c) - 0x2800).count("1") for line in lines for c in line[6:]) == 2
    assert braille_plot([float("nan")]) == []
    assert len(sparkline(range(1000))) == 24
    assert len(braille_plot(range(1000), width=30)[0]) == 30 + len("999.000 ") - 0
