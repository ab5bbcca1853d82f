"""``evalgpt run``: every model on every task, the report written after each, nothing computed lost."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from evalgpt.cli.options import ScoringOptions, Share, common, option, rarest_option, seed_option, takes
from evalgpt.cli.output import Output, output
from evalgpt.cli.progress import Bar
from evalgpt.cli.shell import State, goes_with, state_of
from evalgpt.core import EvalgptError, Model, Task, UsageError
from evalgpt.core.protocol import Protocol
from evalgpt.core.text import printable, visible
from evalgpt.report.targets import Existing, Kind, check_distinct

if TYPE_CHECKING:
    from evalgpt.report.document import Evaluation, Report
    from evalgpt.scoring.cache import ScoreCache

__all__ = ["RunOptions", "command", "run_all"]


@dataclass(frozen=True, kw_only=True)
class RunOptions(ScoringOptions):
    """The options of ``evalgpt run``."""

    precision: float | None = option(
        "--precision", type=Share(), help="Stop when the perplexity is known this precisely, as in 1%."
    )
    seed: int = seed_option("the random order in which --precision scores windows")
    rarest: float = rarest_option("--precision")
    tokens: bool | None = option(
        "--tokens/--no-tokens",
        default=None,
        help="Keep the ids and losses of single tokens in the report.  [default: unless the text is too long to hold]",
    )
    detail: str | None = option(
        "--detail",
        type=click.Choice(["parquet", "npz"]),
        help="Write rank, entropy and likeliest tokens of every score to a file beside the report.",
    )
    top: int = option(
        "--top", type=click.IntRange(1, 1000), default=5, show_default=True, help="Likeliest tokens kept by --detail."
    )


@click.command("run")
@takes(RunOptions)
@output("report", "the report")
@common
@click.pass_context
def command(ctx: click.Context, /, options: RunOptions, output: Output) -> None:
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
    ctx.exit(run_all(state_of(ctx), options, output))


def run_all(state: State, options: RunOptions, output: Output) -> int:
    """Run, print, write; the exit code. What can be found wrong without a model is found before any is built."""
    from evalgpt.report.describe import make_report
    from evalgpt.views.terminal.evaluation import print_evaluations

    output = output.reading(specs=options.specs)
    output.check()
    detail = _detail_output(options, output)
    options.check(state.plugins)
    with options.open_cache() as cache:
        run = _Run(state, options, make_report([], output.targets.command), cache, (output, detail))
        run.evaluate_all()
    if run.report.evaluations:
        print_evaluations(run.report.evaluations, err=output.to_stdout)
        output.complete(run.report)
    return run.worst


def _detail_output(options: RunOptions, output: Output) -> Output | None:
    """The file ``report.detail.parquet`` beside ``report.json``; None without ``--detail``.

    It may be replaced where the report that is replaced names it, and never where another report does.

    Raises:
        UsageError: the report does not go to a file, or the detail file cannot be written.
    """
    if options.detail is None:
        return None
    from evalgpt.report.detail import check_format, detail_named, is_detail

    report = output.path
    if report is None or not output.to_file:
        raise UsageError("--detail writes a file beside the report; give -o FILE")
    if printable(report) != report:
        raise UsageError(f"--detail needs a report whose name is UTF-8, not {report!r}")
    check_format(options.detail)
    path = f"{report.removesuffix('.json')}.detail.{options.detail}"
    own = detail_named(report) == Path(path).name
    kind = Kind("a detail file", lambda name: Existing("a detail file", replaceable=own) if is_detail(name) else None)
    detail = output.at(path, kind)
    check_distinct(report, path)
    detail.check()
    for other in (report.removesuffix(".json"), f"{report.removesuffix('.json')}.json"):
        if other != report and detail_named(other) == Path(path).name:
            raise UsageError(f"{path} is the detail file of the report {other}; give another name than {report}")
    return detail


class _Run:
    """The evaluations of one run as they are made, and the worst exit code so far."""

    def __init__(
        self,
        state: State,
        options: RunOptions,
        report: Report,
        cache: ScoreCache | None,
        outputs: tuple[Output, Output | None],
    ) -> None:
        self.plugins, self.debug = state.plugins, state.debug
        self.options, self.report, self.cache = options, report, cache
        self.output, self.detail_output = outputs
        self.alone = len(options.models) * len(options.tasks) == 1
        self.worst = 0
        self.detail = None
        if options.detail is not None:
            from evalgpt.report.detail import Collected

            self.detail = Collected(options.top)

    def evaluate_all(self) -> None:
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
        from evalgpt.scoring.evaluate import evaluate

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
        try:
            if self.detail is not None and self.detail_output is not None:
                written = self.detail.write(str(self.detail_output.path))
                self.report = msgspec.structs.replace(self.report, detail=written)
        finally:  # the report is not lost where its companion cannot be written
            self.output.save(self.report)

    def _failed(self, error: Exception, where: str) -> None:
        """A failure ends a run of one evaluation; among several, it is printed and the others go on."""
        if self.alone:
            raise error
        if self.debug:
            traceback.print_exception(error)
        known = isinstance(error, EvalgptError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        click.echo(f"evalgpt: error: {visible(where)}: {visible(' '.join(text.split()))}", err=True)
        self.worst = max(self.worst, error.exit_code if isinstance(error, EvalgptError) else 1)
