"""Why two perplexities of one text differ: the gap, step by step, taken from the losses that the reports keep.

The steps lead from one tool's number to the other's and sum to the gap exactly, in nats: its average is replaced by the
plain mean over tokens, tokens that only one side scored are left out, each common token's loss in one context is
replaced by its loss in the other; and the same way back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.compare import align
from evalgpt.core import UsageError
from evalgpt.metrics import token_sums
from evalgpt.report import Evaluation, RowInfo, Tokenized, describe_protocol

__all__ = ["SCHEMA", "Difference", "Differences", "Number", "Step", "explain", "numbers_of"]

SCHEMA: Final = "evalgpt.difference/1"

HEADLINES = {
    "lm-eval": "word_perplexity",
    "hf-strided": "perplexity_v1",
    "llama.cpp": "perplexity",
    "book": "validation_loss",
}
"""The number that a user of the reproduced tool would quote; else the mean over tokens."""

ROUNDING = 1e-12
"""Nats below which two ways of taking one average do not differ."""

Values = NDArray[np.float64]


class Number(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two numbers. ``nats`` is its logarithm, which the steps are in; ``value`` the perplexity itself."""

    model: str
    protocol: str
    dtype: str
    name: str
    nats: float
    value: float | None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One cause: it adds ``nats`` to the logarithm, so multiplies the perplexity by exp of them; ``tokens`` are
    those it concerns."""

    name: str
    nats: float
    tokens: int
    why: str


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """``to`` minus ``origin`` in nats, and the steps whose sum it is."""

    task: str
    origin: Number
    to: Number
    nats: float
    steps: list[Step]
    notes: list[str]


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """What ``evalgpt explain-difference -o`` writes."""

    schema: Literal["evalgpt.difference/1"] = SCHEMA
    differences: list[Difference]


@dataclass(frozen=True, slots=True)
class _Side:
    """Every token of one evaluation. ``loss`` is NaN where it was not scored, the mean where it was repeatedly;
    ``where`` (the byte of the first token it was predicted from) and ``prefix`` say from which context, ``fed`` from
    how many tokens."""

    keys: list[tuple[str, int, int, int]]
    loss: Values
    scores: Values
    total: float
    where: NDArray[np.int64]
    prefix: NDArray[np.bool_]
    fed: NDArray[np.int64]

    @property
    def scored(self) -> NDArray[np.bool_]:
        return self.scores > 0

    def over(self, mask: NDArray[np.bool_]) -> float:
        """The mean loss of the scored tokens in ``mask``."""
        return float(self.loss[mask & self.scored].mean())


def numbers_of(evaluation: Evaluation) -> dict[str, float]:
    """The evaluation's perplexities by name, each as its logarithm in nats; ``loss`` is the mean over tokens."""
    found = {"loss": evaluation.metrics.loss}
    for name, value in evaluation.peer.items():
        if value is None or "error" in name:
            continue
        if "perplexity" in name:
            found[name] = math.log(value)
        elif name.endswith("_loss"):
            found[name] = value
        elif name == "bits_per_byte":
            found[name] = value * math.log(2)
    return found


def explain(a: Evaluation, b: Evaluation, names: tuple[str | None, str | None] = (None, None)) -> Difference:
    """Take the gap from ``a``'s number to ``b``'s apart; ``names`` choose the numbers, by default the tools' headlines.

    Raises:
        UsageError: another text, no losses of single tokens, an unknown number, or no token that both scored.
    """
    if a.task.sha256 != b.task.sha256:
        raise UsageError(
            f"the texts differ: task.sha256 is {a.task.sha256[:12]} against {b.task.sha256[:12]}; a difference between "
            f"perplexities of two texts has no one cause"
        )
    chosen = [_number(e, name) for e, name in zip((a, b), names, strict=True)]
    for e in (a, b):
        if any(row.tokenized is None for row in e.rows):
            raise UsageError(f"the report of {e.model.spec} has no losses of single tokens; run it without --no-tokens")
    sides = [_side(e, number.name) for e, number in zip((a, b), chosen, strict=True)]
    steps = _same_tokens(a, b, *sides) if _one_tokenizer(*sides) else _other_tokens(a, b, *sides)
    averaging = sum(
        sign * (number.nats - side.total) for sign, number, side in zip((-1, 1), chosen, sides, strict=True)
    )
    why = "; ".join(f"{n.protocol.split(' ')[0]} quotes {n.name}" for n in chosen)
    first = Step(name="averaging", nats=averaging, tokens=0, why=why)
    return Difference(
        task=a.task.spec,
        origin=chosen[0],
        to=chosen[1],
        nats=chosen[1].nats - chosen[0].nats,
        steps=[step for step in (first, *steps) if abs(step.nats) > ROUNDING or step.tokens],
        notes=list(_notes(a, b)),
    )


