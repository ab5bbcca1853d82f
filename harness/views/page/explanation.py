"""What the page says of an explanation: the walk from logits to perplexity, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalgpt.studies.explanation import Explained, Explanation, Prediction, Token
from evalgpt.views.page.cells import shown
from evalgpt.views.page.parts import Rows
from evalgpt.views.wording.explanation import Kind, Step, place_of, probability_of, steps_of

__all__ = ["WalkView", "walk_view"]


SHOWN = 32
"""Positions of a text that are drawn; the tables have all."""

SUMMED = 8
"""Predictions up to which an average is written out."""

SAYS: dict[Kind, str] = {
    "none": "The model gives no logits, only how likely tokens are, so the walk begins at step 3.",
    "logits": "After each token the model puts out {size} numbers, one for each token that could come next: the "
    "higher, the likelier. These are the numbers of the targets, the tokens that did come next.",
    "softmax": "The exponential of each logit, divided by the sum of all {size} exponentials (softmax): now they lie "
    "between 0 and 1 and add up to 1. These are the logarithms of the sums.",
    "targets": "Of the {size} probabilities only one is kept, the target's: exp(logit − logarithm of the sum). "
    "Training pushes it towards 1.",
    "logarithms": "The natural logarithm of each: 0 for a token that was certain, further below zero the less likely "
    "it was. Where probabilities would be multiplied into tiny numbers, logarithms are added.",
    "average": "All of them added up and divided by how many they are.",
    "loss": "The sign is turned, so that less is better: the loss, in nats per token.",
    "cross-entropy": "What a framework computes from logits and targets in one call",
    "perplexity": "The exponential of the loss",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the likeliest tokens after an input; ``width`` is its probability in percent."""

    token: str
    probability: str
    width: float
    target: bool


@dataclass(frozen=True, slots=True)
class Position:
    """One prediction: what was fed last, what came, and what the model held likeliest."""

    input: str
    target: str
    choices: list[Choice]


@dataclass(frozen=True, slots=True)
class WalkText:
    """One text: its tokens with their numbers, its pairs of input and target, and how many are not drawn."""

    label: str
    tokens: list[tuple[str, int]]
    more: int
    pairs: Rows
    positions: list[Position]


@dataclass(frozen=True, slots=True)
class WalkStep:
    """A step: a sentence, then numbers below the tokens of each text, or one ``value`` and how it comes about."""

    step: Step
    sentence: str
    sum: str
    numbers: list[list[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class WalkView:
    """Everything the page shows of one explanation."""

    anchor: str
    found: Explanation
    title: str
    texts: list[WalkText]
    steps: list[WalkStep]
    headers: tuple[str, ...]
    table: Rows
    perplexity: str
    meaning: str


def walk_view(found: Explanation, anchor: str) -> WalkView:
    """The view of one explanation."""
    steps = list(steps_of(found))
    last = steps[-1]
    several = len(found.texts) > 1
    quoted = ", ".join(f"“{_short(text.text)}”" for text in found.texts[:2])
    more = f" and {len(found.texts) - 2} more" if len(found.texts) > 2 else ""
    headers, table = _table(found, steps)
    return WalkView(
        anchor=anchor,
        found=found,
        title=quoted + more,
        texts=[_text(text, f"Text {n}" if several else "") for n, text in enumerate(found.texts, 1)],
        steps=[_step(found, steps, step) for step in steps],
        headers=headers,
        table=table,
        perplexity=last.value,
        meaning=last.note,
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _text(text: Explained, label: str) -> WalkText:
    pairs: Rows = [
        (_spelled(p.input), _spelled(p.target), "-" if p.predicted is None else _spelled(p.predicted), place_of(p))
        for p in text.predictions
    ]
    return WalkText(
        label=label,
        tokens=[(_spelled(token), token.id) for token in text.tokens[:SHOWN]],
        more=max(len(text.tokens) - SHOWN, 0),
        pairs=pairs[:SHOWN],
        positions=[_position(p) for p in text.predictions[:SHOWN] if p.likeliest],
    )


def _position(p: Prediction) -> Position:
    choices = [
        Choice(_spelled(c.token), probability_of(c), round(100 * c.probability, 2), c.token.id == p.target.id)
        for c in p.likeliest
    ]
    return Position(_spelled(p.input), _spelled(p.target), choices)


def _step(found: Explanation, steps: Sequence[Step], step: Step) -> WalkStep:
    numbers = [
        [(_spelled(p.target), number) for p, number in zip(text.predictions[:SHOWN], each[:SHOWN], strict=True)]
        for text, each in zip(found.texts, step.numbers, strict=False)
    ]
    sentence = SAYS[step.kind].format(size=f"{found.model.vocab_size:,}")
    if step.note:
        sentence += f": {step.note}" if step.kind == "perplexity" else f", {step.note}"
        sentence += "."
    return WalkStep(step, sentence, _sum(steps, step), numbers)


def _sum(steps: Sequence[Step], step: Step) -> str:
    """How a number comes about, in digits that stand on the page; nothing where that would be too long."""
    values = {s.kind: s.value for s in steps}
    if step.kind == "average":
        logs = [x for s in steps if s.kind == "logarithms" for each in s.numbers for x in each]
        total = " ".join([logs[0], *(f"- {x[1:]}" if x.startswith("-") else f"+ {x}" for x in logs[1:])])
        return f"({total}) / {len(logs)}" if len(logs) <= SUMMED else f"their sum / {len(logs)}"
    if step.kind == "loss":
        return f"-({values['average']})"
    return f"exp({values['loss']})" if step.kind == "perplexity" else ""


def _table(found: Explanation, steps: Sequence[Step]) -> tuple[tuple[str, ...], Rows]:
    """Every prediction of every text, one a row: the steps' numbers, as they stand in the steps."""
    names = {
        "logits": "logit",
        "softmax": "log of the sum",
        "targets": "probability",
        "logarithms": "log-probability",
    }
    kept = [step for step in steps if step.numbers]
    several = len(found.texts) > 1
    rows: Rows = []
    for t, text in enumerate(found.texts):
        for n, p in enumerate(text.predictions):
            first = f"{t + 1}, {n + 1}" if several else str(n + 1)
            cells = [step.numbers[t][n] for step in kept]
            rows.append((first, _spelled(p.input), _spelled(p.target), *cells, f"{p.score:.4f}", place_of(p)))
    number = "text, number" if several else "number"
    return (number, "input", "target", *(names[s.kind] for s in kept), "loss by Model.score", "target's place"), rows


def _spelled(token: Token) -> str:
    """A token on one line, its spaces to be seen."""
    return shown(token.text).replace("\n", "").replace(" ", "␣") or "(nothing)"
