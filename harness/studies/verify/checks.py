"""What a report stores beside what is made again: the first difference is an error that names it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.core import EvaluationError, Model, UsageError
from evalgpt.core.finding import LEFT_OUT
from evalgpt.core.protocol import Protocol
from evalgpt.report.describe import model_info
from evalgpt.report.document import Evaluation, RowInfo, TaskInfo, Tokenized
from evalgpt.scoring.engine import Place, Plan
from evalgpt.scoring.sampling import Draw, drawn, keep_sample, replayed

__all__ = [
    "SAME",
    "Verified",
    "check_config",
    "check_losses",
    "check_model",
    "check_numbers",
    "check_sample",
    "check_settings",
    "check_text",
    "check_windows",
    "keep_drawn",
    "mean_bound",
]


SAME = 1e-9
"""Relative difference of a number from the one that the stored losses give: the order of a float64 sum."""


OLD_MEMORY_NOTE = "a batch of {} tokens did not fit the memory; the last ones had at most {}"
"""What reports said in their notes before they had ``timing.failed_batch_tokens``, with ``batch_tokens`` at the end."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared: ``losses`` compared of ``of`` in the report, the largest and the mean difference in nats."""

    losses: int
    of: int
    largest: float
    mean: float
    tolerance: float


def check_model(evaluation: Evaluation, model: Model) -> None:
    stored, now = _plain(evaluation.model), _plain(model_info(model))
    if stored["fingerprint"] != now["fingerprint"]:
        raise _differs("weights", "fingerprint", stored["fingerprint"][:24], now["fingerprint"][:24])
    for left_out in ("spec", "device", "runtime", "config"):
        del stored[left_out], now[left_out]
    for path, one, other in _leaves("model", stored, now):
        if one != other:
            what = "tokenizer" if path.startswith("model.tokenizer") else "model"
            raise _differs(what, path.removeprefix("model."), one, other)


def check_config(evaluation: Evaluation, model: Model) -> None:
    for path, one, other in _leaves("config", _plain(evaluation.model.config), _plain(model_info(model).config)):
        if one != other:
            raise _differs("model", path, one, other)


def check_text(evaluation: Evaluation, found: TaskInfo) -> None:
    now, stored = msgspec.to_builtins(found), msgspec.to_builtins(evaluation.task)
    for key in ("sha256", "documents", "characters", "bytes", "name"):
        if stored[key] != now[key]:
            raise _differs("text", key, str(stored[key])[:16], str(now[key])[:16])


def check_settings(evaluation: Evaluation, bound: Protocol) -> None:
    if bound.source != evaluation.protocol.source:
        raise _differs("protocol", "source", evaluation.protocol.source, bound.source)
    now = bound.settings()
    for key in sorted({*now, *evaluation.protocol.settings}):
        if now.get(key) != evaluation.protocol.settings.get(key):
            raise _differs("protocol", key, evaluation.protocol.settings.get(key), now.get(key))


def keep_drawn(evaluation: Evaluation, plans: Sequence[Plan]) -> Draw | None:
    """Leave in ``plans`` what the report's sample drew.

    Raises:
        EvaluationError: a sample without the assumption behind its order and its stop.
    """
    sample = evaluation.sample
    if sample is None:
        return None
    if sample.rarest is None:
        raise EvaluationError(
            "numbers: sample.rarest is missing: a version of evalgpt that is no longer followed stopped this run; "
            "run it again to verify it"
        )
    try:
        draw = drawn(plans, sample.seed, sample.rarest)
    except UsageError as error:  # no run can have had it
        raise EvaluationError(f"numbers: sample: {error}") from None
    keep_sample(plans, draw.chosen[: max(sample.windows, 0)])
    return draw


def check_sample(
    evaluation: Evaluation,
    draw: Draw,
    losses_of: Sequence[Sequence[NDArray[np.float32]]],
    close: float = SAME,
) -> None:
    """Let the rule that stopped the run see the losses of each plan's windows again; bounds may differ by ``close`` of
    their size."""
    if evaluation.sample is None:
        return
    order = draw.chosen[: max(evaluation.sample.windows, 0)]
    by_plan = itertools.groupby(sorted(order), key=lambda place: place[0])
    number = {place: at for _, own in by_plan for at, place in enumerate(own)}  # among the plan's scored windows
    losses = [losses_of[place[0]][number[place]] for place in order]
    now = replayed(evaluation.sample, draw, losses)
    for path, one, other in _leaves("sample", _plain(evaluation.sample), _plain(now)):
        apart = isinstance(one, float) and isinstance(other, float) and abs(one - other) <= close * max(abs(one), 1)
        if one != other and not apart:
            raise EvaluationError(f"numbers: {path} is {one} in the report and {other} by the losses of its windows")


def check_windows(evaluation: Evaluation, plans: Sequence[Plan]) -> list[list[NDArray[np.float32]]] | None:
    """The stored losses by plan and window, if tokens and windows are those planned now; None if none are kept."""
    rows = evaluation.rows
    if len(rows) != len(plans):
        raise _differs("protocol", "rows", len(rows), len(plans))
    stored = []
    for number, (row, plan) in enumerate(zip(rows, plans, strict=True)):
        where = f"rows[{number}] ({row.id})"
        _check_row(where, row, plan)
        if row.tokenized is not None:
            stored.append(_losses(where, row.tokenized, plan))
    if stored and len(stored) < len(rows):
        raise EvaluationError("numbers: some rows of the report keep the losses of single tokens and some do not")
    return stored or None


