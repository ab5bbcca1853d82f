"""``evalgpt compare``: which of two models is better on a text, by how much, and how sure."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
import msgspec

from evalgpt.cli.app import rarest
from evalgpt.cli.options import ModelOptions, common, models, output, running, tasks
from evalgpt.cli.progress import Bar
from evalgpt.cli.shell import goes_with, state_of, targets_of
from evalgpt.core import Model, Task, UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.core.protocol import Protocol
from evalgpt.report.describe import make_report
from evalgpt.report.document import Evaluation, read_report, to_json, write_report
from evalgpt.report.files import STDOUT, write_bytes
from evalgpt.report.targets import check_distinct, document_kind, own_command
from evalgpt.scoring.cache import ScoreCache
from evalgpt.scoring.evaluate import evaluate
from evalgpt.scoring.options import Options
from evalgpt.scoring.strata import RAREST
from evalgpt.studies.compare.comparison import Comparison, Comparisons, Decision, compare, pairs_of
from evalgpt.studies.compare.divergence import check_models
from evalgpt.studies.compare.models import decide, divergence_of, share_context
from evalgpt.views.terminal.comparison import print_comparisons

__all__ = ["CompareOptions", "command", "compare_all"]


@click.command("compare")
@click.argument("reports", nargs=-1, metavar="[REPORT]...")
@models(help="A model to run; the first is the baseline.")
@tasks(help="A task to run them on.")
@running
@click.option("--kl", is_flag=True, help="Also the KL divergence from the baseline (one vocabulary).")
@click.option("--until-decided", is_flag=True, help="Stop when it is settled which of two is better on this text.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order, until decided.")
@rarest("--until-decided")
@click.option("--fail-if-worse", type=float, metavar="X", help="Exit 1 if worse by more than X bits per byte.")
@output("the comparison")
@click.option("--save-report", metavar="FILE", help="Keep the report of the runs.")
@common
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Compare models on the same text: which is better, by how much, and how sure.

    Give reports made by 'run -o', or models and tasks to run. The first is the baseline. With one tokenizer, tokens are
    paired; with different ones, stretches of the same bytes.

    \b
    Try:  evalgpt compare before.json after.json
          evalgpt compare -m scratch -m smollm2 -t verdict
          evalgpt compare before.json after.json --fail-if-worse 0.01
    """

    goes_with(ctx, seed="until_decided", rarest="until_decided")
    targets = targets_of(ctx)
    code = compare_all(state_of(ctx).plugins, CompareOptions(**options, targets=targets), targets.command)
    ctx.exit(code)


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ModelOptions):
    """The options of ``evalgpt compare``."""

    reports: Sequence[str] = ()
    kl: bool = False
    until_decided: bool = False
    seed: int = 0
    rarest: float = RAREST
    fail_if_worse: float | None = None
    save_report: str | None = None


def compare_all(plugins: Plugins, options: CompareOptions, command: Sequence[str]) -> int:
    """Compare reports, or run the models and compare; the exit code."""
    _check(options)
    if options.reports:
        evaluations = [e for path in options.reports for e in read_report(path).evaluations]
        comparisons = _against_first(evaluations, strict=options.fail_if_worse is not None)
    else:
        comparisons = []
        try:
            with options.open_cache() as cache:
                for comparison in _run(plugins, options, command, cache):
                    comparisons.append(comparison)  # one by one: what was compared before a failure is shown
        except Exception:
            print_comparisons(comparisons, err=options.output in STDOUT)
            raise
    print_comparisons(comparisons, err=options.output in STDOUT)
    data = to_json(Comparisons(command=own_command(command), comparisons=comparisons))
    if options.output in STDOUT:
        sys.stdout.buffer.write(data)
    elif options.output is not None:
        write_bytes(data, options.output)
    return _gate(comparisons, options.fail_if_worse)


