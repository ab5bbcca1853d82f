"""``evalgpt verify``: run again what a report says, and compare loss by loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from evalgpt.cli.options import common, device_option, option, quiet_option, takes
from evalgpt.cli.progress import Bar, waiting
from evalgpt.cli.shell import state_of
from evalgpt.core import EvaluationError, Model, UsageError
from evalgpt.core.plugins import Plugins

if TYPE_CHECKING:
    from evalgpt.report.document import Evaluation
    from evalgpt.studies.verify.verification import VerificationOptions

__all__ = ["VerifyOptions", "command", "verify_all"]


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The options of ``evalgpt verify``. The dtype is the report's."""

    quick: bool = option("--quick", is_flag=True, help="Score a random sample of the windows again, not all.")
    windows: int = option(
        "--windows", type=click.IntRange(min=1), default=16, show_default=True, help="Windows that --quick scores."
    )
    seed: int = option(
        "--seed", type=int, default=0, show_default=True, help="Seed of the random choice of windows by --quick."
    )
    tolerance: float | None = option(
        "--tolerance",
        type=float,
        metavar="NATS",
        help="Largest difference of a loss from the report's, in nats.  [default: by dtype]",
    )
    device: str | None = device_option()
    quiet: bool = quiet_option()

    def verification(self) -> VerificationOptions:
        """What they say of a single evaluation."""
        from evalgpt.studies.verify.verification import VerificationOptions

        windows = self.windows if self.quick else None
        return VerificationOptions(windows=windows, seed=self.seed, tolerance=self.tolerance)


@click.command("verify")
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@takes(VerifyOptions)
@common
@click.pass_context
def command(ctx: click.Context, /, reports: Sequence[str], options: VerifyOptions) -> None:
    """Run a report's evaluations again and compare: weights, text, windows, every loss, every number.

    The exit code is 0 only if everything agrees with the report. The models and tasks are built again from the
    report's specs; relative paths in them start at the current folder.

    \b
    Try:  evalgpt verify report.json
          evalgpt verify report.json --quick --windows 8
    """
    ctx.exit(verify_all(state_of(ctx).plugins, reports, options))


def verify_all(plugins: Plugins, reports: Sequence[str], options: VerifyOptions) -> int:
    """Verify every evaluation of every report, one line each; the exit code, 1 if any does not hold."""
    options.verification().check()
    outcomes = [code for path in reports for code in _verify_file(plugins, path, options)]
    failed, impossible = outcomes.count(1), outcomes.count(2)
    if failed:
        click.echo(f"evalgpt: {failed} of {len(outcomes)} evaluations do not hold", err=True)
    if impossible:
        click.echo(f"evalgpt: {impossible} of {len(outcomes)} could not be verified", err=True)
    return 1 if failed else 2 if impossible else 0


def _verify_file(plugins: Plugins, path: str, options: VerifyOptions) -> Iterator[int]:
    """Print a line for each evaluation of one file; 0 where it holds, 1 where not, 2 where that cannot be told."""
    from evalgpt.report.document import read_report
    from evalgpt.views.terminal.console import console_for, say

    console = console_for()
    try:
        evaluations = read_report(path).evaluations
        if not evaluations:
            raise UsageError(f"{path} holds no evaluation")
    except UsageError as error:
        say(console, f"UNKNOWN   {path}: {error}")
        yield 2
        return
    models: dict[tuple[str, str], Model] = {}
    for evaluation in evaluations:
        key = (evaluation.model.spec, evaluation.model.dtype)
        title = _title(path, evaluation)
        try:
            if key not in models:
                models.clear()  # one at a time: two large models may not fit
                models[key] = _model(plugins, evaluation, options)
            line, code = f"verified  {title}: {_one(plugins, evaluation, models[key], options)}", 0
        except EvaluationError as error:
            line, code = f"FAILED    {title}: {error}", 1
        except UsageError as error:
            line, code = f"UNKNOWN   {title}: {error}", 2
        say(console, line)
        yield code


def _title(path: str, evaluation: Evaluation) -> str:
    from evalgpt.report.document import describe_protocol

    return f"{path}: {evaluation.model.spec} on {evaluation.task.spec}, protocol {describe_protocol(evaluation)}"


def _model(plugins: Plugins, evaluation: Evaluation, options: VerifyOptions) -> Model:
    from evalgpt.studies.verify.rebuild import rebuild_model

    spec = evaluation.model.spec
    with waiting(f"building {spec}", options.quiet):
        return rebuild_model(plugins, evaluation, spec, options.device)


def _one(plugins: Plugins, evaluation: Evaluation, model: Model, options: VerifyOptions) -> str:
    from evalgpt.studies.verify.rebuild import rebuild_protocol, rebuild_task
    from evalgpt.studies.verify.verification import verify

    task = rebuild_task(plugins, evaluation)
    protocol = rebuild_protocol(plugins, evaluation, model)
    with Bar(f"{evaluation.model.spec} on {evaluation.task.spec}", quiet=options.quiet) as bar:
        agreement = verify(evaluation, model, task, protocol, options.verification(), progress=bar)
    if agreement.losses == 0:
        return f"it keeps no losses of single tokens; its numbers hold within {agreement.tolerance:.2g}"
    return (
        f"{agreement.losses} of {agreement.of} losses, largest difference {agreement.largest:.2g} nats, mean "
        f"{agreement.mean:.2g}; every number follows from them"
    )
