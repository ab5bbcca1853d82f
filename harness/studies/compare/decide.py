"""Score two models on the same windows until it is known which is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from evalgpt.core import UsageError
from evalgpt.core.rounding import tolerance_of
from evalgpt.report.document import Sample
from evalgpt.scoring.batching import Scorer
from evalgpt.scoring.engine import Plan, Progress
from evalgpt.scoring.sampling import _read, drawn, keep_sample, sample_of, scored_windows
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
    if [_read(*place) for place in chosen] != [_read(*place) for place in others]:
        raise UsageError("--until-decided needs models that read the same windows, with one tokenizer and one prefix")
    rule, total = draw.rule(None), draw.tokens
    rounding = max(tolerance_of(s.model.dtype) for s in scorers) * 2 / math.sqrt(total)
    done, tokens, difference = 0, 0, 0.0
    for (plan, i), (one, other) in scored_windows(scorers, chosen):
        plan.nll[i] = one
        twin, k = others[done]
        twin.nll[k] = other
        done, tokens = done + 1, tokens + len(one)
        change = float(other.sum(dtype=np.float64) - one.sum(dtype=np.float64))
        difference += change
        if rule.add(change, len(one)) and _sign(rule.interval(), rounding):
            break
        if progress is not None:
            progress(Progress(tokens, total, difference / tokens))
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


def _sign(interval: Interval, rounding: float) -> int:
    """The sign that is settled, 0 while none is, or where it is no more than rounding makes of a mean."""
    settled = interval.low > rounding or interval.high < -rounding
    return decided(interval) if settled else 0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
