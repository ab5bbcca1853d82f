"""A comparison in sentences; the terminal and the page show the same ones."""

from __future__ import annotations

from collections.abc import Iterator

from evalgpt.report.statistics import Estimate
from evalgpt.studies.compare.comparison import Comparison, Decision, Divergence, Side
from evalgpt.views.wording.evaluation import assumed

__all__ = ["sentences_of"]


def interval_text(estimate: Estimate, sign: str = "") -> str:
    if estimate.low is None or estimate.high is None:
        return "unknown"
    return f"{estimate.low:{sign}.4f} to {estimate.high:{sign}.4f}"


def p_text(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def sentences_of(comparison: Comparison) -> Iterator[str]:
    """What a comparison says, in words; lines that begin with spaces belong to the first."""
    a, b = comparison.baseline, comparison.candidate
    gap = comparison.bits_per_byte_difference
    if comparison.decision is None:
        yield _verdict(a.model, b.model, gap)
    else:
        yield _decision(comparison.decision, a.model, b.model)
        interval = interval_text(gap, "+")
        yield f"  on more text of this kind: {gap.value:+.4f} bits per byte ({interval}), of what was scored"
    shares = f"{comparison.candidate_better:.1%} of the text is better predicted by {b.model}"
    yield f"  {shares}, {comparison.baseline_better:.1%} by {a.model}"
    if comparison.loss_difference is not None:
        loss = comparison.loss_difference
        yield f"  per token: {loss.value:+.5f} nats ({interval_text(loss, '+')}), from {comparison.units} paired tokens"
    else:
        yield f"  aligned by bytes into {comparison.units} spans, {comparison.bytes} bytes{_left_out(a, b)}"
    if gap.method == "clusters":
        yield f"  intervals: from {gap.units} documents as clusters"
    elif gap.method == "cosines":
        yield f"  intervals: cosines over {gap.units} correlated {comparison.unit}s, blocks of {gap.block_length:.0f}"
    if comparison.divergence is not None:
        yield from _divergence(comparison.divergence, a.model, b.model)


def _verdict(a: str, b: str, gap: Estimate) -> str:
    size = f"{abs(gap.value):.4f} bits per byte (p {p_text(gap.p_value)})".replace("p <", "p < ")
    if gap.value == 0:
        return f"{b} and {a} are equally good on this text"
    word = "better" if gap.value < 0 else "worse"
    if gap.low is None or gap.high is None:
        return f"{b} is {word} than {a} by {abs(gap.value):.4f} bits per byte; the text is too short to say how sure"
    if gap.low <= 0 <= gap.high:
        return f"{b} is {word} than {a} by {size}, which this text does not settle: the interval holds zero"
    return f"{b} is {word} than {a} by {size}"


def _decision(found: Decision, a: str, b: str) -> str:
    low, high = found.interval
    if found.sign == 0:
        return f"not settled by all {found.of} windows: {b} and {a} are equally good on this text"
    word = "better" if found.sign < 0 else "worse"
    if found.windows == found.of:
        by = "" if low is None else f" by {abs(low):.4g} nats per token"
        return f"settled by all {found.of} windows: {b} is {word} than {a}{by} on this text"
    part = f"{found.windows} of {found.of} windows, in random order"
    around = "" if low is None or high is None else f" by {low:+.4g} to {high:+.4g} nats per token ({found.level:.0%})"
    return f"settled: on the whole text {b} is {word} than {a}{around}, from {part}" + assumed(found.rarest)


def _left_out(a: Side, b: Side) -> str:
    parts = [f"{side.left_out_bytes} bytes that only {side.model} scored" for side in (a, b) if side.left_out_bytes]
    return f"; left out: {', '.join(parts)}" if parts else ""


def _divergence(found: Divergence, a: str, b: str) -> Iterator[str]:
    mean = found.mean
    yield f"  KL({a} || {b}): {mean.value:.6f} nats per token ({interval_text(mean)}), largest {found.largest:.4f}"
    points = ", ".join(f"{name} % {value:.6f}" for name, value in found.percentiles.items())
    yield f"  its percentiles: {points}; both hold the same token likeliest at {found.same_top_token:.2%} of them"
