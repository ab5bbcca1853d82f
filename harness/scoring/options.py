"""The options of ``evalgpt.evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from evalgpt.report.detail import Collected
from evalgpt.scoring.cache import ScoreCache
from evalgpt.scoring.engine import Progress
from evalgpt.scoring.strata import RAREST

__all__ = ["Changes", "Options"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to evaluate: the options of :func:`evalgpt.evaluate` and :func:`evalgpt.compare`.

    Args:
        device, dtype: passed on to a model given as a spec (``"cuda"``, ``"bfloat16"``).
        batch_tokens: how many tokens, padding included, are fed at once; by default what suits the
            device; 0 finds a good size while it works.
        tokens: keep ids, byte spans and losses of single tokens in the result; by default of all texts but those too
            long to hold (``Task.long``), which are then scored part by part, where the protocol can.
        cache: where scores are kept between runs, opened; none by default. Models that do not say what their scores
            depend on are scored all the same, and not kept.
        precision: stop when the perplexity of the whole text is known to this share of it, as in 0.01; windows are then
            scored in the random order of ``seed``, and ``Evaluation.sample`` says how many.
        seed: of the random order of windows, with a precision.
        rarest: with a precision, the least share of the text's windows that a kind of window which matters is assumed
            to make up; the smaller it is, the more windows are scored before the first look.
        progress: called after each batch.
        detail: where rank, entropy and likeliest tokens of each score are added; windows are then computed,
            not recalled.
    """

    device: str | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    tokens: bool | None = None
    cache: ScoreCache | None = None
    precision: float | None = None
    seed: int = 0
    rarest: float = RAREST
    progress: Callable[[Progress], None] | None = None
    detail: Collected | None = None


class Changes(TypedDict, total=False):
    """The fields of :class:`Options` as keywords, so that a type checker knows them."""

    device: str | None
    dtype: str | None
    batch_tokens: int | None
    tokens: bool | None
    cache: ScoreCache | None
    precision: float | None
    seed: int
    rarest: float
    progress: Callable[[Progress], None] | None
    detail: Collected | None
