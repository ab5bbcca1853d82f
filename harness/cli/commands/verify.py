"""``evalgpt verify``: run again what a report says, and compare loss by loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from evalgpt.cli.options import common
from evalgpt.cli.progress import Bar, waiting
from evalgpt.cli.shell import state_of
from evalgpt.core import EvaluationError, Model, UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.report.document import Evaluation, describe_protocol, read_report
from evalgpt.studies.verify.rebuild import rebuild_model, rebuild_protocol, rebuild_task
from evalgpt.studies.verify.verification import VerificationOptions, verify
from evalgpt.views.terminal.console import console_for, say

__all__ = ["VerifyOptions", "command", "verify_all"]


@click.command("verify")
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@click.option("--quick", is_flag=True, help="Score a random sample of the windows again, not all.")
@click.option("--windows", type=click.IntRange(min=1), default=16, show_default=True, help="How many for --quick.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample.")
@click.option("--tolerance", type=float, metavar="NATS", help="By which a loss may differ.  [default: by dtype]")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@common
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Make a report's evaluations again and compare: weights, text, windows, every loss, every number.

    Exit code 0 only if all of it holds. The specs in the report are built again here, so relative paths are looked for
    from this folder.

    \b
    Try:  evalgpt verify report.json
          evalgpt verify report.json --quick --windows 8
    """

    ctx.exit(verify_all(state_of(ctx).plugins, VerifyOptions(**options)))


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The options of ``evalgpt verify``."""

    reports: Sequence[str]
    quick: bool = False
    windows: int = 16
    seed: int = 0
    tolerance: float | None = None
    device: str | None = None
    quiet: bool = False

    def verification(self) -> VerificationOptions:
        """What they say of a single evaluation."""
        windows = self.windows if self.quick else None
        return VerificationOptions(windows=windows, seed=self.seed, tolerance=self.tolerance)


def verify_all(plugins: Plugins, options: VerifyOptions) -> int:
    """Verify every evaluation of every report, one line each; the exit code, 1 if any does not hold."""
    options.verification().check()
    outcomes = [code for path in options.reports for code in _verify_file(plugins, path, options)]
    failed, impossible = outcomes.count(1), outcomes.count(2)
    if failed:
        click.echo(f"evalgpt: {failed} of {len(outcomes)} evaluations do not hold", err=True)
    if impossible:
        click.echo(f"evalgpt: {impossible} of {len(outcomes)} could not be verified", err=True)
    return 1 if failed else 2 if impossible else 0


def _verify_file(plugins: Plugins, path: str, options: VerifyOptions) -> Iterator[int]:
    """Print a line for each evaluation of one file; 0 where it holds, 1 where not, 2 where that cannot be told."""
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
    return f"{path}: {evaluation.model.spec} on {evaluation.task.spec}, protocol {describe_protocol(evaluation)}"


def _model(plugins: Plugins, evaluation: Evaluation, options: VerifyOptions) -> Model:
    spec = evaluation.model.spec
    with waiting(f"building {spec}", options.quiet):
        return rebuild_model(plugins, evaluation, spec, options.device)


def _one(plugins: Plugins, evaluation: Evaluation, model: Model, options: VerifyOptions) -> str:
    task = rebuild_task(plugins, evaluation)
    protocol = rebuild_protocol(plugins, evaluation, model)
    with Bar(f"{evaluation.model.spec} on {evaluation.task.spec}", quiet=options.quiet) as bar:
        found = verify(evaluation, model, task, protocol, options.verification(), progress=bar)
    if found.losses == 0:
        return f"it keeps no losses of single tokens; its numbers hold within {found.tolerance:.2g}"
    return (
        f"{found.losses} of {found.of} losses, largest difference {found.largest:.2g} nats, mean {found.mean:.2g}; "
        f"every number follows from them"
    )
