"""``evalgpt check``: run the conformance kit on a model and say what is wrong with its adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from evalgpt.cli.options import common, names_of, output
from evalgpt.cli.progress import waiting
from evalgpt.cli.shell import state_of, targets_of
from evalgpt.core import Model, UsageError
from evalgpt.core.guard import calling, described
from evalgpt.core.plugins import Plugins
from evalgpt.core.specs import parse
from evalgpt.report.document import to_json
from evalgpt.report.files import STDOUT, write_bytes
from evalgpt.report.targets import Targets, document_kind, own_command
from evalgpt.testing.kit import CHECKS, Checked, Outcome, names, run_check
from evalgpt.testing.subject import Subject
from evalgpt.views.terminal.console import console_for, say

__all__ = ["CheckOptions", "check_all", "command"]


@click.command("check")
@click.argument("model", metavar="[SPEC]", required=False, shell_complete=names_of("model"))
@click.option("--other", metavar="SPEC", help="The same kind of model with other weights, for the fingerprint.")
@click.option("--only", multiple=True, metavar="NAME", help="Run this check alone; may be given several times.")
@click.option("--expect", multiple=True, metavar="NAME=REASON", help="This check is known to fail, and why.")
@click.option("--list", "listing", is_flag=True, help="List the checks, and what each asserts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random texts that are scored.")
@click.option("--tolerance", type=float, metavar="NATS", help="By which equal scores may differ.  [default: by dtype]")
@click.option(
    "--longest", type=click.IntRange(min=1), default=4096, show_default=True, help="Longest window, in tokens."
)
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, float16, float64.  [default: float32]")
@output("the outcomes")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@common
@click.pass_context
def command(ctx: click.Context, /, model: str | None, listing: bool, **options: Any) -> None:
    """Check an adapter: shift, causality, padding, probabilities, tokenizer, fingerprint.

    Each check says what to look at when it fails; the exit code is then 1. Wrong adapters give plausible numbers.

    \b
    Try:  evalgpt check scratch
          evalgpt check --plugin my_plugin.py my-model:seed=1 --other my-model:seed=2
          evalgpt check hf:./my-model --expect round_trip="lower-cases by design"
    """

    if listing:
        list_checks()
    elif model is None:
        raise click.UsageError("Missing argument 'SPEC'.", ctx)
    else:
        ctx.exit(check_all(state_of(ctx).plugins, CheckOptions(model=model, **options, targets=targets_of(ctx))))


MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped", "expected": "expected", "unexpected": "FAILED"}


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of ``evalgpt check``."""

    model: str
    other: str | None = None
    only: Sequence[str] = ()
    expect: Sequence[str] = ()
    seed: int = 0
    tolerance: float | None = None
    longest: int = 4096
    device: str | None = None
    dtype: str | None = None
    output: str | None = None
    quiet: bool = False
    targets: Targets = field(default_factory=Targets)


def check_all(plugins: Plugins, options: CheckOptions) -> int:
    """Run the checks and print one line each; the exit code, 1 if any failed."""
    expected = _expected(options.expect)
    chosen = names(options.only)
    left_out = [name for name in expected if name not in chosen]
    if left_out:
        raise UsageError(f"--expect {left_out[0]} names a check that --only leaves out")
    if options.output is not None and options.output not in STDOUT:
        specs = list(filter(None, (options.model, options.other)))
        options.targets.reading(specs=specs).check(options.output, document_kind("check"))
    given = {"device": options.device, "dtype": options.dtype}
    other = options.other or _other_seed(plugins, options.model)
    for spec in filter(None, (options.model, other)):
        plugins.check("model", spec, given)

    def build(spec: str) -> Model:
        return plugins.model(spec, device=options.device, dtype=options.dtype, checked=False)

    subject = Subject(
        build=lambda: build(options.model),
        other=None if other is None else lambda: build(other),
        seed=options.seed,
        tolerance=options.tolerance,
        longest=options.longest,
    )
    with waiting(f"building {options.model}", options.quiet):
        model = subject.model
    err = options.output in STDOUT
    outcomes: list[Outcome] = []
    for name in chosen:
        with waiting(f"checking {name}", options.quiet):
            outcomes.append(run_check(subject, name, expected.get(name)))
        _print(outcomes, err)
    _summary(options.model, outcomes, err)
    if options.output is not None:
        with calling(model, "its attributes"):
            fingerprint, allowed = getattr(model, "fingerprint", None), subject.allowed
        checked = Checked(
            command=own_command(options.targets.command),
            model=options.model,
            fingerprint=fingerprint if isinstance(fingerprint, str) else described(fingerprint),
            seed=options.seed,
            tolerance=allowed,
            outcomes=outcomes,
        )
        if err:
            sys.stdout.buffer.write(to_json(checked))
        else:
            write_bytes(to_json(checked), options.output)
    return 0 if all(outcome.good for outcome in outcomes) else 1


def list_checks() -> None:
    """Print every check with what it asserts."""
    console = console_for()
    for name, check in CHECKS.items():
        say(console, name)
        say(console, " ".join((check.__doc__ or "").replace("``", "").split()), indent=4)


def _expected(given: Sequence[str]) -> dict[str, str]:
    expected = {}
    for item in given:
        name, _, reason = item.partition("=")
        if not reason.strip():
            raise UsageError(f"--expect takes NAME=REASON, as in round_trip='drops case by design', not {item!r}")
        names([name])
        expected[name] = reason.strip()
    return expected


def _other_seed(plugins: Plugins, spec: str) -> str | None:
    """The same model from another seed, where that is what its weights come from."""
    parsed = parse(spec)
    seed = plugins.find("model", parsed.name).options.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or parsed.options.get("weights"):
        return None
    try:
        other = int(parsed.options.get("seed", seed)) + 1
    except ValueError:
        return None  # the spec is refused when the model is built
    return str(type(parsed)(parsed.name, parsed.argument, {**parsed.options, "seed": str(other)}))


def _print(outcomes: Sequence[Outcome], err: bool) -> None:
    """Print the last outcome; what was told before is not told again."""
    console = console_for(err=err)
    outcome = outcomes[-1]
    say(console, f"{MARKS[outcome.status]:<8} {outcome.check}")
    before = next((o.check for o in outcomes[:-1] if o.message == outcome.message), None)
    if outcome.message:
        say(console, outcome.message if before is None else f"the same as {before}", indent=9)
    if outcome.check == "repeatable" and outcome.status == "failed":
        say(console, "scores that differ by themselves fail most of what follows; mend this first", indent=9)


def _summary(model: str, outcomes: Sequence[Outcome], err: bool) -> None:
    counts = {status: sum(o.status == status for o in outcomes) for status in MARKS}
    failed = counts["failed"] + counts["unexpected"]
    parts = [f"{counts['passed']} passed", f"{failed} failed"]
    parts += [
        f"{counts[s]} {word}" for s, word in (("expected", "failed as expected"), ("skipped", "skipped")) if counts[s]
    ]
    say(console_for(err=err), f"{model}: {', '.join(parts)}; {sum(o.seconds for o in outcomes):.1f} s")
