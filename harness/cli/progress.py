"""Progress on standard error: a bar on a terminal, a line now and then elsewhere. rich is loaded when it is shown."""

from __future__ import annotations

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Self

from evalgpt.core.text import visible

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn

    from evalgpt.scoring.engine import Progress

__all__ = ["Bar", "waiting"]


EVERY_SECONDS = 10.0
"""How often a line appears where there is no terminal."""


class Bar:
    """Call it with the engine's Progress; it shows tokens/s, the time left and the perplexity so far."""

    def __init__(self, title: str, *, quiet: bool, unit: str = "perplexity") -> None:
        self.title = visible(title)
        self.quiet = quiet
        self.unit = unit
        self.began = self.printed = time.perf_counter()
        self.bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            console = Console(stderr=True)
            self.bar = RichProgress(*_columns(console.width), console=console, transient=True)
            self.bar.add_task(self.title, total=None, speed="", figure="")
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
            self.bar.update(
                task, completed=progress.done, total=progress.total, speed=f"{speed} tokens/s", figure=figure
            )
        elif not self.quiet and now - self.printed >= EVERY_SECONDS and progress.done < progress.total:
            self.printed = now
            share = 100 * progress.done / progress.total
            line = f"{self.title}: {share:.0f} %, {speed} tokens/s, {figure}"
            print(line, file=sys.stderr, flush=True)


def _columns(width: int) -> list[ProgressColumn]:
    """The columns that fit into ``width`` characters; the figure, and how much is done, always."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    def text(what: str, most: int | None = None) -> TextColumn:
        # Cut without an ellipsis, which not every terminal has.
        return TextColumn(what, markup=False, table_column=Column(no_wrap=True, overflow="crop", max_width=most))

    left = [text("left"), TimeRemainingColumn()]
    if width < 40:
        return [TaskProgressColumn(), text("{task.fields[figure]}", width - 6)]
    columns = [TaskProgressColumn(), text("{task.fields[speed]}"), text("{task.fields[figure]}"), *left]
    if width < 80:
        return [*columns[:1], *columns[1 if width >= 60 else 2 :]]
    if width < 120:
        return [text("{task.description}", width - 60), *columns]
    return [text("{task.description}", width - 90), BarColumn(20), *columns[:-2], TimeElapsedColumn(), *left]


def waiting(message: str, quiet: bool) -> AbstractContextManager[object]:
    """A spinner with ``message`` while a terminal waits; silent elsewhere."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    spinner = "dots" if console.encoding.startswith("utf") else "line"
    if quiet or not console.is_terminal:
        return nullcontext()
    return console.status(Text(visible(message), no_wrap=True, overflow="crop"), spinner=spinner)
