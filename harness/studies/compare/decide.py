"""Score two models on the same windows until it is known which is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import UsageError, Window
from evalgpt.core.rounding import tolerance_of
from evalgpt.report.document import Sample
from evalgpt.scoring.batching import Scorer
from evalgpt.scoring.engine import Plan, Progress, Reporter, place_of, windows_at
from evalgpt.scoring.sampling import Answers, drawn, keep_sample, sample_of, score_in_order
from evalgpt.scoring.sequential import Interval, decided
from evalgpt.scoring.strata import LEVEL, RAREST
from evalgpt.studies.compare.comparison import Decision

__all__ = ["until_decided"]


def until_decided(
    scorers: tuple[Scorer, Scorer],
    plans: tuple[Sequence[Plan], Sequence[Plan]],
    seed: int,
    progress: Callable[[Progress], None] | None = None,
    rarest: float = RAREST,
) -> tuple[Decision, Sample]:
    """Score the same windows with both models until it is settled which has the lower loss on the whole text.

    The assumption is that of ``until_precise``. Afterwards both ``plans`` hold the windows that were scored, and no
    others.

    Raises:
        UsageError: the models' windows differ, as with two tokenizers; a seed below zero, or a ``rarest`` that is not
            between 0 and 1. EvaluationError: as score_windows.
    """
    draw, others = drawn(plans[0], seed, rarest), drawn(plans[1], seed, rarest).chosen
    chosen = draw.chosen
    windows = windows_at(plans[0], chosen)
    if [_read(window) for window in windows] != [_read(window) for window in windows_at(plans[1], others)]:
        raise UsageError("--until-decided needs models that read the same windows, with one tokenizer and one prefix")
    rule = draw.rule(None)
    rounding = max(tolerance_of(s.model.dtype) for s in scorers) * 2 / math.sqrt(draw.tokens)
    reporter = None if progress is None else Reporter(progress, windows, _difference)
    done, tokens = 0, 0
    for at, answers in score_in_order(scorers, windows, lambda n: place_of(plans[0], chosen[n]), reporter):
        for side, part, scores in zip(plans, (chosen, others), answers, strict=True):
            number, i = part[at]
            side[number].scores[i] = scores
        one, other = (scores.nll for scores in answers)
        done, tokens = done + 1, tokens + len(one)
        change = float(other.sum(dtype=np.float64) - one.sum(dtype=np.float64))
        if rule.add(change, len(one)) and _sign(rule.interval(), rounding):
            break
    for side, part in zip(plans, (chosen, others), strict=True):
        keep_sample(side, part[:done])
    found = rule.interval()
    low, high = _finite(found.low), _finite(found.high)
    decision = Decision(
        seed=seed,
        windows=done,
        of=len(chosen),
        level=LEVEL,
        sign=_sign(found, rounding),
        interval=(low, high),
        rarest=rarest,
    )
    sample = sample_of(None, draw, done, tokens, None)
    return decision, sample


def _read(window: Window) -> tuple[list[int], int]:
    """A window's ids, and where its targets begin: what two models must have in common to be paired."""
    return list(window.ids), window.start


def _difference(answers: Answers) -> NDArray[np.float64]:
    one, other = (scores.nll.astype(np.float64) for scores in answers)
    return other - one


def _sign(interval: Interval, rounding: float) -> int:
    """The sign that is settled, 0 while none is, or where it is no more than rounding makes of a mean."""
    settled = interval.low > rounding or interval.high < -rounding
    return decided(interval) if settled else 0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