def _check_row(where: str, row: RowInfo, plan: Plan) -> None:
    scores = sum(len(w.ids) - w.start for w in plan.windows)
    for what, key, now in (
        ("text", "id", plan.document.id),
        ("text", "split", plan.piece.split),
        ("tokens", "tokens", len(plan.encoding.ids)),
        ("tokens", "context_tokens", plan.context_tokens),
        ("protocol", "scores", scores),
    ):
        if getattr(row, key) != now:
            raise _differs(what, f"{where}.{key}", getattr(row, key), now)


def _losses(where: str, stored: Tokenized, plan: Plan) -> list[NDArray[np.float32]]:
    ids = [int(i) for i in plan.encoding.ids]
    if stored.ids != ids:
        at = next(i for i, (a, b) in enumerate(zip(stored.ids, ids, strict=True)) if a != b)
        raise _differs("tokens", f"{where}, token {at}", stored.ids[at], ids[at])
    windows = [(w.begin + w.start, len(w.ids) - w.start, w.start) for w in plan.windows]
    kept = list(zip(stored.first, stored.size, stored.context, strict=True))
    if kept != windows:
        at = next(
            (i for i, (a, b) in enumerate(zip(kept, windows, strict=False)) if a != b), min(len(kept), len(windows))
        )
        told = "first {}, size {}, context {}"
        one, other = (told.format(*w[at]) if at < len(w) else "absent" for w in (kept, windows))
        raise _differs("protocol", f"{where}, window {at}", one, other)
    if len(stored.nll) != sum(stored.size):
        raise EvaluationError(f"losses: {where} has {len(stored.nll)} losses for {sum(stored.size)} scored tokens")
    if not stored.size:
        return []
    return np.split(np.asarray(stored.nll, dtype=np.float32), np.cumsum(stored.size)[:-1])


def check_losses(
    plans: Sequence[Plan],
    chosen: Sequence[Place],
    stored: Sequence[Sequence[NDArray[np.float32]]],
    allowed: float,
) -> Verified:
    largest, total, signed, count = 0.0, 0.0, 0.0, 0
    for number, i in chosen:
        plan, kept = plans[number], stored[number][i].astype(np.float64)
        nll = plan.scores[i].nll
        change = nll.astype(np.float64) - kept
        apart = np.abs(change)
        worst = int(apart.argmax())
        if not apart[worst] <= allowed:
            at = plan.windows[i].begin + plan.windows[i].start + worst
            raise EvaluationError(
                f"losses: token {at} of {plan.document.id!r} has {kept[worst]:.6g} nats in the report and "
                f"{nll[worst]:.6g} now, {apart[worst]:.2g} apart where {allowed:g} is allowed"
            )
        largest, total, count = max(largest, float(apart[worst])), total + float(apart.sum()), count + len(apart)
        signed += float(change.sum())
    if abs(signed) / max(count, 1) > mean_bound(allowed, count):
        raise EvaluationError(
            f"losses: on average they are {signed / count:+.3g} nats away from the report's, all to one side, where "
            f"rounding goes both ways; {mean_bound(allowed, count):.2g} is allowed"
        )
    everything = sum(len(losses) for row in stored for losses in row)
    return Verified(count, everything, largest, total / max(count, 1), allowed)


def check_numbers(evaluation: Evaluation, found: dict[str, Any], allowed: float | None) -> None:
    """Compare every number: with those that the stored losses give, exactly but for the order of sums, or, where
    ``allowed`` says so, with those of losses scored now, counts exactly and others that far apart."""
    close, source = (SAME, "by the losses it keeps") if allowed is None else (allowed, "now")
    for name, now in found.items():
        stored = _plain(getattr(evaluation, name))
        if name == "notes":
            stored, now = (
                [n for n in notes if not n.startswith(LEFT_OUT)] for notes in (lasting_notes(evaluation), now)
            )
        for path, one, other in _leaves(name, stored, _plain(now)):
            if one == other:
                continue
            real = isinstance(one, float) or isinstance(other, float)
            if real and None not in (one, other) and abs(one - other) <= close * max(abs(one), abs(other)):
                continue
            raise EvaluationError(f"numbers: {path} is {one} in the report and {other} {source}")


def lasting_notes(evaluation: Evaluation) -> list[str]:
    """The notes but for that of the run's memory, which reports without ``timing.failed_batch_tokens`` keep at the
    end."""
    if evaluation.timing.failed_batch_tokens is None and evaluation.notes:
        *notes, last = evaluation.notes
        failed = next((word for word in last.split() if word.isdecimal()), None)
        if last == OLD_MEMORY_NOTE.format(failed, evaluation.batch_tokens):
            return notes
    return evaluation.notes


def _leaves(path: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _leaves(f"{path}.{key}", one.get(key), other.get(key))
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            yield f"{path}.length", len(one), len(other)
            return
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from _leaves(f"{path}[{number}]", *pair)
    else:
        yield path, one, other


def _plain(document: object) -> Any:
    """``document`` as a report's file holds it."""
    return msgspec.json.decode(msgspec.json.encode(document))


def mean_bound(allowed: float, count: int) -> float:
    """By how much the mean of ``count`` losses may differ, each of which may by ``allowed``: rounding has no side."""
    return 2 * allowed / math.sqrt(max(count, 1))


def _differs(what: str, field: str, stored: object, now: object) -> EvaluationError:
    return EvaluationError(f"{what}: {field} is {stored} in the report and {now} now")
