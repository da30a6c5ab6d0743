"""What a terminal shows of a run while it trains; where there is no terminal, plain lines."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from glassbox.core.progress import ProgressLine, format_seconds
from glassbox.core.sparkline import braille_plot, sparkline

SMALLEST = (60, 16)
"""Columns and lines that the view needs; a smaller terminal gets the progress line."""
KEPT_ALARMS = 3


class TrainingView:
    """The loss as a curve, held-out loss, skipped steps, early stopping, speed and time left.

    On a terminal it is drawn in place, at most four times a second; elsewhere, and on a dumb or small
    terminal, it is the lines of `ProgressLine`. `enabled=False` shows nothing (other ranks).
    """

    def __init__(
        self,
        label: str,
        steps: int,
        *,
        start: int = 0,
        enabled: bool = True,
        console: Console | None = None,
    ) -> None:
        self.label = label
        self.steps = steps
        self.start = self.step = start
        self.losses: list[float] = []
        self.heldout: list[float] = []
        self.heldout_name = ""
        self.skipped = 0
        self.best = ""
        self.tokens_per_second = 0.0
        self.mfu: float | None = None
        self.alarms: deque[str] = deque(maxlen=KEPT_ALARMS)
        self._began = time.monotonic()
        self._console = console or Console(stderr=True)
        fits = self._console.width >= SMALLEST[0] and self._console.height >= SMALLEST[1]
        terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._plain: ProgressLine | None = None
        self._live: Live | None = None
        if enabled and terminal and fits and (console is not None or sys.stderr.isatty()):
            self._live = Live(
                get_renderable=self.render,
                console=self._console,
                refresh_per_second=4,
                transient=True,
            )
        else:
            self._plain = ProgressLine(label, steps, start=start, enabled=enabled)

    def __enter__(self) -> TrainingView:
        self._began = time.monotonic()
        if self._live is not None:
            self._live.start()
        elif self._plain is not None:
            self._plain.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._plain is not None:
            self._plain.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Print a permanent line."""
        if self._live is not None:
            self._console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)
        elif self._plain is not None:
            self._plain.say(text)

    def update(self, step: int, loss: float, tokens_per_second: float, *, skipped: int) -> None:
        """A step was taken, or skipped."""
        self.step, self.tokens_per_second, self.skipped = step, tokens_per_second, skipped
        if math.isfinite(loss):
            self.losses.append(loss)
        if self._plain is not None:
            self._plain.update(step, f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s")

    def evaluated(self, name: str, value: float) -> None:
        """A held-out figure."""
        self.heldout_name = name
        self.heldout.append(value)

    def judged(
        self, best: float | None, step: int | None, stale: int, patience: int | None
    ) -> None:
        """What the best checkpoint is, and how many evaluations were no better since."""
        self.best = f"best {best:.4f} at step {step:,}" if best is not None and step else ""
        if patience is not None and self.best:
            self.best += f", {stale} of {patience} without improvement"

    def alarm(self, text: str) -> None:
        """An alarm was raised."""
        self.alarms.append(text)

    def render(self) -> Group:
        """What is drawn now."""
        width = self._console.width
        seconds = time.monotonic() - self._began
        fresh = self.step - self.start
        left = seconds / fresh * (self.steps - self.step) if fresh > 0 else math.inf
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True)
        head.add_row(
            Text(self.label, style="bold"),
            ProgressBar(total=self.steps, completed=self.step),
            Text(
                f"{self.step:,} / {self.steps:,}  {format_seconds(seconds)}  "
                f"eta {format_seconds(left)}"
            ),
        )
        parts: list[Text | Table] = [head]
        if self.losses:
            parts.append(Text(f"loss {self.losses[-1]:.4f}", style="bold"))
            plot = braille_plot(self.losses, width=min(width - 12, 100))
            parts += [Text(line, style="cyan", no_wrap=True) for line in plot]
        if self.heldout:
            line = f"{self.heldout_name} {self.heldout[-1]:.4f}  {sparkline(self.heldout)}"
            parts.append(Text("  ".join(filter(None, (line, self.best)))))
        figures = [f"{self.tokens_per_second:,.0f} tokens/s", f"{self.skipped} skipped"]
        if self.mfu is not None:
            figures.insert(1, f"MFU {100 * self.mfu:.1f}%")
        parts.append(Text("  ·  ".join(figures)))
        parts += [Text(f"! {text}", style="yellow") for text in self.alarms]
        return Group(*parts)