def _number(evaluation: Evaluation, name: str | None) -> Number:
    found = numbers_of(evaluation)
    headline = HEADLINES.get(evaluation.protocol.name, "loss")
    wanted = name or (headline if headline in found else "loss")
    if wanted not in found:
        raise UsageError(
            f"the report of {describe_protocol(evaluation)} has no number {wanted!r}; it has {', '.join(found)}"
        )
    nats = found[wanted]
    return Number(
        model=evaluation.model.spec,
        protocol=describe_protocol(evaluation),
        dtype=evaluation.model.dtype,
        name=wanted,
        nats=nats,
        value=math.exp(nats) if nats < 709 else None,
    )


def _side(evaluation: Evaluation, number: str) -> _Side:
    split, _, loss = number.partition("_")
    only = split if loss == "loss" and any(row.split == split for row in evaluation.rows) else None
    overwritten = evaluation.protocol.name == "llama.cpp" and evaluation.model.adds_bos
    parts = [
        _row(row, row.tokenized, overwritten, only is None or row.split == only)
        for row in evaluation.rows
        if row.tokenized is not None
    ]
    scores = np.concatenate([p.scores for p in parts])
    loss_of = np.concatenate([p.loss for p in parts])
    scored = scores > 0
    return _Side(
        keys=[key for p in parts for key in p.keys],
        loss=loss_of,
        scores=scores,
        total=float((loss_of * scores)[scored].sum() / scores.sum()) if scored.any() else math.nan,
        where=np.concatenate([p.where for p in parts]),
        prefix=np.concatenate([p.prefix for p in parts]),
        fed=np.concatenate([p.fed for p in parts]),
    )


def _row(row: RowInfo, kept: Tokenized, overwritten: bool, wanted: bool) -> _Side:
    tokens = len(kept.ids)
    windows = list(zip(kept.first, kept.size, strict=True)) if wanted else []
    total, count = token_sums(tokens, windows, np.asarray(kept.nll if wanted else [], dtype=np.float32))
    starts, ends = kept.byte_starts, kept.byte_ends
    if starts is None or ends is None:
        starts, ends = list(range(tokens)), list(range(1, tokens + 1))
    own = [row.offset + at for at in starts]
    where, fed = np.full(tokens, -1, dtype=np.int64), np.zeros(tokens, dtype=np.int64)
    prefix = np.zeros(tokens, dtype=bool)
    for first, size, context in zip(kept.first, kept.size, kept.context, strict=True) if wanted else ():
        begin = first - context
        special = begin < 0 or overwritten
        real = begin + 1 if special else begin
        where[first : first + size] = own[real]
        prefix[first : first + size] = special
        fed[first : first + size] = np.arange(first, first + size) - real
    with np.errstate(invalid="ignore"):
        loss = total / count
    keys = [(row.id, at, row.offset + end, i) for at, end, i in zip(own, ends, kept.ids, strict=True)]
    return _Side(keys, loss, count, math.nan, where, prefix, fed)


def _one_tokenizer(a: _Side, b: _Side) -> bool:
    """Whether nearly all tokens of the smaller are the other's as well; a text cut in two has a few others."""
    common = len(set(a.keys) & set(b.keys))
    return common > 0.9 * min(len(a.keys), len(b.keys))


def _same_tokens(a: Evaluation, b: Evaluation, one: _Side, other: _Side) -> Iterator[Step]:
    places = {key: number for number, key in enumerate(other.keys)}
    pairs = [(i, j) for i, key in enumerate(one.keys) if (j := places.get(key)) is not None]
    left, right = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    both = one.scored[left] & other.scored[right]
    if not both.any():
        raise UsageError("no token was scored by both, so their losses cannot be compared")
    left, right = left[both], right[both]
    shared = [np.isin(np.arange(len(s.keys)), [p[k] for p in pairs]) for k, s in enumerate((one, other))]
    means = [(s.total, s.over(s.scored), s.over(mask)) for s, mask in zip((one, other), shared, strict=True)]
    common = (float(one.loss[left].mean()), float(other.loss[right].mean()))
    repeated = int((one.scores > 1).sum() + (other.scores > 1).sum())
    alone = [int((mask & s.scored).sum()) - len(left) for s, mask in zip((one, other), shared, strict=True)]
    cut = [int((~mask & s.scored).sum()) for s, mask in zip((one, other), shared, strict=True)]
    yield _step("scored twice", _way(means, 1, 0), repeated, "tokens scored more than once count more than once")
    yield _step("tokenizer", _way(means, 2, 1), sum(cut), "only one side's text was cut into these")
    unscored = (common[0] - means[0][2]) + (means[1][2] - common[1])
    why = f"{alone[0]} that only the first scored, {alone[1]} that only the second did"
    yield _step("unscored tokens", unscored, sum(alone), why)
    yield from _contexts(a, b, (one, left), (other, right))


