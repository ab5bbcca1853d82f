"""The command ``evalgpt train``: it parses; the rest is evalgpt.cli.commands.train's, imported when it is called."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import click
import msgspec
from rich.console import Group
from rich.live import Live
from rich.text import Text

from evalgpt.cli.options import Share, common
from evalgpt.cli.progress import waiting
from evalgpt.cli.shell import overwriting, state_of, targets_of
from evalgpt.core import Model, Reloads, Task, UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.core.protocol import Protocol
from evalgpt.core.text import printable, visible
from evalgpt.report.environment import software
from evalgpt.report.files import TEMPORARY, remove_leftovers
from evalgpt.report.targets import Targets, document_kind
from evalgpt.scoring.engine import bind
from evalgpt.studies.training.log import BEST, LAST, LOG, Settings, Training, read_training
from evalgpt.studies.training.loop import begin, resume, train
from evalgpt.views.terminal.console import console_for, say
from evalgpt.views.terminal.curve import curve

__all__ = ["begin_run", "command", "resume_run"]


COUNT = click.IntRange(min=1)

PROTOCOL = "book"
"""The course's: what it trains on, and how it evaluates that."""

POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command("train")
@click.option("-m", "--model", metavar="SPEC", help="The model to train; see 'models'.")
@click.option("-t", "--task", metavar="SPEC", help="The text to train on; see 'tasks'.")
@click.option("-o", "--output", metavar="FOLDER", help="Where checkpoints and the log go.")
@click.option("--resume", metavar="FOLDER", help="Go on with a run that was stopped, to the same weights.")
@click.option("--epochs", type=COUNT, help="Passes over the training windows.  [default: 10]")
@click.option("--steps", type=COUNT, help="Updates, instead of epochs.")
@click.option("--batch", type=COUNT, help="Windows in a batch.  [default: 2]")
@click.option("--accumulate", type=COUNT, help="Batches in an update.  [default: 1]")
@click.option("--learning-rate", "--lr", type=POSITIVE, help="Of AdamW.  [default: 0.0004]")
@click.option("--warmup", type=click.IntRange(min=0), help="Updates until it is reached.  [default: 0]")
@click.option("--decay", type=click.Choice(["none", "cosine"]), help="How it falls after that.  [default: none]")
@click.option("--min-learning-rate", type=click.FloatRange(min=0), help="Where the cosine ends.  [default: 0]")
@click.option("--weight-decay", type=click.FloatRange(min=0), help="Of AdamW, on every weight.  [default: 0.1]")
@click.option("--clip", type=POSITIVE, help="The largest norm of the gradient.  [default: any]")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Of shuffling and dropout.  [default: the model's goes on]"
)
@click.option("--context", type=COUNT, metavar="TOKENS", help="Tokens in a window.  [default: 256]")
@click.option("--stride", type=COUNT, metavar="TOKENS", help="Tokens between windows.  [default: the context]")
@click.option("--eval-every", type=COUNT, help="Updates between evaluations.  [default: 5]")
@click.option("--eval-iter", type=COUNT, help="Also the course's partial losses, over so many batches.")
@click.option("--save-every", type=COUNT, help="Updates between checkpoints.  [default: after each epoch]")
@click.option("--sample", metavar="TEXT", help="What the text written after each epoch begins with; '' for none.")
@click.option("--sample-tokens", type=COUNT, help="Its length.  [default: 50]")
@click.option("--memorised", type=Share(), help="From which probability a token is known by heart.  [default: 0.9]")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, float64.  [default: float32]")
@click.option("-q", "--quiet", is_flag=True, help="Only what the run came to.")
@overwriting
@common
@click.pass_context
def command(ctx: click.Context, /, output: str | None, resume: str | None, quiet: bool, **options: Any) -> None:
    """Train a model on a text, watched by the harness, with checkpoints.

    The defaults are those of the from-scratch course (LLMs-from-scratch, chapter 5): the text cut into 90 % to train on
    and 10 % to validate with, windows of 256 tokens, AdamW. The losses are evaluations by protocol book, as 'run' makes
    them. FOLDER gets best.safetensors (the lowest validation loss), last.safetensors and training.json.

    \b
    Try:  evalgpt train -m scratch -t verdict -o run
          evalgpt train --resume run
          evalgpt compare -m scratch -m scratch:weights=run/best.safetensors -t verdict
          evalgpt train -m gpt2:./gpt2 -t text:book.txt -o tuned --epochs 2 --learning-rate 5e-5 --clip 1
    """

    given = {name: value for name, value in options.items() if value is not None}
    plugins = state_of(ctx).plugins
    if resume is not None:
        if output is not None or given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in (*given, *(["output"] if output else [])))
            raise UsageError(f"--resume goes on with the run's own settings; leave out {names}")
        resume_run(plugins, resume, quiet)
        return
    for name, value in (("-m", given.get("model")), ("-t", given.get("task")), ("-o", output)):
        if value is None:
            raise UsageError(f"train needs {name}, or --resume FOLDER; see evalgpt train --help")
    if "steps" in given and "epochs" in given:
        raise UsageError("--steps is instead of --epochs; give one of them")
    begin_run(plugins, given, str(output), quiet, targets_of(ctx))


HEIGHT = 12
"""Lines of the curve."""

SHOWN = 3
"""How many memorised spans are printed."""