def _check(options: CompareOptions) -> None:
    if bool(options.reports) == bool(options.models):
        raise UsageError("give either reports, or models with -m and tasks with -t, to compare")
    if options.models and (len(options.models) < 2 or not options.tasks):
        raise UsageError("a comparison needs two models or more (-m A -m B) and a task (-t T)")
    if options.until_decided and len(options.models) > 2:
        raise UsageError("--until-decided compares two models; give two with -m")
    if options.until_decided and options.fail_if_worse is not None:
        raise UsageError("--fail-if-worse is of the whole text, and --until-decided stops before; give one of them")
    if options.until_decided and options.kl:
        raise UsageError("--kl is of the whole text, and --until-decided stops before; give one of them")
    names = ("protocol", "context", "stride", "device", "dtype", "batch_tokens", "kl", "until_decided", "save_report")
    given = ["--task"] * bool(options.tasks)
    given += [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
    if options.reports and given:
        raise UsageError(f"{given[0]} goes with models to run (-m), not with reports that are already there")
    limit = options.fail_if_worse
    if limit is not None and not 0 <= limit < math.inf:
        raise UsageError(f"--fail-if-worse takes bits per byte from 0 up, not {limit}")
    if options.save_report in STDOUT:
        raise UsageError("--save-report needs a file; -o - writes the comparison to standard output")
    named = ((options.output, document_kind("comparison")), (options.save_report, document_kind("report")))
    written = [(path, kind) for path, kind in named if path is not None and path not in STDOUT]
    check_distinct(*(path for path, _ in written))
    for path, kind in written:
        options.reads().reading(files=options.reports).check(path, kind)


def _against_first(evaluations: Sequence[Evaluation], strict: bool) -> list[Comparison]:
    pairs, left_out = pairs_of(evaluations)
    if left_out and strict:
        raise UsageError(f"with --fail-if-worse every text must be compared, and this was not: {left_out[0]}")
    for text in left_out:
        click.echo(f"evalgpt: not compared: {text}", err=True)
    for part in dict.fromkeys(part for pair in pairs for e in pair if (part := _part(e)) is not None):
        if strict:
            raise UsageError(f"--fail-if-worse is of whole texts, and {part}; run it without --precision")
        click.echo(f"evalgpt: only what was scored is compared: {part}", err=True)
    return [compare(*pair) for pair in pairs]


def _part(evaluation: Evaluation) -> str | None:
    """Which part of its text was scored, in words; None for all of it."""
    sample = evaluation.sample
    if sample is None or sample.windows == sample.of:
        return None
    return f"{evaluation.model.spec} scored {sample.windows} of {sample.of} windows of {evaluation.task.spec}"


def _run(
    plugins: Plugins, options: CompareOptions, command: Sequence[str], cache: ScoreCache | None
) -> Iterator[Comparison]:
    options.check(plugins)
    pairs = [options.build_task(plugins, spec) for spec in options.tasks]
    models = [options.build_model(plugins, spec) for spec in options.models]
    for model in models[1:] if options.kl else ():
        check_models((models[0], model))
    how = Options(batch_tokens=options.batch_tokens, tokens=True, cache=cache, seed=options.seed, rarest=options.rarest)
    report = make_report([], command)
    for task, protocol in pairs:
        common = _common(protocol, models)
        decision: Decision | None = None
        evaluations: Sequence[Evaluation]
        if options.until_decided:
            decision, evaluations = _decide(models, task, common, options, how)
        else:
            evaluations = [_evaluate(model, task, common, options, how) for model in models]
        report = msgspec.structs.replace(report, evaluations=[*report.evaluations, *evaluations])
        if options.save_report is not None:
            write_report(report, options.save_report)
        for model, evaluation in zip(models[1:], evaluations[1:], strict=True):
            found = msgspec.structs.replace(compare(evaluations[0], evaluation), decision=decision)
            if options.kl:
                found = _with_divergence(found, (models[0], model), task, common, options)
            yield found


def _common(protocol: Protocol, models: Sequence[Model]) -> Protocol:
    shared, narrowed = share_context(protocol, models)
    if narrowed:
        click.echo(f"evalgpt: context {shared.context} for all models, the most that each takes", err=True)
    return shared


def _evaluate(model: Model, task: Task, protocol: Protocol, options: CompareOptions, how: Options) -> Evaluation:
    with Bar(f"{model.spec} on {task.spec}", quiet=options.quiet) as bar:
        return evaluate(model, task, protocol, how, progress=bar)


def _decide(
    models: Sequence[Model], task: Task, protocol: Protocol, options: CompareOptions, how: Options
) -> tuple[Decision, Sequence[Evaluation]]:
    one, other = models
    with Bar(f"{other.spec} against {one.spec}", quiet=options.quiet, unit="difference") as bar:
        return decide((one, other), task, protocol, replace(how, progress=bar))


def _with_divergence(
    found: Comparison, models: tuple[Model, Model], task: Task, protocol: Protocol, options: CompareOptions
) -> Comparison:
    with Bar(f"KL of {models[1].spec} from {models[0].spec}", quiet=options.quiet, unit="KL") as bar:
        kl = divergence_of(models, task, protocol, Options(batch_tokens=options.batch_tokens, progress=bar))
    return msgspec.structs.replace(found, divergence=kl)


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
