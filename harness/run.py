"""``evalgpt run``: every model on every task, the report written after each, nothing computed lost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import click
import msgspec

from evalgpt.api import evaluate, make_report
from evalgpt.core import EvalgptError, Task
from evalgpt.plugins import Plugins
from evalgpt.progress import Bar, status
from evalgpt.protocols import Protocol
from evalgpt.render import print_evaluations
from evalgpt.report import Evaluation, Report, check_writable, to_json, write_report

__all__ = ["RunOptions", "run_all"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of ``evalgpt run``."""

    models: Sequence[str]
    tasks: Sequence[str]
    protocol: str | None = None
    context: int | None = None
    stride: int | None = None
    device: str | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    output: str | None = None
    tokens: bool = True
    quiet: bool = False


def run_all(plugins: Plugins, options: RunOptions, command: Sequence[str]) -> int:
    """Run, print, write; the exit code. What can be found wrong without a model is found before any is built."""
    if options.output not in (None, "-"):
        check_writable(str(options.output))
    for spec in options.models:
        plugins.check("model", spec, {"device": options.device, "dtype": options.dtype})
    for spec in options.tasks:
        plugins.check("task", spec)
    tasks = [plugins.task(spec) for spec in options.tasks]
    pairs = [(task, _protocol(plugins, task, options)) for task in tasks]
    report = make_report([], command)
    worst = 0
    for spec in options.models:
        code, evaluations = _one_model(plugins, spec, pairs, options, report)
        report = msgspec.structs.replace(report, evaluations=evaluations)
        worst = max(worst, code)
    if report.evaluations:
        print_evaluations(report.evaluations, err=options.output == "-")
    if options.output == "-":
        sys.stdout.buffer.write(to_json(report))
    elif options.output is not None and report.evaluations:
        click.echo(f"Report: {options.output}", err=True)
    return worst


def _one_model(
    plugins: Plugins, spec: str, pairs: Sequence[tuple[Task, Protocol]], options: RunOptions, report: Report
) -> tuple[int, list[Evaluation]]:
    """One model on every task: the worst exit code, and the report's evaluations with the new ones."""
    evaluations = list(report.evaluations)
    several = len(pairs) * len(options.models) > 1
    worst = 0
    try:
        with nullcontext() if options.quiet else status(f"building {spec}"):
            model = plugins.model(spec, device=options.device, dtype=options.dtype)
    except EvalgptError as error:
        return _failed(error, several), evaluations
    for task, protocol in pairs:
        try:
            with Bar(f"{model.name} on {task.name}", quiet=options.quiet) as bar:
                evaluation = evaluate(
                    model, task, protocol, batch_tokens=options.batch_tokens, tokens=options.tokens, progress=bar
                )
        except EvalgptError as error:
            worst = max(worst, _failed(error, several, f"{spec} on {task.spec}: "))
            continue
        evaluations.append(evaluation)
        if options.output not in (None, "-"):
            write_report(msgspec.structs.replace(report, evaluations=evaluations), str(options.output))
    return worst, evaluations


def _protocol(plugins: Plugins, task: Task, options: RunOptions) -> Protocol:
    return plugins.protocol(options.protocol or task.default_protocol, context=options.context, stride=options.stride)


def _failed(error: EvalgptError, several: bool, where: str = "") -> int:
    """Alone, a failure ends the run; among several evaluations it is told and the others go on."""
    if not several:
        raise error
    click.echo(f"evalgpt: error: {where}{' '.join(str(error).split())}", err=True)
    return error.exit_code