def begin_run(plugins: Plugins, given: Mapping[str, Any], output: str, quiet: bool, targets: Targets) -> None:
    """Begin a run in the folder ``output``, which holds nothing, or with ``--overwrite`` a run to replace."""
    folder = Path(output)
    _check_folder(folder, targets.reading(specs=[str(given["model"]), str(given["task"])]))
    texts: dict[str, Any] = {key: printable(value) for key, value in given.items() if isinstance(value, str)}
    settings = Settings(**{**given, **texts})
    if not settings.sample:
        settings = msgspec.structs.replace(settings, sample=None)
    plugins.check("model", settings.model, {"device": settings.device, "dtype": settings.dtype})
    plugins.check("task", settings.task)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from None
    try:
        model, task, protocol = _build(plugins, settings, quiet)
        log = begin(model, task, protocol, settings, targets.command)
        for name in (LAST, BEST, LOG):  # of the run that this one replaces; the log last, by which it is known
            (folder / name).unlink(missing_ok=True)
        _go(model, task, protocol, log, folder, quiet)
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def _check_folder(folder: Path, targets: Targets) -> None:
    """Raise UsageError where ``folder`` holds anything that the run must not replace."""
    if not folder.is_dir():
        return
    remove_leftovers(folder)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY))
    for name in (LOG, LAST, BEST):
        targets.check_not_read(str(folder / name))
    if not names:
        return
    if document_kind("training").find(str(folder / LOG)) is None:
        raise UsageError(f"{folder} holds {names[0]}, and no training run; give a folder that is new or empty")
    if not targets.overwrite:
        raise UsageError(
            f"{folder} holds a training run already ({LOG}); go on with it by --resume {folder}, replace it by "
            f"--overwrite, or give another folder"
        )


def resume_run(plugins: Plugins, run: str, quiet: bool) -> None:
    """Go on with the run in the folder ``run``."""
    folder = Path(run)
    settings = read_training(folder).settings
    model, task, protocol = _build(plugins, settings, quiet)
    log = resume(folder, model, task)
    _warn_of_other_bits(log, model)
    finished = len(log.updates.loss) >= log.total_updates
    remove_leftovers(folder)
    _go(model, task, protocol, log, folder, quiet)
    if finished:
        click.echo("This run was finished; to train longer, begin another with more --epochs or --steps.", err=True)


def _build(plugins: Plugins, settings: Settings, quiet: bool) -> tuple[Model, Task, Protocol]:
    task = plugins.task(settings.task)
    with waiting(f"building {settings.model}", quiet):
        model = plugins.model(settings.model, device=settings.device, dtype=settings.dtype)
    protocol = plugins.protocol(PROTOCOL, context=settings.context, stride=settings.stride)
    return model, task, bind(protocol, model)


def _go(model: Model, task: Task, protocol: Protocol, log: Training, folder: Path, quiet: bool) -> None:
    with _Screen(quiet) as screen:
        train(model, task, protocol, log, folder, screen)
    _summary(log, folder, model)


def _warn_of_other_bits(log: Training, model: Model) -> None:
    """Say that a run which goes on elsewhere ends in other last digits."""
    then: dict[str, object] = {"torch": log.run.software.get("torch"), **log.model.runtime}
    now: dict[str, object] = {"torch": software().get("torch"), **model.runtime}
    keys = sorted(then.keys() | now.keys())
    other = [f"{key} {then.get(key)} then, {now.get(key)} now" for key in keys if then.get(key) != now.get(key)]
    if other:
        click.echo(
            f"evalgpt: warning: {visible('; '.join(other))}: the weights will differ in their last digits from those "
            f"of a run that was not stopped",
            err=True,
        )


class _Screen:
    """The losses as they fall: a curve that lives on a terminal, a line for each evaluation elsewhere.

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
            click.echo("stopping after this update; once more to stop at once", err=True)

    def stopping(self) -> bool:
        return self.asked

    def updated(self, log: Training) -> None:
        if self.live is not None:
            self.live.update(self._picture(log), refresh=True)

    def evaluated(self, log: Training) -> None:
        if self.quiet:
            return
        found = log.evaluations[-1]
        line = (
            f"epoch {found.epoch}, update {found.updates}: train loss {found.train_loss:.3f}, "
            f"validation loss {found.validation_loss:.3f}"
        )
        if found.course_train_loss is not None and found.course_validation_loss is not None:
            line += (
                f" (the course's, over {log.settings.eval_iter} batches: {found.course_train_loss:.3f}, "
                f"{found.course_validation_loss:.3f})"
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


def _summary(log: Training, folder: Path, model: Model) -> None:
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
        _known_by_heart(log)
    if isinstance(model, Reloads):
        how = "".join(f" --{key} {log.protocol.settings[key]}" for key in ("context", "stride"))
        built = f"-m {model.weights_spec(str(folder / BEST))} -t {log.settings.task} -p {log.protocol.name}{how}"
        say(console, f"evaluate it: evalgpt run {built}")
    click.echo(f"Training: {visible(str(folder))}/ ({BEST}, {LAST}, {LOG})", err=True)


def _known_by_heart(log: Training) -> None:
    console, found = console_for(), log.memorised
    assert found is not None
    shares = ", ".join(f"{share:.1%} of the {split} part" for split, share in found.share.items())
    say(console, f"predicted with a probability above {found.probability:g}: {shares}")
    for split, spans in found.spans.items():
        for span in spans[:SHOWN] if split == "train" else spans[:1]:
            text = " ".join(span.text.split())
            say(console, f"{span.tokens} token{'s' * (span.tokens != 1)} of {split}: {text}", indent=2)
