"""Checks of what is kept: from call to call, of what was given, and of what the whole process shares."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np

from evalgpt.core import GivesLogits, Window
from evalgpt.testing.subject import CheckFailed, Subject, gap

__all__ = ["check_process", "check_remembered", "check_stateless", "check_windows_kept"]


TRIALS = 4

LONG = 160
"""Ids of a window whose middle is far from both ends, for keys that hold these alone."""

NUMPYS_OWN = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
"""How numpy handles errors unless told otherwise."""


def check_stateless(subject: Subject) -> None:
    """A window's losses do not depend on what was scored before it."""
    ids = subject.draw(subject.length(12), "stateless")
    window = Window(ids, 1)
    (first,) = subject.nll(window)
    for salt in ("between", "again"):
        subject.nll(Window(subject.draw(subject.length(17), salt), 1))
        subject.nll(*(Window(subject.draw(subject.length(6), f"{salt} {k}"), 1) for k in range(3)))
        (later,) = subject.nll(window)
        if not gap(first, later) <= subject.allowed:
            raise CheckFailed(
                f"a window scored again after others differs by {gap(first, later):.4g} nats: is a key-value cache or "
                f"a recurrent state kept between calls?"
            )


def check_remembered(subject: Subject) -> None:
    """The same target after another context is scored anew."""
    target = subject.draw(1, "target")
    for trial in range(TRIALS):
        ids = [*subject.draw(subject.length(8) - 1, f"remembered {trial}"), *target]
        last, whole = subject.last(ids), float(subject.nll(Window(ids, 1))[0][-1])
        if not gap(last, whole) <= subject.allowed:
            raise CheckFailed(
                f"a token scored alone behind its context differs by {gap(last, whole):.4g} nats from the same token "
                f"scored with what comes before it: is a result kept by the scored tokens alone? Its key must hold all "
                f"that was fed"
            )
    if not subject.model.equal_lengths:  # else a longer window may have other losses
        _check_keys(subject)


def _check_keys(subject: Subject) -> None:
    """Windows that differ in one place, or in the order of two ids, are told apart.

    Each is scored after the one it resembles; the loss to compare with is taken from a window that is longer by one.
    """
    length = subject.length(14) - 1
    if length < 4:
        return
    for trial in range(TRIALS // 2):
        ids = subject.draw(length, f"keys {trial}")
        for at in sorted({0, 1, length // 2, length - 2}):
            _check_told_apart(subject, ids, _changed(subject, ids, at), f"id {at} alone")
        _check_told_apart(subject, ids, [ids[1], ids[0], *ids[2:]], "the order of ids")
        turned = [*ids[-2::-1], ids[-1]]
        _check_told_apart(subject, ids, turned, "the order of all ids before the target")
    ids = subject.draw(subject.length(LONG) - 1, "keys")
    middle = len(ids) // 2
    _check_told_apart(subject, ids, _changed(subject, ids, middle), f"id {middle} alone")


def _changed(subject: Subject, ids: list[int], at: int) -> list[int]:
    return [*ids[:at], subject.another(ids[at]), *ids[at + 1 :]]


def _check_told_apart(subject: Subject, ids: list[int], like: list[int], what: str) -> None:
    subject.last(ids)
    found = subject.last(like)
    (longer,) = subject.nll(Window([*like, subject.another(like[0])], 1))
    if not gap(found, float(longer[-2])) <= subject.allowed:
        raise CheckFailed(
            f"scored after a window of {len(ids)} ids from which it differs in {what}, a window's loss is "
            f"{gap(found, float(longer[-2])):.4g} nats off: is a result kept under a key or a hash that leaves out "
            f"some ids, or their order?"
        )


def check_process(subject: Subject) -> None:
    """Scoring leaves random number generators, torch's defaults and numpy's error handling as they are."""
    windows = [Window(subject.draw(subject.length(8), f"process {k}"), 1) for k in range(2)]
    subject.nll(windows[0])  # what is loaded and compiled at the first call is no fault
    kept = random.getstate(), np.random.get_state(legacy=True), np.geterr()
    torch: Any = sys.modules.get("torch")
    kept_by_torch = None if torch is None else _torchs(torch)
    try:
        _as_a_process_begins(torch)  # else what the first call changed would look as if it had always been so
        random.random()  # noqa: S311 - else a generator that the first call seeded would look untouched
        np.random.random()
        if torch is not None:
            torch.rand(1)
        before = _shared()
        subject.nll(windows[1])
        if isinstance(subject.model, GivesLogits):
            subject.model.next_logits(windows[1].ids[:-1], 1)
        subject.encode("some text")
        changed = [name for name, value in _shared().items() if value != before.get(name)]
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        np.seterr(**kept[2])
        if kept_by_torch is not None:
            _set_torchs(torch, *kept_by_torch)
    if changed:
        raise CheckFailed(
            f"score(), next_logits() or encode() changed {', '.join(changed)} of the whole process: what runs after, "
            f"as training or another model, is then another. Use a generator of the model's own, or a context manager"
        )


def _as_a_process_begins(torch: Any) -> None:
    """Set what an adapter may have changed to the defaults of numpy and ``torch``."""
    np.seterr(**NUMPYS_OWN)  # type: ignore[arg-type]
    if torch is not None:
        _set_torchs(torch, torch.random.get_rng_state(), torch.float32, True, 0)


def _torchs(torch: Any) -> tuple[Any, ...]:
    """The state of torch's generator, its default dtype, grad mode and deterministic mode."""
    modes = (torch.is_grad_enabled(), torch.get_deterministic_debug_mode())
    return (torch.random.get_rng_state(), torch.get_default_dtype(), *modes)


def _set_torchs(torch: Any, generator: Any, dtype: Any, grad: bool, deterministic: int) -> None:
    torch.random.set_rng_state(generator)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
    torch.set_deterministic_debug_mode(deterministic)


def _shared() -> dict[str, Any]:
    """What all code of this process shares, by name. torch is looked at where an adapter has loaded it."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "the state of random": random.getstate(),
        "numpy's global generator": (kind, np.asarray(keys).tobytes(), *rest),
        "numpy's error handling": np.geterr(),
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        found["torch's global generator"] = torch.random.get_rng_state().numpy().tobytes()
        found["torch's default dtype"] = str(torch.get_default_dtype())
        found["torch's grad mode"] = torch.is_grad_enabled()
        found["torch's deterministic algorithms"] = torch.are_deterministic_algorithms_enabled()
    return found


def check_windows_kept(subject: Subject) -> None:
    """Windows stay as they were given, and an answer as it was when the next one is made."""
    ids = subject.draw(subject.length(9), "kept")
    given = [Window(list(ids), 1), Window(list(ids[:2]), 1)]
    (scores, _) = subject.scores(given)
    before = np.array(scores.nll)
    subject.scores([Window(subject.draw(len(ids), "kept too"), 1)])
    if not np.array_equal(before, np.asarray(scores.nll), equal_nan=True):
        raise CheckFailed("a later call changes the losses that an earlier one returned; give each call its own array")
    if [list(window.ids) for window in given] != [ids, ids[:2]]:
        raise CheckFailed("score() changed the ids of a window it was given; copy them before padding or shifting")
