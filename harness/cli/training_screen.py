"""What ``evalgpt train`` shows: the losses while it trains, and the summary at the end."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from evalgpt.core import Model, Reloads
from evalgpt.core.text import visible
from evalgpt.studies.training.log import BEST, LAST, LOG, Training
from evalgpt.views.terminal.console import console_for, say
from evalgpt.views.terminal.curve import curve

__all__ = ["Screen", "print_summary"]


HEIGHT = 12
"""Lines of the curve."""

SHOWN = 3
"""How many memorised spans are printed."""


class Screen:
    """The losses during training: a live curve on a terminal, a line for each evaluation elsewhere.

    Ctrl-C asks for a stop after the update that is being made; a second one stops at once.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.console = console_for()
        self.live: Live | None = None
        self.asked = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if not self.quiet and self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False)
            self.live.start()
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.live is not None:
            self.live.stop()

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if not self.quiet:
            click.echo("stopping after this update; press Ctrl-C again to stop at once", err=True)

    def stopping(self) -> bool:
        return self.asked

    def updated(self, log: Training) -> None:
        if self.live is not None:
            self.live.update(self._picture(log), refresh=True)

    def evaluated(self, log: Training) -> None:
        if self.quiet:
            return
        last = log.evaluations[-1]
        line = (
            f"epoch {last.epoch}, update {last.updates}: train loss {last.train_loss:.3f}, "
            f"validation loss {last.validation_loss:.3f}"
        )
        if last.course_train_loss is not None and last.course_validation_loss is not None:
            line += (
                f" (the course's, over {log.settings.eval_iter} batches: {last.course_train_loss:.3f}, "
                f"{last.course_validation_loss:.3f})"
            )
        self._say(log, line)

    def sampled(self, log: Training) -> None:
        if not self.quiet:
            self._say(log, "  " + " ".join(log.samples[-1].text.splitlines()))

    def _say(self, log: Training, line: str) -> None:
        say(self.console, line)
        self.console.file.flush()
        self.updated(log)

    def _picture(self, log: Training) -> Group:
        updates = log.updates
        train = [(e.updates, e.train_loss) for e in log.evaluations]
        validation = [(e.updates, e.validation_loss) for e in log.evaluations]
        width = min(self.console.width, 100)
        marks = [("·", list(enumerate(updates.loss))), ("●", train), ("○", validation)]
        lines = curve(marks, log.total_updates, width, HEIGHT) if width >= 30 else []
        done = len(updates.loss)
        state = f"{done} of {log.total_updates} updates"
        if done:
            left = updates.seconds[-1] / done * (log.total_updates - done)
            state += f", loss {updates.loss[-1]:.3f}, learning rate {updates.learning_rate[-1]:.2g}, {left:.0f} s left"
        if lines:
            state += "   ● train  ○ validation  · batch"
        return Group(*(Text(line, no_wrap=True, overflow="crop") for line in (*lines, state)))


def print_summary(log: Training, folder: Path, model: Model) -> None:
    console = console_for()
    first, last, best = log.evaluations[0], log.evaluations[-1], log.best
    say(
        console,
        f"{last.updates} updates on {last.tokens_seen} tokens in {last.seconds:.0f} s: train loss "
        f"{first.train_loss:.4f} to {last.train_loss:.4f}, validation loss {first.validation_loss:.4f} to "
        f"{last.validation_loss:.4f}",
    )
    if best is not None:
        say(console, f"lowest validation loss {best.validation_loss:.4f}, after {best.updates} updates")
    if log.memorised is not None:
        _print_memorised(log)
    if isinstance(model, Reloads):
        how = "".join(f" --{key} {log.protocol.settings[key]}" for key in ("context", "stride"))
        built = f"-m {model.weights_spec(str(folder / BEST))} -t {log.settings.task} -p {log.protocol.name}{how}"
        say(console, f"evaluate it: evalgpt run {built}")
    click.echo(f"Training: {visible(str(folder))}/ ({BEST}, {LAST}, {LOG})", err=True)


def _print_memorised(log: Training) -> None:
    console, memorised = console_for(), log.memorised
    assert memorised is not None
    shares = ", ".join(f"{share:.1%} of the {split} part" for split, share in memorised.share.items())
    say(console, f"predicted with a probability above {memorised.probability:g}: {shares}")
    for split, spans in memorised.spans.items():
        for span in spans[:SHOWN] if split == "train" else spans[:1]:
            text = " ".join(span.text.split())
            say(console, f"{span.tokens} token{'s' * (span.tokens != 1)} of {split}: {text}", indent=2)
