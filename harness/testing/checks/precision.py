"""Checks of precision: logits and losses have the digits of the dtype that the model names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import GivesLogits, Window
from evalgpt.core.rounding import tolerance_of
from evalgpt.testing.checks.logits import contexts
from evalgpt.testing.subject import CheckFailed, CheckSkipped, Losses, Subject, gap

__all__ = ["check_precision"]


BITS = {"bfloat16": 8, "float16": 11}
"""Significant bits of a half precision, the leading one included."""

DISTINCT = 8
"""Different mantissas that two neighbouring powers of two must show before numbers count as rounded floats."""

FITTING = 24
"""Losses after one context that must fit rounded logits: that 24 fit by chance is less likely than 1e-30."""


def check_precision(subject: Subject) -> None:
    """Logits and losses have the digits of ``dtype``; where it is unknown, those of float32."""
    model = subject.model
    if model.dtype not in ("float32", "float64", "unknown"):
        raise CheckSkipped(f"dtype is {model.dtype}: numbers may be rounded to it")
    if model.dtype == "float64":
        _check_double(subject)
    if isinstance(model, GivesLogits):
        ids = contexts(subject)[-1]
        _check_rounded(model.dtype, "next_logits gives", _numbers(np.asarray(model.next_logits(ids, len(ids)))))
    rows = [nll for context in contexts(subject)[:2] if (nll := subject.distribution(context)) is not None]
    if not rows:
        return
    _check_rounded(model.dtype, "losses are", _numbers(np.concatenate(rows)))
    for name, bits in BITS.items():
        if all(_from_rounded_logits(nll, bits) for nll in rows):
            raise CheckFailed(
                f"dtype says {model.dtype}, and losses after one context differ as logits rounded to {name} do: "
                f"{_advice(name)}"
            )


def _check_double(subject: Subject) -> None:
    """The same token's losses, computed in other shapes, differ by what float32 rounds, and not by more."""
    ids = subject.draw(subject.length(24), "float64")
    (whole,) = subject.nll(Window(ids, 1))
    together = subject.nll(Window(ids, 1), Window(subject.draw(len(ids), "beside"), 1))[0]
    ends = range(len(ids) - 1 if subject.model.equal_lengths else 1, len(ids))
    parts = [subject.last(ids[: end + 1]) for end in ends]
    apart = max(gap(whole, together), gap(whole[-len(parts) :], np.array(parts)))
    if subject.allowed < apart <= tolerance_of("float32"):
        raise CheckFailed(
            f"dtype says float64, and losses of the same token differ by {apart:.3g} nats, as float32 rounds: is the "
            f"model, its head or the log-softmax in float32?"
        )


def _check_rounded(dtype: str, what: str, values: NDArray[np.float64]) -> None:
    for name, bits in BITS.items():
        if rounded(values, bits):
            raise CheckFailed(f"dtype says {dtype}, and {what} numbers rounded to {name}: {_advice(name)}")


def _advice(name: str) -> str:
    return (
        f"run the output head and the log-softmax in float32, or set dtype to {name}. Where a table of the model's "
        f"own holds such numbers, expect this failure and say so"
    )


def _numbers(values: NDArray[np.float32] | Losses) -> NDArray[np.float64]:
    wide = values.astype(np.float64).reshape(-1)
    finite: NDArray[np.float64] = wide[np.isfinite(wide) & (wide != 0)]
    return finite


def rounded(values: NDArray[np.float64], bits: int) -> bool:
    """Whether ``values`` have at most ``bits`` significant bits, and in two or more binades all of them.

    Integers and multiples of one step are short numbers too, but use all bits in the largest binade alone.
    """
    mantissas, exponents = np.frexp(values)
    scaled = np.abs(mantissas) * 2.0**bits  # whole where the bits suffice
    if len(values) < FITTING or (scaled != np.round(scaled)).any():
        return False
    whole = scaled.astype(np.int64)
    binades = [np.unique(whole[exponents == exponent]) for exponent in np.unique(exponents)]
    return sum(len(found) >= DISTINCT and bool((found & 1).any()) for found in binades) >= 2


def _from_rounded_logits(nll: Losses, bits: int) -> bool:
    """Whether the differences of ``nll`` [V], nats, are those of logits of ``bits`` significant bits.

    A loss is log Z minus a logit. One token's logit fixes log Z, so each value that this logit may have is tried: then
    the logits of all tokens must be short numbers. The token is the likeliest or the least likely one, whichever has
    the logit farther from zero; its steps are the widest, and the values to try the fewest.
    """
    finite = np.unique(nll[np.isfinite(nll)])
    if len(finite) < FITTING:
        return False
    noise = 4 * float(np.spacing(np.float32(np.abs(finite).max())))
    sample = finite[np.linspace(0, len(finite) - 1, min(len(finite), 256)).astype(int)]
    few = sample[:: max(len(sample) // 12, 1)]
    spread = float(np.ptp(finite))
    exponents = range(int(np.floor(np.log2(spread))) - 1, int(np.ceil(np.log2(spread + 64))) + 1)
    steps = np.ldexp(np.arange(2 ** (bits - 1), 2**bits), -bits)
    sizes = np.concatenate([np.ldexp(steps, exponent) for exponent in exponents])
    for anchor in (sample[0] + sizes, sample[-1] - sizes):
        for log_z in anchor[_fits(anchor[:, None] - few[None], bits, noise).all(1)]:
            logits = log_z - sample
            step = _step(logits, bits)
            telling = step > 16 * noise
            exact = np.round(logits / step) * step
            if telling.sum() >= FITTING and _fits(logits, bits, noise).all() and rounded(exact[telling], bits):
                return True
    return False


def _step(logits: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """The distance of neighbouring numbers of ``bits`` significant bits, at each of ``logits``."""
    step: NDArray[np.float64] = np.ldexp(1.0, np.frexp(logits)[1] - bits)
    return step


def _fits(logits: NDArray[np.float64], bits: int, noise: float) -> NDArray[np.bool_]:
    step = _step(logits, bits)
    return np.abs(logits - np.round(logits / step) * step) <= noise
