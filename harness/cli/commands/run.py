"""``evalgpt run``: every model on every task, the report written after each, nothing computed lost."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from evalgpt.cli.app import rarest
from evalgpt.cli.options import ModelOptions, Share, common, models, output, running, tasks
from evalgpt.cli.progress import Bar
from evalgpt.cli.shell import goes_with, state_of, targets_of
from evalgpt.core import EvalgptError, Model, Task, UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.core.protocol import Protocol
from evalgpt.core.text import printable, visible
from evalgpt.report.describe import make_report
from evalgpt.report.detail import Collected, check_format, detail_named, is_detail
from evalgpt.report.document import Evaluation, Report, to_json, write_report
from evalgpt.report.files import STDOUT, is_stream
from evalgpt.report.targets import Existing, Kind, check_distinct, document_kind
from evalgpt.scoring.cache import ScoreCache
from evalgpt.scoring.evaluate import evaluate
from evalgpt.scoring.strata import RAREST
from evalgpt.views.terminal.evaluation import print_evaluations

__all__ = ["RunOptions", "command", "run_all"]


@click.command("run")
@models(required=True, help="A model; see 'models'.")
@tasks(required=True, help="A task; see 'tasks'.")
@running
@output("the report")
@click.option("--precision", type=Share(), help="Stop when the perplexity is known this well, as in 1%.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order, with --precision."
)
@rarest("--precision")
@click.option(
    "--tokens/--no-tokens",
    default=None,
    help="Keep ids and losses of single tokens in the report.  [default: unless a text is too long to hold]",
)
@click.option("--detail", type=click.Choice(["parquet", "npz"]), help="Rank, entropy, top tokens, in a file by FILE.")
@click.option(
    "--top", type=click.IntRange(1, 1000), default=5, show_default=True, help="Likeliest tokens, with --detail."
)
@common
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Measure one or more models on one or more tasks.

    A SPEC is name[:argument][,key=value...], as in scratch:seed=7 or text:book.txt. A comma that belongs to a path or a
    value and stands before key= is written \\, as in 'text:a\\,b=c.txt'.

    \b
    Try:  evalgpt run -m scratch -t pairs
          evalgpt run -m scratch -t verdict -o report.json
          evalgpt run -m scratch -m scratch:seed=7 -t text:book.txt --protocol exact --stride 64
          evalgpt run -m smollm2 -t text:long.txt --precision 2%
    """

    goes_with(ctx, top="detail", seed="precision", rarest="precision")
    state = state_of(ctx)
    targets = targets_of(ctx)
    code = run_all(state.plugins, RunOptions(**options, debug=state.debug, targets=targets), targets.command)
    ctx.exit(code)


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """The options of ``evalgpt run``."""

    tokens: bool | None = None
    precision: float | None = None
    seed: int = 0
    rarest: float = RAREST
    detail: str | None = None
    top: int = 5
    debug: bool = False

    def detail_path(self) -> str | None:
        """``report.detail.parquet`` beside ``report.json``.

        Raises:
            UsageError: the report does not go to a file.
        """
        if self.detail is None:
            return None
        if self.output is None or is_stream(self.output):
            raise UsageError("--detail writes a file beside the report; give -o FILE")
        if printable(self.output) != self.output:
            raise UsageError(f"--detail needs a report whose name is UTF-8, not {self.output!r}")
        return f"{self.output.removesuffix('.json')}.detail.{self.detail}"


def run_all(plugins: Plugins, options: RunOptions, command: Sequence[str]) -> int:
    """Run, print, write; the exit code. What can be found wrong without a model is found before any is built."""
    if options.output is not None and options.output != "-":
        options.check_target(options.output, document_kind("report"))
    detail_path = options.detail_path()
    if options.detail is not None and detail_path is not None:
        check_format(options.detail)
        _check_detail(options, detail_path)
    options.check(plugins)
    with options.open_cache() as cache:
        run = _Run(plugins, options, make_report([], command), cache)
        run.go()
    evaluations = run.report.evaluations
    if evaluations:
        print_evaluations(evaluations, err=options.output in STDOUT)
        _announce(run.report, options.output)
    return run.worst


