"""Running the checks of the conformance kit; :mod:`evalgpt.testing testing_rubbish` is its face."""

from __future__ import annotations

import difflib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import msgspec

from evalgpt.core import Model, UsageError
from evalgpt.core.guard import PluginError, calling, reason
from evalgpt.core.streams import foreign
from evalgpt.testing.checks import distribution as checks_distribution
from evalgpt.testing.checks import lengths as checks_lengths
from evalgpt.testing.checks import logits as checks_logits
from evalgpt.testing.checks import precision as checks_precision
from evalgpt.testing.checks import score as checks_score
from evalgpt.testing.checks import state as checks_state
from evalgpt.testing.checks import text as checks_text
from evalgpt.testing.checks import text_kept as checks_text_kept
from evalgpt.testing.subject import Check, CheckFailed, CheckSkipped, Subject, check_sizes

if TYPE_CHECKING:
    import pytest

__all__ = ["CHECKS", "Checked", "Outcome", "names", "parametrize", "run_check", "run_checks"]


def _checks(*modules: ModuleType) -> dict[str, Check]:
    return {
        name.removeprefix("check_"): getattr(module, name)
        for module in modules
        for name in vars(module)
        if name.startswith("check_") and name in module.__all__
    }


ALL = _checks(
    checks_text,
    checks_text_kept,
    checks_score,
    checks_state,
    checks_distribution,
    checks_logits,
    checks_precision,
    checks_lengths,
)

FIRST = ("attributes", "repeatable", "lengths")

CHECKS: Mapping[str, Check] = {name: ALL[name] for name in dict.fromkeys((*FIRST, *ALL))}
"""Every check by name, in the order in which they run.

What is not repeatable fails most of the others too, and ``lengths`` must come before checks that feed long windows.
"""

Status = Literal["passed", "failed", "skipped", "expected", "unexpected"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one check: ``expected`` failed as announced, ``unexpected`` passed though a failure was."""

    check: str
    status: Status
    message: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.status in ("passed", "skipped", "expected")


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What ``evalgpt check -o`` writes."""

    schema: Literal["evalgpt.check/1"] = "evalgpt.check/1"
    command: list[str] = []
    model: str
    fingerprint: str
    seed: int
    tolerance: float
    outcomes: list[Outcome]


def names(wanted: Iterable[str]) -> list[str]:
    """The checks in ``wanted``, all without any.

    Raises:
        UsageError: there is no such check.
    """
    chosen = list(wanted) or list(CHECKS)
    for name in chosen:
        if name not in CHECKS:
            close = difflib.get_close_matches(name, CHECKS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(f"there is no check {name!r}; {hint}known: {', '.join(CHECKS)}")
    return chosen


def run_checks(
    subject: Subject, *, only: Iterable[str] = (), expected: Mapping[str, str] | None = None
) -> Iterator[Outcome]:
    """Run the checks one after the other; ``expected`` gives a reason for each check that is known to fail.

    Raises:
        UsageError: a name that is no check's.
    """
    expected = expected or {}
    names(expected)
    for name in names(only):
        yield run_check(subject, name, expected.get(name))


def run_check(subject: Subject, name: str, reason: str | None = None) -> Outcome:
    """Run one check; ``reason`` is why it is expected to fail.

    Raises:
        EvalgptError: the model could not be built at all.
    """
    with calling("the model", "building it"):
        _ = subject.model  # a model that cannot be built is no finding about one
    began = time.perf_counter()
    status: Status = "passed"
    message = ""
    try:
        _run(subject, CHECKS[name])
    except CheckSkipped as skipped:
        status, message = "skipped", str(skipped)
    except CheckFailed as failed:
        status, message = "failed", str(failed)
    if reason is not None and status != "skipped":
        status = "expected" if status == "failed" else "unexpected"
        message = f"{reason} ({message})" if message else f"expected to fail ({reason}), and passed"
    return Outcome(check=name, status=status, message=message, seconds=time.perf_counter() - began)


def _run(subject: Subject, check: Check) -> None:
    """Run ``check``; what the adapter raises, whatever it is, fails it.

    Raises:
        CheckSkipped, CheckFailed: as the check says.
    """
    try:
        with foreign():
            check_sizes(subject.model)
            check(subject)
    except (CheckSkipped, CheckFailed, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise CheckFailed(_raised(error)) from error


def _raised(error: BaseException) -> str:
    """What an adapter raised, and the last line of it that Python can tell."""
    told, cause = reason(error), error.__cause__ if isinstance(error, PluginError) else None
    frames = traceback.extract_tb((cause or error).__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"the adapter raised {told}{where}"


def parametrize(
    build: Callable[[], Model],
    *,
    other: Callable[[], Model] | None = None,
    expected: Mapping[str, str] | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    longest: int = 4096,
) -> pytest.MarkDecorator:
    """A pytest decorator that gives a test function every check as its argument ``check``, to be called.

    The ids are the names of the checks. A check named in ``expected`` must fail (a strict xfail with its reason); one
    that cannot tell skips with what it would need.

    Args:
        build: builds the model, at the first check that runs.
        other: builds a model of the same kind with other weights.
        expected: for each check that is known to fail, why.
        seed: of everything that is drawn.
        tolerance: nats per token by which equal scores may differ; by default what rounding does to the model's dtype.
        longest: the longest window to try, in tokens fed.

    Raises:
        UsageError: ``expected`` names no check.
    """
    import pytest

    expected = expected or {}
    names(expected)
    subject = Subject(build, other, seed, tolerance, longest)

    def bound(check: Check) -> Callable[[], None]:
        def run() -> None:
            _ = subject.model  # a model that cannot be built is no failure that was expected
            try:
                _run(subject, check)
            except CheckSkipped as skipped:
                pytest.skip(str(skipped))

        return run

    def marks(name: str) -> list[pytest.MarkDecorator]:
        known = name in expected
        return [pytest.mark.xfail(reason=expected[name], strict=True, raises=CheckFailed)] if known else []

    return pytest.mark.parametrize(
        "check", [pytest.param(bound(check), id=name, marks=marks(name)) for name, check in CHECKS.items()]
    )
