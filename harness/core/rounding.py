"""How far rounding alone may move a loss, by dtype."""

from __future__ import annotations

__all__ = ["tolerance_of"]


TOLERANCE = {"float64": 1e-8, "float32": 1e-4, "float16": 0.05, "bfloat16": 0.25}

UNKNOWN = 1e-3


def tolerance_of(dtype: str) -> float:
    """By how much, in nats per token, rounding alone may change a score computed in ``dtype``.

    Another batch, length or machine sums in another order. With logits as large as 40, single precision moves
    a score by up to 4e-5 (docs/precision.md); half precisions have steps of 1/32 (float16) and 1/4 (bfloat16) there. A
    dtype that is not known, as of a server, is given 1e-3.
    """
    return TOLERANCE.get(dtype, UNKNOWN)
