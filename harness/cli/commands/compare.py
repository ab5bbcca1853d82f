"""``evalgpt compare``: which of two models is better on a text, by how much, and how sure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click
import msgspec

from evalgpt.cli.options import (
    ScoringOptions,
    common,
    models_option,
    option,
    rarest_option,
    seed_option,
    takes,
    tasks_option,
)
from evalgpt.cli.output import Output, check_outputs, output
from evalgpt.cli.progress import Bar
from evalgpt.cli.shell import goes_with, state_of
from evalgpt.core import Model, Task, UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.core.protocol import Protocol
from evalgpt.report.files import STDOUT
from evalgpt.report.targets import document_kind

if TYPE_CHECKING:
    from evalgpt.report.document import Evaluation
    from evalgpt.scoring.cache import ScoreCache
    from evalgpt.scoring.options import Options
    from evalgpt.studies.compare.comparison import Comparison, Decision

__all__ = ["CompareOptions", "command", "compare_all"]


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ScoringOptions):
    """The options of ``evalgpt compare``."""

    models: Sequence[str] = models_option(help="Model to run; may be given several times. The first is the baseline.")
    tasks: Sequence[str] = tasks_option(help="Task to run the models on; may be given several times. See 'tasks'.")
    kl: bool = option("--kl", is_flag=True, help="Also measure the KL divergence from the baseline (one vocabulary).")
    until_decided: bool = option(
        "--until-decided", is_flag=True, help="Stop when it is settled which of two models is better on this text."
    )
    seed: int = seed_option("the random order in which --until-decided scores windows")
    rarest: float = rarest_option("--until-decided")
    fail_if_worse: float | None = option(
        "--fail-if-worse", type=float, metavar="X", help="Exit 1 if a model is worse by more than X bits per byte."
    )
    save_report: str | None = option(
        "--save-report", metavar="FILE", help="Also write the report of the runs that are compared to FILE."
    )


@click.command("compare")
@click.argument("reports", nargs=-1, metavar="[REPORT]...")
@takes(CompareOptions)
@output("comparison", "the comparison")
@common
@click.pass_context
def command(ctx: click.Context, /, reports: Sequence[str], options: CompareOptions, output: Output) -> None:
    """Compare models on the same text: which is better, by how much, and how sure.

    Give reports made by 'run -o', or models and tasks to run. The first is the baseline. With one tokenizer, tokens are
    paired; with different ones, pieces of text that end at the same byte.

    \b
    Try:  evalgpt compare before.json after.json
          evalgpt compare -m scratch -m smollm2 -t verdict
          evalgpt compare before.json after.json --fail-if-worse 0.01
    """
    goes_with(ctx, seed="until_decided", rarest="until_decided")
    ctx.exit(compare_all(state_of(ctx).plugins, reports, options, output))


def compare_all(plugins: Plugins, reports: Sequence[str], options: CompareOptions, output: Output) -> int:
    """Compare reports, or run the models and compare; the exit code."""
    from evalgpt.report.document import read_report
    from evalgpt.studies.compare.comparison import Comparisons
    from evalgpt.views.terminal.comparison import print_comparisons

    _check(reports, options)
    output = output.reading(specs=options.specs, files=reports)
    report_output = output.at(options.save_report, document_kind("report"))
    check_outputs(output, report_output)
    if reports:
        evaluations = [e for path in reports for e in read_report(path).evaluations]
        comparisons = _against_first(evaluations, strict=options.fail_if_worse is not None)
    else:
        comparisons = []
        try:
            with options.open_cache() as cache:
                for comparison in _run(plugins, options, report_output, cache):
                    comparisons.append(comparison)  # one by one: what was compared before a failure is shown
        except Exception:
            print_comparisons(comparisons, err=output.to_stdout)
            raise
    print_comparisons(comparisons, err=output.to_stdout)
    output.write(Comparisons(command=output.command, comparisons=comparisons))
    return _gate(comparisons, options.fail_if_worse)


def _check(reports: Sequence[str], options: CompareOptions) -> None:
    if bool(reports) == bool(options.models):
        raise UsageError("give either reports, or models with -m and tasks with -t, to compare")
    if options.models and (len(options.models) < 2 or not options.tasks):
        raise UsageError("a comparison needs two models or more (-m A -m B) and a task (-t T)")
    if options.until_decided and len(options.models) > 2:
        raise UsageError("--until-decided compares two models; give two with -m")
    if options.until_decided and options.fail_if_worse is not None:
        raise UsageError("--fail-if-worse needs the whole text, and --until-decided stops earlier; give one of them")
    if options.until_decided and options.kl:
        raise UsageError("--kl needs the whole text, and --until-decided stops earlier; give one of them")
    names = ("protocol", "context", "stride", "device", "dtype", "batch_tokens", "kl", "until_decided", "save_report")
    given = ["--task"] * bool(options.tasks)
    given += [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
    if reports and given:
        raise UsageError(f"{given[0]} goes with models to run (-m), not with reports that are already there")
    limit = options.fail_if_worse
    if limit is not None and not 0 <= limit < math.inf:
        raise UsageError(f"--fail-if-worse takes bits per byte from 0 up, not {limit}")
    if options.save_report in STDOUT:
        raise UsageError("--save-report needs a file; -o - writes the comparison to standard output")


def _against_first(evaluations: Sequence[Evaluation], strict: bool) -> list[Comparison]:
    from evalgpt.studies.compare.comparison import compare, pairs_of

    pairs, left_out = pairs_of(evaluations)
    if left_out and strict:
        raise UsageError(f"with --fail-if-worse every text must be compared, and this was not: {left_out[0]}")
    for text in left_out:
        click.echo(f"evalgpt: not compared: {text}", err=True)
    for part in dict.fromkeys(part for pair in pairs for e in pair if (part := _part(e)) is not None):
        if strict:
            raise UsageError(f"--fail-if-worse needs whole texts, and {part}; run it without --precision")
        click.echo(f"evalgpt: only what was scored is compared: {part}", err=True)
    return [compare(*pair) for pair in pairs]


def _part(evaluation: Evaluation) -> str | None:
    """Which part of its text was scored, in words; None for all of it."""
    sample = evaluation.sample
    if sample is None or sample.windows == sample.of:
        return None
    return f"{evaluation.model.spec} scored {sample.windows} of {sample.of} windows of {evaluation.task.spec}"


def _run(
    plugins: Plugins, options: CompareOptions, report_output: Output, cache: ScoreCache | None
) -> Iterator[Comparison]:
    from evalgpt.report.describe import make_report
    from evalgpt.scoring.options import Options
    from evalgpt.studies.compare.comparison import compare
    from evalgpt.studies.compare.divergence import check_models

    options.check(plugins)
    pairs = [options.build_task(plugins, spec) for spec in options.tasks]
    models = [options.build_model(plugins, spec) for spec in options.models]
    for model in models[1:] if options.kl else ():
        check_models((models[0], model))
    how = Options(batch_tokens=options.batch_tokens, tokens=True, cache=cache, seed=options.seed, rarest=options.rarest)
    report = make_report([], report_output.targets.command)
    for task, protocol in pairs:
        common = _common(protocol, models)
        decision: Decision | None = None
        evaluations: Sequence[Evaluation]
        if options.until_decided:
            decision, evaluations = _decide(models, task, common, options, how)
        else:
            evaluations = [_evaluate(model, task, common, options, how) for model in models]
        report = msgspec.structs.replace(report, evaluations=[*report.evaluations, *evaluations])
        report_output.save(report)
        for model, evaluation in zip(models[1:], evaluations[1:], strict=True):
            comparison = msgspec.structs.replace(compare(evaluations[0], evaluation), decision=decision)
            if options.kl:
                comparison = _with_divergence(comparison, (models[0], model), task, common, options)
            yield comparison
    report_output.complete(report)


def _common(protocol: Protocol, models: Sequence[Model]) -> Protocol:
    from evalgpt.studies.compare.models import share_context

    shared, narrowed = share_context(protocol, models)
    if narrowed:
        click.echo(f"evalgpt: context {shared.context} for all models, the smallest of their defaults", err=True)
    return shared


def _evaluate(model: Model, task: Task, protocol: Protocol, options: CompareOptions, how: Options) -> Evaluation:
    from evalgpt.scoring.evaluate import evaluate

    with Bar(f"{model.spec} on {task.spec}", quiet=options.quiet) as bar:
        return evaluate(model, task, protocol, how, progress=bar)


def _decide(
    models: Sequence[Model], task: Task, protocol: Protocol, options: CompareOptions, how: Options
) -> tuple[Decision, Sequence[Evaluation]]:
    from evalgpt.studies.compare.models import decide

    baseline, candidate = models
    with Bar(f"{candidate.spec} against {baseline.spec}", quiet=options.quiet, unit="difference") as bar:
        return decide((baseline, candidate), task, protocol, replace(how, progress=bar))


def _with_divergence(
    comparison: Comparison, models: tuple[Model, Model], task: Task, protocol: Protocol, options: CompareOptions
) -> Comparison:
    from evalgpt.scoring.options import Options
    from evalgpt.studies.compare.models import divergence_of

    with Bar(f"KL of {models[1].spec} from {models[0].spec}", quiet=options.quiet, unit="KL") as bar:
        kl = divergence_of(models, task, protocol, Options(batch_tokens=options.batch_tokens, progress=bar))
    return msgspec.structs.replace(comparison, divergence=kl)


def _gate(comparisons: Sequence[Comparison], limit: float | None) -> int:
    """1 if any candidate is worse than the baseline by more than ``limit`` bits per byte, else 0."""
    if limit is None:
        return 0
    worse = [c for c in comparisons if c.bits_per_byte_difference.value > limit]
    for c in worse:
        click.echo(
            f"evalgpt: {c.candidate.model} is worse than {c.baseline.model} on {c.task} by "
            f"{c.bits_per_byte_difference.value:.4f} bits per byte, more than the {limit:g} allowed",
            err=True,
        )
    return 1 if worse else 0
