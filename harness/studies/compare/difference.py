"""Why two perplexities of one text differ: the gap, step by step, taken from the losses that the reports keep.

The steps lead from one tool's number to the other's and sum to the gap exactly, in nats: its average is replaced by the
plain mean over tokens, tokens that only one side scored are left out, each common token's loss in one context is
replaced by its loss in the other; and the same way back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.core import EvalgptError, UsageError
from evalgpt.core.plugins import Plugins, default_plugins
from evalgpt.core.protocol import Protocol
from evalgpt.report.document import Evaluation, describe_protocol, keeps_tokens
from evalgpt.studies.compare.alignment import align
from evalgpt.studies.compare.contexts import Side, part_of, side_of

__all__ = ["SCHEMA", "Difference", "Differences", "Number", "Step", "explain", "numbers_of"]


SCHEMA: Final = "evalgpt.difference/1"

PER_TEXT = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Numbers that divide by what is the text's own, whatever the tokenizer; so :meth:`Protocol.peer` names them."""

ROUNDING = 1e-12
"""Nats below which two ways of taking one average do not differ."""


class Number(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two numbers: ``value`` as its tool prints it, ``perplexity`` what that is as one (None beyond a
    float), and ``nats`` the perplexity's logarithm, which the steps are in."""

    model: str
    protocol: str
    dtype: str
    name: str
    nats: float
    value: float
    perplexity: float | None


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
    command: list[str] = []
    differences: list[Difference]


def numbers_of(evaluation: Evaluation) -> dict[str, float]:
    """The evaluation's perplexities by name, each as its logarithm in nats; ``loss`` is the mean over tokens.

    Their names tell their units, as :meth:`evalgpt.protocols.Protocol.peer` has it.
    """
    found = {"loss": evaluation.metrics.loss}
    for name, value in evaluation.peer.items():
        if value is None or "error" in name or ("perplexity" in name and value <= 0):
            continue
        if "perplexity" in name:
            found[name] = math.log(value)
        elif name.endswith("_loss"):
            found[name] = value
        elif name == "bits_per_byte":
            found[name] = value * math.log(2)
    return found


def explain(
    a: Evaluation,
    b: Evaluation,
    names: tuple[str | None, str | None] = (None, None),
    plugins: Plugins | None = None,
) -> Difference:
    """Take the gap from ``a``'s number to ``b``'s apart; ``names`` choose the numbers, by default the tools' headlines.

    What a protocol says of itself is asked of ``plugins``, by default those that are installed. Of a protocol that is
    not among them the token mean is the headline, and a note says so.

    Raises:
        UsageError: another text, no losses of single tokens, an unknown number, or no token that both scored.
    """
    if a.task.sha256 != b.task.sha256:
        raise UsageError(
            f"the texts differ: task.sha256 is {a.task.sha256[:12]} against {b.task.sha256[:12]}; a difference between "
            f"perplexities of two texts has no one cause"
        )
    protocols = [_protocol(e, plugins or default_plugins()) for e in (a, b)]
    chosen = [_number(e, p, name) for e, p, name in zip((a, b), protocols, names, strict=True)]
    for e in (a, b):
        if not keeps_tokens(e):
            raise UsageError(f"the report of {e.model.spec} has no losses of single tokens; run it with --tokens")
    one, other = (
        side_of(e, number.name, p is not None and p.overwrites_first)
        for e, p, number in zip((a, b), protocols, chosen, strict=True)
    )
    if not one.scored.any() or not other.scored.any():
        raise UsageError("one of the two scored nothing")
    per_text = chosen[0].name == chosen[1].name in PER_TEXT
    if _one_tokenizer(one, other):
        steps = list(_same_tokens(a, b, one, other))
        if per_text:  # both divide by the same words or bytes, so all shares are of those
            steps = [_step(s.name, s.nats * chosen[0].nats / one.total, s.tokens, s.why) for s in steps]
    elif per_text:
        steps = [_predictions(chosen, (one, other))]
    else:
        steps = list(_other_tokens(part_of(a, chosen[0].name), part_of(b, chosen[1].name), one, other))
    averaging = chosen[1].nats - chosen[0].nats - sum(step.nats for step in steps)
    why = " against ".join("token mean" if n.name == "loss" else n.name for n in chosen)
    first = _step("averaging", averaging, 0, why)
    return Difference(
        task=a.task.spec,
        origin=chosen[0],
        to=chosen[1],
        nats=chosen[1].nats - chosen[0].nats,
        steps=[s for s in (first, *steps) if abs(s.nats) > ROUNDING or (s.tokens and s.name != "rounding")],
        notes=[*_notes(a, b, steps), *_unknown((a, b), protocols), *_others((a, b), chosen)],
    )


def _protocol(evaluation: Evaluation, plugins: Plugins) -> Protocol | None:
    """The protocol that the report names, not bound; None where no plugin builds it by its name alone."""
    try:
        return plugins.protocol(evaluation.protocol.name)
    except EvalgptError:
        return None


def _number(evaluation: Evaluation, protocol: Protocol | None, name: str | None) -> Number:
    found = numbers_of(evaluation)
    headline = "loss" if protocol is None else protocol.headline
    wanted = name or (headline if headline in found else "loss")
    if wanted == "perplexity" and wanted not in found:
        wanted = "loss"
    if wanted not in found:
        raise UsageError(
            f"the report of {describe_protocol(evaluation)} has no number {wanted!r}; it has {', '.join(found)}"
        )
    nats = found[wanted]
    peer = evaluation.peer.get(wanted)
    return Number(
        model=evaluation.model.spec,
        protocol=describe_protocol(evaluation),
        dtype=evaluation.model.dtype,
        name=wanted,
        nats=nats,
        value=evaluation.metrics.loss if peer is None else peer,
        perplexity=math.exp(nats) if nats < 709 else None,
    )


def _predictions(chosen: Sequence[Number], sides: Sequence[Side]) -> Step:
    """Two tokenizers, one denominator: whatever differs lies in the predictions."""
    nll = [side.total * float(side.scores.sum()) for side in sides]
    why = f"the same text costs {nll[0]:.1f} nats in all against {nll[1]:.1f}"
    return _step("prediction", chosen[1].nats - chosen[0].nats, int(sides[1].scores.sum()), why)


def _one_tokenizer(a: Side, b: Side) -> bool:
    """Whether nearly all tokens of the smaller are the other's as well; a text cut in two has a few others."""
    common = len(set(a.keys) & set(b.keys))
    return common > 0.9 * min(len(a.keys), len(b.keys))


def _same_tokens(a: Evaluation, b: Evaluation, one: Side, other: Side) -> Iterator[Step]:
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
    a: Evaluation, b: Evaluation, left: tuple[Side, NDArray[np.int64]], right: tuple[Side, NDArray[np.int64]]
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


def _models(a: Evaluation, b: Evaluation) -> tuple[bool, bool]:
    """Whether the weights differ, and whether the dtype does. Fingerprints of some adapters follow the dtype; then the
    specs, but for it, tell."""
    dtype = a.model.dtype != b.model.dtype
    weights = a.model.fingerprint != b.model.fingerprint
    if weights and dtype:
        specs = [re.sub(r",dtype=[^,]*", "", e.model.spec) for e in (a, b)]
        weights = specs[0] != specs[1]
    return weights, dtype


def _numerics(a: Evaluation, b: Evaluation) -> tuple[str, str]:
    """What can make a token's loss another in the same context."""
    weights, dtype = _models(a, b)
    if weights and dtype:
        return "weights, dtype", f"the same context under other weights, in {a.model.dtype} and {b.model.dtype}"
    if dtype:
        return "dtype", f"the same context in {a.model.dtype} and {b.model.dtype}"
    if weights:
        return "weights", "the same context under other weights"
    return "rounding", "the same context under the same weights"


def _other_tokens(a: Evaluation, b: Evaluation, one: Side, other: Side) -> Iterator[Step]:
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


def _unknown(both: Sequence[Evaluation], protocols: Sequence[Protocol | None]) -> Iterator[str]:
    """Protocols of which nothing is known but the report."""
    for name in dict.fromkeys(e.protocol.name for e, p in zip(both, protocols, strict=True) if p is None):
        yield (
            f"no plugin here builds the protocol {name}: its headline is taken to be the mean over tokens, and the "
            f"first token of its windows to be the text's own; --plugin loads others"
        )


def _others(both: Sequence[Evaluation], chosen: Sequence[Number]) -> Iterator[str]:
    """Numbers that could have been taken instead."""
    for letter, evaluation, number in zip("ab", both, chosen, strict=True):
        others = [name for name in numbers_of(evaluation) if name != number.name]
        if others:
            yield f"instead of {number.name}, --number-{letter} takes {', '.join(others)}"


def _notes(a: Evaluation, b: Evaluation, steps: Sequence[Step]) -> Iterator[str]:
    names = [name for name, differs in zip(("weights", "dtype"), _models(a, b), strict=True) if differs]
    if names and any(step.name in ("context", "prefix") and step.tokens for step in steps):
        yield f"{' and '.join(names)} differ as well: the shares of context and prefix hold theirs"
