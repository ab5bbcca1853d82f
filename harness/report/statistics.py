"""How far a loss measured on this text may lie from the loss on more text of the same kind.

Loss, bits per byte and the difference of two models are all a ratio of sums over tokens in text order. One estimator
serves them: the ratio is linearised, and its variance comes from documents as clusters where there are enough of
them, else from slow cosines over the token sequence. Neither uses randomness. ``bench/coverage.py`` measures how
often the intervals hold, ``docs/uncertainty.md`` tells what they mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Estimate", "ratio_estimate", "t_half_width", "t_two_sided"]


MIN_ENTRIES = 20
"""Below this, no interval: of 20 independent skewed losses it would still hold 93 % of the time, of 10 only 91 %."""

MIN_DOCUMENTS = 2.5
"""Effective documents (1 / sum of squared shares) from which on they are the units. Where 3 documents differ in level,
clusters hold 95 % of the time and cosines 81 to 89 %. With 2, clusters would hold too, at five times the width."""

MIN_COSINES, MAX_COSINES = 4, 16
"""With 16 an interval is 6 % wider than if the variance were known: more would buy less than slow drifts could cost."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of sums with its uncertainty.

    ``value`` is sum(numerator) / sum(denominator); ``low`` and ``high`` bound its confidence interval at ``level``;
    ``p_value`` is two-sided, of the expected value being 0 (meant for differences). These and ``standard_error`` are
    in the unit of ``value``, and None where ``method`` is ``none``: fewer than 20 entries, or a value that is not
    finite.

    ``method`` is ``clusters`` (``units`` documents, ``block_length`` 1 document) or ``cosines`` (``units`` entries,
    ``block_length`` entries: the half period of the fastest cosine). The interval uses Student's t with
    ``degrees_of_freedom``.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    level: float
    p_value: float | None
    method: Literal["clusters", "cosines", "none"]
    block_length: float
    units: int
    degrees_of_freedom: float


def ratio_estimate(numerator: ArrayLike, denominator: ArrayLike, document: ArrayLike, level: float = 0.95) -> Estimate:
    """Estimate sum(numerator) / sum(denominator) over correlated entries.

    Args:
        numerator: float [n], one value per token (or aligned segment) in text order: NLL, or a difference of NLLs.
        denominator: float [n], not negative: ones for a value per token, UTF-8 bytes for one per byte.
        document: int [n], non-decreasing: the number of the document that each entry belongs to.
        level: of the confidence interval.

    Where all entries have the same ratio the standard error is 0, the interval a point, and the p-value 1 if that
    ratio is 0, else 0.

    Raises:
        ValueError: empty or unequal shapes, a negative denominator or a total of 0, documents out of order, or a
            level outside (0, 1).
    """
    num, den, doc = _checked(numerator, denominator, document, level)
    total = float(den.sum())
    with np.errstate(invalid="ignore"):
        value = float(num.sum()) / total
    if len(num) < MIN_ENTRIES or not math.isfinite(value):
        return Estimate(value, None, None, None, level, None, "none", 0.0, len(num), 0.0)
    residual = num - value * den
    if np.abs(residual).max() <= 1e-12 * np.abs(num).max():
        residual[:] = 0.0
    starts = np.concatenate([[0], np.flatnonzero(np.diff(doc)) + 1])
    share = np.add.reduceat(den, starts) / total
    method: Literal["clusters", "cosines"]
    if 1 / float(share @ share) >= MIN_DOCUMENTS:
        method, units, block = "clusters", len(starts), 1.0
        variance, freedom = _clusters(np.add.reduceat(residual, starts), share)
    else:
        method, units = "cosines", len(num)
        variance, freedom = _cosines(residual)
        block = units / freedom
    error = math.sqrt(variance) / total
    half = error * t_half_width(level, freedom)
    p_value = t_two_sided(value / error, freedom) if error else float(value == 0)
    return Estimate(value, error, value - half, value + half, level, p_value, method, block, units, freedom)


def t_two_sided(t: float, freedom: float) -> float:
    """P(|T| >= |t|) for Student's T; ``freedom`` > 0 may be fractional."""
    from scipy.special import stdtr  # takes 0.2 s to import, and what scores no text does not need it

    return 2 * float(stdtr(freedom, -abs(t)))


