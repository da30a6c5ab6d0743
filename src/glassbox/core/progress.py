"""Progress on standard error: a live line on a terminal, periodic lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_LINE_SECONDS = 5.0
WIDE_COLUMNS = 90
"""A narrower terminal gets a shorter bar and only one time."""


class ProgressLine:
    """Progress line with a bar, the speed and the estimated time left.

    Work that is over before the first plain line is due leaves one at its end, with the last note.

    Use as a context manager and call `update(done, note)`; `done` is absolute, so a resumed run
    starts where it left off. A `total` that nobody knows is infinite. `enabled=False` (ranks other than the first) shows nothing.
    """

    def __init__(self, label: str, total: float, *, start: float = 0, enabled: bool = True) -> None:
        self.label = label
        self.total = total
        self.enabled = enabled
        self.start = start
        self._began = time.monotonic()
        self._printed = self._began
        self._note = ""
        self._live: Progress | None = None

    def __enter__(self) -> ProgressLine:
        self._began = self._printed = time.monotonic()
        console = Console(stderr=True)
        if self.enabled and sys.stderr.isatty() and not console.is_dumb_terminal:
            wide = console.width >= WIDE_COLUMNS
            times = [TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn()]
            self._live = Progress(
                TextColumn("  {task.description:<22}" if wide else "{task.description}"),
                BarColumn(bar_width=24 if wide else 10),
                TextColumn("{task.percentage:>3.0f}%"),
                *(times if wide else times[-1:]),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._live.start()
            self._task = self._live.add_task(
                self.label,
                total=self.total if math.isfinite(self.total) else None,
                completed=int(self.start),
                note="",
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self.enabled and self._note and error is None and self._printed == self._began:
            seconds = format_seconds(time.monotonic() - self._began)
            print(f"  {self.label}: {seconds}  {self._note}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a permanent line above the live one."""
        if not self.enabled:
            return
        if self._live is not None:
            self._live.console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)
        else:
            print(f"  {text}", file=sys.stderr, flush=True)

    def update(self, done: float, note: str = "") -> None:
        """Show that `done` of `total` is complete."""
        if not self.enabled:
            return
        self._note = note
        if self._live is not None:
            self._live.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._printed < PLAIN_LINE_SECONDS:
            return
        self._printed = now
        if not math.isfinite(self.total):
            print(f"  {self.label}: {note}", file=sys.stderr, flush=True)
            return
        fresh = done - self.start
        eta = (now - self._began) / fresh * (self.total - done) if fresh > 0 else float("inf")
        share = 100 * done / self.total if self.total else 100
        print(
            f"  {self.label}: {share:3.0f}%  eta {format_seconds(eta)}  {note}",
            file=sys.stderr,
            flush=True,
        )


def format_seconds(seconds: float) -> str:
    """Format a duration in seconds for display.

    >>> format_seconds(75), format_seconds(3.2), format_seconds(float("inf"))
    ('1m15s', '3s', '?')
    """
    if seconds != seconds or seconds == float("inf"):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"
