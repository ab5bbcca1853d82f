"""``evalgpt verify``: run again what a report says, and compare loss by loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from evalgpt.core import EvaluationError, Model, UsageError
from evalgpt.plugins import Plugins
from evalgpt.progress import Bar, waiting
from evalgpt.protocols import Protocol
from evalgpt.render import console_for, say
from evalgpt.report import Evaluation, describe_protocol, read_report
from evalgpt.specs import Spec, parse
from evalgpt.verify import Sample, verify

__all__ = ["VerifyOptions", "verify_all"]


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


def verify_all(plugins: Plugins, options: VerifyOptions) -> int:
    """Verify every evaluation of every report, one line each; the exit code, 1 if any does not hold."""
    if options.tolerance is not None and not 0 <= options.tolerance < float("inf"):
        raise UsageError(f"--tolerance takes nats per token from 0 up, not {options.tolerance}")
    evaluations = [(path, e) for path in options.reports for e in read_report(path).evaluations]
    for path in options.reports:
        if not any(path == own for own, _ in evaluations):
            raise UsageError(f"{path} holds no evaluation")
    for _, evaluation in evaluations:
        plugins.check("model", evaluation.model.spec)
        plugins.check("task", evaluation.task.spec)
    models: dict[tuple[str, str], Model] = {}
    failed = 0
    for path, evaluation in evaluations:
        key = (evaluation.model.spec, evaluation.model.dtype)
        try:
            if key not in models:
                models.clear()  # one at a time: two large models may not fit
                models[key] = _model(plugins, evaluation, options)
            line = f"verified  {_title(path, evaluation)}: {_one(plugins, evaluation, models[key], options)}"
        except EvaluationError as error:
            failed += 1
            line = f"FAILED    {_title(path, evaluation)}: {error}"
        say(console_for(), line)
    if failed:
        click.echo(f"evalgpt: {failed} of {len(evaluations)} evaluations do not hold", err=True)
    return 1 if failed else 0


def _title(path: str, evaluation: Evaluation) -> str:
    return f"{path}: {evaluation.model.spec} on {evaluation.task.spec}, protocol {describe_protocol(evaluation)}"


def _model(plugins: Plugins, evaluation: Evaluation, options: VerifyOptions) -> Model:
    """The model as the report built it, in the report's dtype where the spec does not give one."""
    info = evaluation.model
    spec = parse(info.spec)
    takes = "dtype" in plugins.find("model", spec.name).options and "dtype" not in spec.options
    with waiting(f"building {info.spec}", options.quiet):
        return plugins.model(info.spec, device=options.device, dtype=info.dtype if takes else None)


def _protocol(plugins: Plugins, evaluation: Evaluation) -> Protocol:
    settings = {key: str(value) for key, value in evaluation.protocol.settings.items() if value is not None}
    return plugins.protocol(str(Spec(evaluation.protocol.name, None, settings)))


def _one(plugins: Plugins, evaluation: Evaluation, model: Model, options: VerifyOptions) -> str:
    sample = Sample(options.windows if options.quick else None, options.seed)
    try:
        protocol = _protocol(plugins, evaluation)
        with Bar(f"{evaluation.model.spec} on {evaluation.task.spec}", quiet=options.quiet) as bar:
            found = verify(
                evaluation,
                model,
                plugins.task(evaluation.task.spec),
                protocol,
                sample=sample,
                tolerance=options.tolerance,
                progress=bar,
            )
    except UsageError as error:  # a parameter that the report was given and the protocol refuses
        raise EvaluationError(f"protocol: {error}") from error
    if found.losses == 0:
        return f"the report keeps no losses of single tokens; its numbers hold within {found.tolerance:g}"
    return (
        f"{found.losses} of {found.of} losses, largest difference {found.largest:.2g} nats, mean {found.mean:.2g}; "
        f"every number follows from them"
    )
