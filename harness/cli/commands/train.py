"""``evalgpt train``: train a model on a text, with checkpoints, or resume a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from evalgpt.cli.options import ModelOptions, Share, common, dtype_option, quiet_option, takes
from evalgpt.cli.output import Output, output_folder
from evalgpt.cli.progress import waiting
from evalgpt.cli.shell import state_of
from evalgpt.core import Model, Task, UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.core.protocol import Protocol
from evalgpt.core.text import printable, visible
from evalgpt.report.environment import software
from evalgpt.report.files import TEMPORARY, remove_leftovers

if TYPE_CHECKING:
    from evalgpt.studies.training.log import Settings, Training

__all__ = ["TrainOptions", "begin_run", "command", "resume_run"]


COUNT = click.IntRange(min=1)

PROTOCOL = "book"
"""The course's: what it trains on, and how it evaluates that."""

POSITIVE = click.FloatRange(min=0, min_open=True)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ModelOptions):
    """How the model is built; how it is trained is :class:`~evalgpt.studies.training.log.Settings`."""

    dtype: str | None = dtype_option("float32, bfloat16 or float64")
    quiet: bool = quiet_option("Show only the summary at the end.")


@click.command("train")
@click.option("-m", "--model", metavar="SPEC", help="Model to train; see 'models'.")
@click.option("-t", "--task", metavar="SPEC", help="Text to train on; see 'tasks'.")
@output_folder("training", "checkpoints and the log")
@click.option(
    "--resume", metavar="FOLDER", help="Resume the run in FOLDER that was stopped; it ends with the same weights."
)
@click.option("--epochs", type=COUNT, help="Passes over the training windows.  [default: 10]")
@click.option("--steps", type=COUNT, help="Updates of the weights, in place of --epochs.")
@click.option("--batch", type=COUNT, help="Windows in a batch.  [default: 2]")
@click.option("--accumulate", type=COUNT, help="Batches whose gradients make one update.  [default: 1]")
@click.option("--learning-rate", "--lr", type=POSITIVE, help="Learning rate of AdamW.  [default: 0.0004]")
@click.option(
    "--warmup", type=click.IntRange(min=0), help="Updates in which the learning rate rises to its value.  [default: 0]"
)
@click.option("--decay", type=click.Choice(["none", "cosine"]), help="Decay of the learning rate.  [default: none]")
@click.option(
    "--min-learning-rate", type=click.FloatRange(min=0), help="Learning rate at the end of the cosine.  [default: 0]"
)
@click.option(
    "--weight-decay", type=click.FloatRange(min=0), help="Weight decay of AdamW, on every weight.  [default: 0.1]"
)
@click.option("--clip", type=POSITIVE, help="Largest norm of the gradient; clip what is above.  [default: do not clip]")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Seed of shuffling and dropout.  [default: the generator that made the model goes on]",
)
@click.option("--context", type=COUNT, metavar="TOKENS", help="Tokens in a window.  [default: 256]")
@click.option("--stride", type=COUNT, metavar="TOKENS", help="Tokens between windows.  [default: the context]")
@click.option("--eval-every", type=COUNT, help="Updates between evaluations.  [default: 5]")
@click.option("--eval-iter", type=COUNT, help="Also print the course's losses, means over this many batches.")
@click.option("--save-every", type=COUNT, help="Updates between checkpoints.  [default: after each epoch]")
@click.option("--sample", metavar="TEXT", help="Prompt of the sample written after each epoch; '' writes none.")
@click.option("--sample-tokens", type=COUNT, help="Tokens of that sample.  [default: 50]")
@click.option(
    "--memorised", type=Share(), help="Probability from which a predicted token counts as memorised.  [default: 0.9]"
)
@takes(TrainOptions)
@common
@click.pass_context
def command(ctx: click.Context, /, output: Output, resume: str | None, options: TrainOptions, **settings: Any) -> None:
    """Train a model on a text, with evaluations and checkpoints.

    The defaults are those of the from-scratch course (LLMs-from-scratch, chapter 5): the text cut into 90 % to train on
    and 10 % to validate with, windows of 256 tokens, AdamW. The losses are evaluations by protocol book, as 'run' makes
    them. FOLDER gets best.safetensors (the lowest validation loss), last.safetensors and training.json.

    \b
    Try:  evalgpt train -m scratch -t verdict -o run
          evalgpt train --resume run
          evalgpt compare -m scratch -m scratch:weights=run/best.safetensors -t verdict
          evalgpt train -m gpt2:./gpt2 -t text:book.txt -o tuned --epochs 2 --learning-rate 5e-5 --clip 1
    """
    given = {"device": options.device, "dtype": options.dtype, **settings}
    given = {name: value for name, value in given.items() if value is not None}
    plugins = state_of(ctx).plugins
    if resume is not None:
        if output.path is not None or given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in (*given, *(["output"] if output.path else [])))
            raise UsageError(f"--resume uses the run's own settings; leave out {names}")
        resume_run(plugins, resume, options.quiet)
        return
    for name, value in (("-m", given.get("model")), ("-t", given.get("task")), ("-o", output.path)):
        if value is None:
            raise UsageError(f"train needs {name}, or --resume FOLDER; see evalgpt train --help")
    if "steps" in given and "epochs" in given:
        raise UsageError("--steps takes the place of --epochs; give one of them")
    begin_run(plugins, given, output, options.quiet)


