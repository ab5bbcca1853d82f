"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from evalgpt.engine import Progress
from evalgpt.specs import visible

__all__ = ["Bar", "waiting"]

EVERY_SECONDS = 10.0
"""How often a line appears where there is no terminal."""


class Bar:
    """Call it with the engine's Progress; it shows tokens/s, the time left and the perplexity so far."""

    def __init__(self, title: str, *, quiet: bool, unit: str = "perplexity") -> None:
        self.title = visible(title)
        self.quiet = quiet
        self.unit = unit
        self.began = self.told = time.perf_counter()
        self.bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[figure]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self.bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self.bar.add_task(self.title, total=None, figure="")
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        speed = f"{progress.done / (now - self.began):,.0f}"
        value = math.exp(min(progress.loss, 700.0)) if self.unit == "perplexity" else progress.loss
        figure = f"{self.unit} {value:,.4g}" if self.unit != "perplexity" else f"perplexity {value:,.2f}"
        if self.bar is not None:
            task = self.bar.task_ids[0]
            self.bar.update(task, completed=progress.done, total=progress.total, figure=f"{speed} tokens/s, {figure}")
        elif not self.quiet and now - self.told >= EVERY_SECONDS and progress.done < progress.total:
            self.told = now
            share = 100 * progress.done / progress.total
            line = f"{self.title}: {share:.0f} %, {speed} tokens/s, {figure}"
            print(line, file=sys.stderr, flush=True)


def waiting(message: str, quiet: bool) -> AbstractContextManager[object]:
    """A spinner with ``message`` while a terminal waits; silent elsewhere."""
    console = Console(stderr=True)
    return nullcontext() if quiet or not console.is_terminal else console.status(Text(visible(message)))
