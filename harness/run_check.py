"""``evalgpt check``: run the conformance kit on a model and say what is wrong with its adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from evalgpt.core import Model, UsageError
from evalgpt.plugins import Plugins
from evalgpt.progress import waiting
from evalgpt.render import console_for, say
from evalgpt.report import STDOUT, check_writable, to_json, write_bytes
from evalgpt.specs import parse
from evalgpt.testing import CHECKS, Checked, Outcome, Subject, names, run_check

__all__ = ["CheckOptions", "check_all"]

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
    device: str | None = None
    dtype: str | None = None
    output: str | None = None
    quiet: bool = False


def check_all(plugins: Plugins, options: CheckOptions) -> int:
    """Run the checks and print one line each; the exit code, 1 if any failed."""
    expected = _expected(options.expect)
    chosen = names(options.only)
    left_out = [name for name in expected if name not in chosen]
    if left_out:
        raise UsageError(f"--expect {left_out[0]} names a check that --only leaves out")
    if options.output is not None and options.output not in STDOUT:
        check_writable(options.output)
    given = {"device": options.device, "dtype": options.dtype}
    other = options.other or _other_seed(plugins, options.model)
    for spec in filter(None, (options.model, other)):
        plugins.check("model", spec, given)

    def build(spec: str) -> Model:
        return plugins.model(spec, device=options.device, dtype=options.dtype)

    subject = Subject(
        build=lambda: build(options.model),
        other=None if other is None else lambda: build(other),
        seed=options.seed,
        tolerance=options.tolerance,
    )
    with waiting(f"building {options.model}", options.quiet):
        model = subject.model
    err = options.output in STDOUT
    outcomes: list[Outcome] = []
    for name in chosen:
        with waiting(f"checking {name}", options.quiet):
            outcomes.append(run_check(subject, name, expected.get(name)))
        _print(outcomes[-1], err)
    _summary(options.model, outcomes, err)
    if options.output is not None:
        checked = Checked(
            model=options.model,
            fingerprint=model.fingerprint,
            seed=options.seed,
            tolerance=subject.allowed,
            outcomes=outcomes,
        )
        if err:
            sys.stdout.buffer.write(to_json(checked))
        else:
            write_bytes(to_json(checked), options.output)
    return 0 if all(outcome.good for outcome in outcomes) else 1


def list_checks() -> None:
    """Print every check with what it asserts."""
    for name, check in CHECKS.items():
        click.secho(name, bold=True, nl=False)
        click.echo(f"  {' '.join((check.__doc__ or '').split())}")


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


def _print(outcome: Outcome, err: bool) -> None:
    console = console_for(err=err)
    say(console, f"{MARKS[outcome.status]:<8} {outcome.check}")
    if outcome.message:
        say(console, outcome.message, indent=9)


def _summary(model: str, outcomes: Sequence[Outcome], err: bool) -> None:
    counts = {status: sum(o.status == status for o in outcomes) for status in MARKS}
    failed = counts["failed"] + counts["unexpected"]
    parts = [f"{counts['passed']} passed", f"{failed} failed"]
    parts += [
        f"{counts[s]} {word}" for s, word in (("expected", "failed as expected"), ("skipped", "skipped")) if counts[s]
    ]
    say(console_for(err=err), f"{model}: {', '.join(parts)}; {sum(o.seconds for o in outcomes):.1f} s")
