"""``evalgpt check``: run the conformance kit on a model and say what is wrong with its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from evalgpt.cli.options import ModelOptions, common, names_of, option, takes
from evalgpt.cli.output import Output, output
from evalgpt.cli.progress import waiting
from evalgpt.cli.shell import state_of
from evalgpt.core import Model, UsageError
from evalgpt.core.guard import calling, described
from evalgpt.core.plugins import Plugins
from evalgpt.core.specs import parse

if TYPE_CHECKING:
    from evalgpt.testing.kit import Outcome

__all__ = ["CheckOptions", "check_all", "command"]

MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped", "expected": "expected", "unexpected": "FAILED"}


@dataclass(frozen=True, kw_only=True)
class _OwnOptions:
    other: str | None = option(
        "--other", metavar="SPEC", help="The same kind of model with other weights; its fingerprint must differ."
    )
    only: Sequence[str] = option(
        "--only", multiple=True, metavar="NAME", help="Check to run; may be given several times."
    )
    expect: Sequence[str] = option(
        "--expect", multiple=True, metavar="NAME=REASON", help="Check that is known to fail, and why it does."
    )
    seed: int = option(
        "--seed", type=int, default=0, show_default=True, help="Seed of the random texts that the checks score."
    )
    tolerance: float | None = option(
        "--tolerance",
        type=float,
        metavar="NATS",
        help="Largest difference, in nats, between scores that must be equal.  [default: by dtype]",
    )
    longest: int = option(
        "--longest", type=click.IntRange(min=1), default=4096, show_default=True, help="Longest window, in tokens."
    )


@dataclass(frozen=True, kw_only=True)
class CheckOptions(ModelOptions, _OwnOptions):
    """The options of ``evalgpt check``."""


@click.command("check")
@click.argument("model", metavar="[SPEC]", required=False, shell_complete=names_of("model"))
@click.option("--list", "listing", is_flag=True, help="List the checks with what each asserts, and run none.")
@takes(CheckOptions)
@output("check", "the outcomes")
@common
@click.pass_context
def command(ctx: click.Context, /, model: str | None, listing: bool, options: CheckOptions, output: Output) -> None:
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
        ctx.exit(check_all(state_of(ctx).plugins, model, options, output))


def check_all(plugins: Plugins, spec: str, options: CheckOptions, output: Output) -> int:
    """Run the checks on the model of ``spec`` and print one line each; the exit code, 1 if any failed."""
    from evalgpt.testing.kit import Checked, names, run_check
    from evalgpt.testing.subject import Subject

    expected = _expected(options.expect)
    chosen = names(options.only)
    left_out = [name for name in expected if name not in chosen]
    if left_out:
        raise UsageError(f"--expect {left_out[0]} names a check that --only leaves out")
    output.reading(specs=list(filter(None, (spec, options.other)))).check()
    other = options.other or _other_seed(plugins, spec)
    options.check_models(plugins, *filter(None, (spec, other)))

    def build(spec: str) -> Model:
        return plugins.model(spec, device=options.device, dtype=options.dtype, checked=False)

    subject = Subject(
        build=lambda: build(spec),
        other=None if other is None else lambda: build(other),
        seed=options.seed,
        tolerance=options.tolerance,
        longest=options.longest,
    )
    with waiting(f"building {spec}", options.quiet):
        model = subject.model
    outcomes: list[Outcome] = []
    for name in chosen:
        with waiting(f"checking {name}", options.quiet):
            outcomes.append(run_check(subject, name, expected.get(name)))
        _print(outcomes, output.to_stdout)
    _summary(spec, outcomes, output.to_stdout)
    if output.path is not None:
        with calling(model, "its attributes"):
            fingerprint, allowed = getattr(model, "fingerprint", None), subject.allowed
        checked = Checked(
            command=output.command,
            model=spec,
            fingerprint=fingerprint if isinstance(fingerprint, str) else described(fingerprint),
            seed=options.seed,
            tolerance=allowed,
            outcomes=outcomes,
        )
        output.write(checked)
    return 0 if all(outcome.good for outcome in outcomes) else 1


def list_checks() -> None:
    """Print every check with what it asserts."""
    from evalgpt.testing.kit import CHECKS
    from evalgpt.views.terminal.console import console_for, say

    console = console_for()
    for name, check in CHECKS.items():
        say(console, name)
        say(console, " ".join((check.__doc__ or "").replace("``", "").split()), indent=4)


def _expected(given: Sequence[str]) -> dict[str, str]:
    from evalgpt.testing.kit import names

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
    """Print the last outcome; a message that an earlier check has is not repeated."""
    from evalgpt.views.terminal.console import console_for, say

    console = console_for(err=err)
    outcome = outcomes[-1]
    say(console, f"{MARKS[outcome.status]:<8} {outcome.check}")
    before = next((o.check for o in outcomes[:-1] if o.message == outcome.message), None)
    if outcome.message:
        say(console, outcome.message if before is None else f"the same as {before}", indent=9)


def _summary(model: str, outcomes: Sequence[Outcome], err: bool) -> None:
    from evalgpt.views.terminal.console import console_for, say

    counts = {status: sum(o.status == status for o in outcomes) for status in MARKS}
    failed = counts["failed"] + counts["unexpected"]
    parts = [f"{counts['passed']} passed", f"{failed} failed"]
    parts += [
        f"{counts[s]} {word}" for s, word in (("expected", "failed as expected"), ("skipped", "skipped")) if counts[s]
    ]
    say(console_for(err=err), f"{model}: {', '.join(parts)}; {sum(o.seconds for o in outcomes):.1f} s")
