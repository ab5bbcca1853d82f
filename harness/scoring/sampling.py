"""Windows in random order until the answer is known as precisely as asked, or the better model is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import EvaluationError, UsageError
from evalgpt.core.answers import picked
from evalgpt.report.document import Sample
from evalgpt.scoring.batching import Scorer
from evalgpt.scoring.engine import Plan, Progress, place_of
from evalgpt.scoring.sequential import Interval, Sequential, half_width, precise_enough
from evalgpt.scoring.strata import BOUNDARY_LEVEL, LEVEL, RAREST, Design, design, unigram_loss

__all__ = ["Draw", "drawn", "keep_sample", "replayed", "until_precise"]


_PRECISIONS = "a share of the perplexity between 0 and 1, as in 1% or 0.01"

Chosen = list[tuple[Plan, int]]


@dataclass(frozen=True, slots=True)
class Draw:
    """All windows in the order in which they are scored, as (plan, window's number) pairs, and how it was made.

    ``tokens`` is the number of scored tokens of all windows.
    """

    chosen: Chosen
    design: Design
    seed: int
    tokens: int

    def rule(self, precision: float | None) -> Sequential:
        """The rule that says when to stop, at a precision or where a sign is decided."""
        target = None if precision is None else half_width(precision)
        design = self.design
        return Sequential(len(self.chosen), self.tokens, BOUNDARY_LEVEL, target, design.first, design.strata)


def drawn(plans: Sequence[Plan], seed: int, rarest: float = RAREST) -> Draw:
    """All windows of ``plans`` in the random order of ``seed``, stratified by their tokens' unigram loss.

    Raises:
        UsageError: a seed below zero, or a ``rarest`` that is not between 0 and 1.
    """
    every = [(plan, i) for plan in plans for i in range(len(plan.windows))]
    windows = [plan.windows[i] for plan, i in every]
    scored = [np.asarray(window.ids[window.start :], dtype=np.int64) for window in windows]
    found = design(unigram_loss(scored), seed, rarest)
    return Draw([every[k] for k in found.order], found, seed, sum(map(len, scored)))


def until_precise(
    scorer: Scorer,
    plans: Sequence[Plan],
    precision: float,
    seed: int,
    progress: Callable[[Progress], None] | None = None,
    rarest: float = RAREST,
) -> Sample:
    """Score windows of ``plans`` until the whole text's perplexity is known to ``precision``, a share of it.

    The interval holds if every kind of window that matters makes up at least the share ``rarest`` of all windows.
    Afterwards ``plans`` hold the windows that were scored, and no others.

    Raises:
        UsageError: a precision or ``rarest`` that is not between 0 and 1, or a seed below zero. EvaluationError: as
            score_windows.
    """
    if not 0 < precision < 1:
        raise UsageError(f"a precision is {_PRECISIONS}, not {precision}")
    draw = drawn(plans, seed, rarest)
    rule, total = draw.rule(precision), draw.tokens
    done, tokens, spent = 0, 0, 0.0
    for (plan, i), (nll,) in scored_windows([scorer], draw.chosen):
        plan.nll[i] = nll
        done, tokens, cost = done + 1, tokens + len(nll), float(nll.sum(dtype=np.float64))
        spent += cost
        if rule.add(cost, len(nll)) and precise_enough(rule.interval(), precision):
            break
        if progress is not None:
            progress(Progress(tokens, total, spent / tokens))
    keep_sample(plans, draw.chosen[:done])
    return sample_of(rule, draw, done, tokens, precision)


def replayed(sample: Sample, draw: Draw, losses: Sequence[NDArray[np.float32]]) -> Sample:
    """What the rule makes of ``losses``, of the first windows of ``draw``. Of a comparison's sample, which two models
    stopped, only the counts can be told.

    Raises:
        EvaluationError: the sample's precision is not between 0 and 1.
    """
    done, tokens = len(losses), sum(map(len, losses))
    if sample.precision is None:
        return sample_of(None, draw, done, tokens, None)
    if not 0 < sample.precision < 1:
        raise EvaluationError(
            f"numbers: sample.precision is {sample.precision} in the report, which is not {_PRECISIONS}"
        )
    rule = draw.rule(sample.precision)
    for count, nll in enumerate(losses, 1):
        if rule.add(float(nll.sum(dtype=np.float64)), len(nll)) and precise_enough(rule.interval(), sample.precision):
            done, tokens = count, sum(map(len, losses[:count]))
            break
    return sample_of(rule, draw, done, tokens, sample.precision)


def sample_of(rule: Sequential | None, draw: Draw, done: int, tokens: int, precision: float | None) -> Sample:
    met = "decided" if precision is None else "precise enough"
    return Sample(
        seed=draw.seed,
        windows=done,
        of=len(draw.chosen),
        tokens=tokens,
        of_tokens=draw.tokens,
        level=LEVEL,
        precision=precision,
        reason=met if done < len(draw.chosen) else "all windows were needed",
        loss=None if rule is None else _bounds(rule.interval(), lambda x: x),
        perplexity=None if rule is None else _bounds(rule.interval(), math.exp),
        rarest=draw.design.rarest,
        first_look=min(draw.design.first, len(draw.chosen)),
        strata=draw.design.count,
    )


def _read(plan: Plan, number: int) -> tuple[list[int], int]:
    """A window's ids, and where its targets begin: what two models must have in common to be paired."""
    window = plan.windows[number]
    return list(window.ids), window.start


def keep_sample(plans: Sequence[Plan], chosen: Chosen) -> None:
    """Leave only the ``chosen`` windows in ``plans``, in text order."""
    kept = {(id(plan), i) for plan, i in chosen}
    for plan in plans:
        numbers = [i for i in range(len(plan.windows)) if (id(plan), i) in kept]
        plan.windows, plan.nll = [plan.windows[i] for i in numbers], [plan.nll[i] for i in numbers]


def scored_windows(
    scorers: Sequence[Scorer], chosen: Chosen
) -> Iterator[tuple[tuple[Plan, int], list[NDArray[np.float32]]]]:
    """Each window in order with its losses by each scorer, computed in batches of the smallest scorer's size."""

    def where(number: int) -> str:
        return place_of(*chosen[number])

    at = 0
    while at < len(chosen):
        room, longest, end = min(s.size.tokens for s in scorers), 0, at
        while end < len(chosen):
            longest = max(longest, len(chosen[end][0].windows[chosen[end][1]].ids) - 1)
            if end > at and longest * (end - at + 1) > room:
                break
            end += 1
        batch = chosen[at:end]
        windows = [plan.windows[i] for plan, i in batch]
        answers = [scorer.score(windows, picked(where, range(at, end))) for scorer in scorers]
        for number, place in enumerate(batch):
            yield place, [answer[number] for answer in answers]
        at = end


def _bounds(found: Interval, of: Callable[[float], float]) -> tuple[float | None, float | None]:
    low, high = (of(x) if -math.inf < x < 700 else None for x in (found.low, found.high))
    return low, high