def begin_run(plugins: Plugins, given: Mapping[str, Any], output: Output, quiet: bool) -> None:
    """Begin a run in the folder ``output``, which holds nothing, or with ``--overwrite`` a run to replace."""
    from evalgpt.studies.training.log import BEST, LAST, LOG, Settings
    from evalgpt.studies.training.loop import begin

    folder = Path(str(output.path))
    _check_folder(folder, output.reading(specs=[str(given["model"]), str(given["task"])]))
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
        log = begin(model, task, protocol, settings, output.targets.command)
        for name in (LAST, BEST, LOG):  # of the run that is replaced; the log last, since it marks the folder as a run
            (folder / name).unlink(missing_ok=True)
        _train(model, task, protocol, log, folder, quiet)
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def _check_folder(folder: Path, output: Output) -> None:
    """Raise UsageError where ``folder`` holds anything that the run must not replace."""
    from evalgpt.studies.training.log import BEST, LAST, LOG

    if not folder.is_dir():
        return
    remove_leftovers(folder)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY))
    for name in (LOG, LAST, BEST):
        output.targets.check_not_read(str(folder / name))
    if not names:
        return
    if output.kind.find(str(folder / LOG)) is None:
        raise UsageError(
            f"{folder} holds {names[0]}, and is not the folder of a training run; give a new or empty folder"
        )
    if not output.targets.overwrite:
        raise UsageError(
            f"{folder} holds a training run already ({LOG}); continue it with --resume {folder}, replace it with "
            f"--overwrite, or give another folder"
        )


def resume_run(plugins: Plugins, run: str, quiet: bool) -> None:
    """Resume the run in the folder ``run``."""
    from evalgpt.studies.training.log import read_training
    from evalgpt.studies.training.loop import resume

    folder = Path(run)
    settings = read_training(folder).settings
    model, task, protocol = _build(plugins, settings, quiet)
    log = resume(folder, model, task)
    _warn_of_other_versions(log, model)
    finished = len(log.updates.loss) >= log.total_updates
    remove_leftovers(folder)
    _train(model, task, protocol, log, folder, quiet)
    if finished:
        click.echo("This run is complete; to train longer, begin another with more --epochs or --steps.", err=True)


def _build(plugins: Plugins, settings: Settings, quiet: bool) -> tuple[Model, Task, Protocol]:
    from evalgpt.scoring.engine import bind

    task = plugins.task(settings.task)
    with waiting(f"building {settings.model}", quiet):
        model = plugins.model(settings.model, device=settings.device, dtype=settings.dtype)
    protocol = plugins.protocol(PROTOCOL, context=settings.context, stride=settings.stride)
    return model, task, bind(protocol, model)


def _train(model: Model, task: Task, protocol: Protocol, log: Training, folder: Path, quiet: bool) -> None:
    from evalgpt.cli.training_screen import Screen, print_summary
    from evalgpt.studies.training.loop import train

    with Screen(quiet) as screen:
        train(model, task, protocol, log, folder, screen)
    print_summary(log, folder, model)


def _warn_of_other_versions(log: Training, model: Model) -> None:
    """Warn where the run began with another version or device: the weights then end in other last digits."""
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