def _check_detail(options: RunOptions, path: str) -> None:
    """Let the detail file be replaced where the report that is replaced names it, and never another report's."""
    report = str(options.output)
    check_distinct(report, path)
    own = detail_named(report) == Path(path).name
    kind = Kind("a detail file", lambda found: Existing("a detail file", replaceable=own) if is_detail(found) else None)
    options.check_target(path, kind)
    for other in (report.removesuffix(".json"), f"{report.removesuffix('.json')}.json"):
        if other != report and detail_named(other) == Path(path).name:
            raise UsageError(f"{path} is the detail file of the report {other}; give another name than {report}")


def _announce(report: Report, output: str | None) -> None:
    """Send the report where it can only be sent once, whole; say where it is otherwise."""
    if output in STDOUT:
        sys.stdout.buffer.write(to_json(report))
    elif output is not None and is_stream(output):
        write_report(report, output)
    elif output is not None:
        click.echo(f"Report: {output}", err=True)


class _Run:
    """The evaluations of one run as they are made, and the worst exit code so far."""

    def __init__(self, plugins: Plugins, options: RunOptions, report: Report, cache: ScoreCache | None) -> None:
        self.plugins, self.options, self.report, self.cache = plugins, options, report, cache
        self.alone = len(options.models) * len(options.tasks) == 1
        self.worst = 0
        self.detail = None if options.detail is None else Collected(options.top)

    def go(self) -> None:
        pairs = [pair for spec in self.options.tasks if (pair := self._task(spec)) is not None]
        for spec in self.options.models if pairs else ():
            model = self._model(spec)
            if model is not None:
                for task, protocol in pairs:
                    self._evaluate(model, task, protocol)

    def _task(self, spec: str) -> tuple[Task, Protocol] | None:
        try:
            return self.options.build_task(self.plugins, spec)
        except EvalgptError as error:
            if error.exit_code == 2:
                raise
            self._failed(error, spec)
            return None

    def _model(self, spec: str) -> Model | None:
        try:
            return self.options.build_model(self.plugins, spec)
        except Exception as error:  # also a plugin's own, or memory: the other models go on
            self._failed(error, spec)
            return None

    def _evaluate(self, model: Model, task: Task, protocol: Protocol) -> None:
        options = self.options
        try:
            with Bar(f"{model.spec} on {task.spec}", quiet=options.quiet) as bar:
                evaluation = evaluate(
                    model,
                    task,
                    protocol,
                    batch_tokens=options.batch_tokens,
                    tokens=options.tokens,
                    cache=self.cache,
                    precision=options.precision,
                    seed=options.seed,
                    rarest=options.rarest,
                    progress=bar,
                    detail=self.detail,
                )
        except Exception as error:
            self._failed(error, f"{model.spec} on {task.spec}")
            return
        self._keep(evaluation)

    def _keep(self, evaluation: Evaluation) -> None:
        self.report = msgspec.structs.replace(self.report, evaluations=[*self.report.evaluations, evaluation])
        output = self.options.output
        if output is None or is_stream(output):
            return
        path = self.options.detail_path()
        try:
            if self.detail is not None and path is not None:
                self.report = msgspec.structs.replace(self.report, detail=self.detail.write(path))
        finally:  # the report is not lost where its companion cannot be written
            write_report(self.report, output)

    def _failed(self, error: Exception, where: str) -> None:
        """Alone, a failure ends the run; among several evaluations it is told and the others go on."""
        if self.alone:
            raise error
        if self.options.debug:
            traceback.print_exception(error)
        known = isinstance(error, EvalgptError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        click.echo(f"evalgpt: error: {visible(where)}: {visible(' '.join(text.split()))}", err=True)
        self.worst = max(self.worst, error.exit_code if isinstance(error, EvalgptError) else 1)
