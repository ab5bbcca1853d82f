"""Windows in random order until the answer is known as precisely as asked, or the better model is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import EvaluationError, TokenScores, UsageError, Window
from evalgpt.core.answers import Where, picked
from evalgpt.report.document import Sample
from evalgpt.scoring.batching import BatchSize, Scorer
from evalgpt.scoring.engine import Place, Plan, Progress, Reporter, all_windows, answer_batches, place_of, windows_at
from evalgpt.scoring.sequential import Interval, Sequential, half_width, precise_enough
from evalgpt.scoring.strata import BOUNDARY_LEVEL, LEVEL, RAREST, Design, design, unigram_loss

__all__ = ["Answers", "Draw", "drawn", "keep_sample", "replayed", "sample_of", "score_in_order", "until_precise"]


_PRECISIONS = "a share of the perplexity between 0 and 1, as in 1% or 0.01"

Answers = tuple[TokenScores, ...]
"""The scores of one window, by each model."""


@dataclass(frozen=True, slots=True)
class Draw:
    """The places of all windows in the order in which they are scored, and how it was made.

    ``tokens`` is the number of scored tokens of all windows.
    """

    chosen: list[Place]
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
    every = all_windows(plans)
    scored = [np.asarray(window.ids[window.start :], dtype=np.int64) for window in windows_at(plans, every)]
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
    rule, windows = draw.rule(precision), windows_at(plans, draw.chosen)
    reporter = None if progress is None else Reporter[Answers](progress, windows, lambda answers: answers[0].nll)
    done, tokens = 0, 0
    for at, (scores,) in score_in_order([scorer], windows, lambda n: place_of(plans, draw.chosen[n]), reporter):
        number, i = draw.chosen[at]
        plans[number].scores[i] = scores
        done, tokens = done + 1, tokens + len(scores.nll)
        if rule.add(float(scores.nll.sum(dtype=np.float64)), len(scores.nll)) and precise_enough(
            rule.interval(), precision
        ):
            break
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


def keep_sample(plans: Sequence[Plan], chosen: Sequence[Place]) -> None:
    """Leave only the ``chosen`` windows in ``plans``, in text order."""
    kept = set(chosen)
    for number, plan in enumerate(plans):
        left = [i for i in range(len(plan.windows)) if (number, i) in kept]
        plan.windows, plan.scores = [plan.windows[i] for i in left], [plan.scores[i] for i in left]


def score_in_order(
    scorers: Sequence[Scorer], windows: Sequence[Window], where: Where, reporter: Reporter[Answers] | None = None
) -> Iterator[tuple[int, Answers]]:
    """Each window's number, in order, and its scores by each scorer, in batches of the smallest scorer's size."""

    def answer(batch: Sequence[int]) -> list[Answers]:
        asked = [windows[i] for i in batch]
        return list(zip(*(scorer.score(asked, picked(where, batch)) for scorer in scorers), strict=True))

    lengths = [len(window.ids) - 1 for window in windows]
    return answer_batches(_in_order(lengths, [scorer.size for scorer in scorers]), answer, reporter)


def _in_order(lengths: Sequence[int], sizes: Sequence[BatchSize]) -> Iterator[Sequence[int]]:
    """Numbers of windows to score together, neighbours; the sizes are asked before each batch."""
    at = 0
    while at < len(lengths):
        room, longest, end = min(size.tokens for size in sizes), 0, at
        while end < len(lengths):
            longest = max(longest, lengths[end])
            if end > at and longest * (end - at + 1) > room:
                break
            end += 1
        yield range(at, end)
        at = end


def _bounds(found: Interval, of: Callable[[float], float]) -> tuple[float | None, float | None]:
    low, high = (of(x) if -math.inf < x < 700 else None for x in (found.low, found.high))
    return low, high