def _way(means: Sequence[tuple[float, ...]], to: int, origin: int) -> float:
    """There on the first side, and back on the second."""
    return (means[0][to] - means[0][origin]) + (means[1][origin] - means[1][to])


def _contexts(
    a: Evaluation, b: Evaluation, left: tuple[_Side, NDArray[np.int64]], right: tuple[_Side, NDArray[np.int64]]
) -> Iterator[Step]:
    """The same tokens' losses, by what they were predicted from."""
    (one, i), (other, j) = left, right
    change = other.loss[j] - one.loss[i]
    # A token scored in several contexts has no one context.
    single = (one.scores[i] == 1) & (other.scores[j] == 1)
    begins, prefixes = one.where[i] == other.where[j], one.prefix[i] == other.prefix[j]
    groups = (
        (_numerics(a, b), single & begins & prefixes),
        (("prefix", "BOS or EOS in front on one side only, else the same"), single & begins & ~prefixes),
        (("context", ""), ~(single & begins)),
    )
    for (name, why), mask in groups:
        nats = float(change[mask].sum() / len(change))
        if name == "context" and mask.any():
            fed = [float(np.mean(s.fed[at][mask])) for s, at in (left, right)]
            why = f"other tokens before: {fed[0]:.0f} in the mean against {fed[1]:.0f}"
        yield _step(name, nats, int(mask.sum()), why)


def _numerics(a: Evaluation, b: Evaluation) -> tuple[str, str]:
    """What can make a token's loss another in the same context."""
    if a.model.dtype != b.model.dtype:
        return "dtype", f"the same context in {a.model.dtype} and {b.model.dtype}"
    if a.model.fingerprint != b.model.fingerprint:
        return "weights", "the same context under other weights"
    return "rounding", "the same context under the same weights"


def _other_tokens(a: Evaluation, b: Evaluation, one: _Side, other: _Side) -> Iterator[Step]:
    spans = align(a, b)
    if not len(spans.bytes):
        raise UsageError("no stretch of the text was scored by both, so their losses cannot be compared")
    tokens, sums = [float(n.sum()) for n in spans.tokens], [float(n.sum()) for n in spans.nll]
    once = [side.over(side.scored) for side in (one, other)]
    repeated = int((one.scores > 1).sum() + (other.scores > 1).sum())
    twice = (once[0] - one.total) + (other.total - once[1])
    yield _step("scored twice", twice, repeated, "tokens scored more than once count more than once")
    unscored = (sums[0] / tokens[0] - once[0]) + (once[1] - sums[1] / tokens[1])
    count = int(one.scored.sum() + other.scored.sum() - sum(tokens))
    yield _step("unscored tokens", unscored, count, "text that only one side scored")
    why = f"the same text is {tokens[0]:.0f} tokens of one tokenizer and {tokens[1]:.0f} of the other"
    yield _step("tokenizer", sums[0] / tokens[1] - sums[0] / tokens[0], int(sum(tokens)), why)
    why = f"the same {int(spans.bytes.sum())} bytes cost {sums[0]:.1f} nats in all against {sums[1]:.1f}"
    yield _step("prediction", (sums[1] - sums[0]) / tokens[1], int(tokens[1]), why)


def _step(name: str, nats: float, tokens: int, why: str) -> Step:
    return Step(name=name, nats=nats, tokens=tokens, why=why)


def _notes(a: Evaluation, b: Evaluation) -> Iterator[str]:
    dtypes, weights = a.model.dtype != b.model.dtype, a.model.fingerprint != b.model.fingerprint
    if weights and not dtypes:
        yield "the weights differ as well: the shares of context and prefix hold theirs"
    elif dtypes:
        yield "the dtypes differ as well: where the context differs too, its share holds that of dtype"