def t_half_width(level: float, freedom: float) -> float:
    """The q with P(|T| <= q) = ``level`` for Student's T; ``freedom`` > 0 may be fractional."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, (1 - level) / 2))


def _checked(
    numerator: ArrayLike, denominator: ArrayLike, document: ArrayLike, level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    num = np.asarray(numerator, dtype=np.float64)
    den = np.asarray(denominator, dtype=np.float64)
    doc = np.asarray(document, dtype=np.int64)
    if num.ndim != 1 or not num.size or num.shape != den.shape or num.shape != doc.shape:
        raise ValueError(f"expected three vectors of one length, got shapes {num.shape}, {den.shape}, {doc.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    if not den.min() >= 0 or not 0 < den.sum() < math.inf:
        raise ValueError("denominators must not be negative, and their sum must be positive and finite")
    if (np.diff(doc) < 0).any():
        raise ValueError("document numbers must not decrease")
    return num, den, doc


def _cosines(residual: NDArray[np.float64]) -> tuple[float, float]:
    """Variance of ``residual.sum()`` of a correlated sequence, and its degrees of freedom. O(n log n).

    The equal-weighted cosine estimator: the long-run variance is the mean square of B projections of the sequence on
    cos(pi j (t + 1/2) / n), j = 1 .. B, and the ratio to its root is Student's t with B degrees of freedom
    (Phillips 2005, doi:10.1017/S0266466605050085; Lazarus, Lewis, Stock and Watson 2018,
    doi:10.1080/07350015.2018.1506926). B is small on purpose, as in Mueller 2014 (doi:10.1080/07350015.2014.931238):
    it depends on n alone, because losses of language models are correlated weakly but over hundreds of tokens, and
    rules that read B or a lag off the data take that for no correlation at all.
    """
    n = len(residual)
    count = min(max(round(math.sqrt(n) / 12), MIN_COSINES), MAX_COSINES)
    # Type-II cosine transform by one real FFT of the reordered sequence (Makhoul 1980).
    folded = np.concatenate([residual[::2], residual[1::2][::-1]])
    j = np.arange(1, count + 1)
    projection = (np.fft.rfft(folded)[1 : count + 1] * np.exp(-0.5j * np.pi * j / n)).real
    return 2 * float(np.mean(projection**2)), float(count)


def _clusters(sums: NDArray[np.float64], share: NDArray[np.float64]) -> tuple[float, float]:
    """Variance of the sum of independent documents' residuals ``sums`` [G], and its degrees of freedom.

    ``share`` [G] is each document's part of the denominator. The linearised ratio-of-sums estimator with each
    squared sum over 1 - share, which removes the bias of having fitted the ratio (CR2 of Bell and McCaffrey 2002);
    for equal documents that is G / (G - 1). Degrees of freedom by Satterthwaite under a model of document effects
    fitted by moments (Imbens and Kolesar 2016, doi:10.1162/REST_a_00552); for equal documents G - 1.
    """
    scale = 1 / (1 - share)
    variance = float(scale @ sums**2)
    model = _document_variances(sums, share)
    # The estimate is a quadratic form in the documents' sums; its matrix is diag(scale) - b 1' - 1 b' + c.
    b = scale * share
    c = float(b @ share)
    diagonal = scale - 2 * b + c
    v, vb, vbb = float(model.sum()), float(model @ b), float(model @ b**2)
    squares = (c * v) ** 2 + 2 * v * vbb + 2 * vb**2 - 4 * c * v * vb
    squares += float((diagonal**2 - (c - 2 * b) ** 2) @ model**2)
    return variance, float(diagonal @ model) ** 2 / squares


def _document_variances(sums: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of each document's sum [G], up to a factor: effect * share^2 + noise * share.

    ``effect`` is that of a level shared by a document's tokens, ``noise`` that of the tokens themselves, by
    weighted least squares on the squared sums.
    """
    own = share[share > 0]
    effect = own * (1 - 2 * own + share @ share)
    noise = 1 - own
    fitted = np.linalg.lstsq(np.stack([effect, noise], axis=1), sums[share > 0] ** 2 / own, rcond=None)[0]
    between, within = np.maximum(fitted, 0.0)
    if not between and not within:
        within = 1.0
    return np.asarray(between * share**2 + within * share)
