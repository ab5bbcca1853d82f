"""The steps from logits to perplexity in words and digits: the same on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from evalgpt.studies.explanation import Candidate, Explanation, Prediction
from evalgpt.views.wording.evaluation import in_words

__all__ = ["Kind", "Step", "place_of", "probability_of", "steps_of"]


Kind = Literal["none", "logits", "softmax", "targets", "logarithms", "average", "loss", "cross-entropy", "perplexity"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name, what it does or what comes of it (``says``; ``value`` is the number in it), what ``numbers``
    are, these for each text and there for each prediction, and a ``note``."""

    kind: Kind
    name: str
    says: str = ""
    value: str = ""
    lead: str = ""
    numbers: list[list[str]] = field(default_factory=list)
    note: str = ""


def steps_of(found: Explanation) -> Iterator[Step]:
    """The six steps, or the last four where the model gives no logits; then cross entropy and perplexity."""
    size = f"{found.model.vocab_size:,}"
    if found.largest_difference is None:
        says = f"model {found.model.name} gives none, only how likely tokens are: the walk begins at step 3"
        yield Step("none", "1. Logits", says)
    else:
        says = f"{size} numbers after each input token, one for each token that could come next"
        logits = _numbers(found, lambda p: f"{p.logit:.4f}")
        yield Step("logits", "1. Logits", says, lead="the targets' logits:", numbers=logits)
        says = "exp(logit) over the sum of exp of all logits (softmax), so that they sum to 1"
        sums = _numbers(found, lambda p: f"{p.log_normaliser:.4f}")
        yield Step("softmax", "2. Probabilities", says, lead="the logarithms of the sums:", numbers=sums)
    yield Step("targets", "3. Target probabilities", numbers=_numbers(found, lambda p: f"{p.probability:.4e}"))
    yield Step("logarithms", "4. Log-probabilities", numbers=_numbers(found, lambda p: f"{p.log_probability:.4f}"))
    count = sum(len(text.predictions) for text in found.texts)
    mean, loss, entropy = (f"{x:.4f}" for x in (found.mean_log_probability, found.loss, found.cross_entropy))
    yield Step("average", f"5. Their average{f' over all {count}' if count > 1 else ''}", mean, mean)
    yield Step("loss", "6. Its negative, the loss", f"{loss} nats per token", loss)
    yield Step("cross-entropy", "The same in one line, cross entropy", entropy, entropy, note=_difference(found))
    perplexity = "beyond a float" if found.perplexity is None else f"{found.perplexity:.2f}"
    meaning = in_words(found.perplexity, found.model.vocab_size)
    yield Step("perplexity", "Perplexity, exp(loss)", perplexity, perplexity, note=meaning)


def probability_of(c: Candidate) -> str:
    """The probability of one of the likeliest tokens."""
    return f"{c.probability:.4f}" if c.probability >= 0.001 else f"{c.probability:.1e}"


def place_of(p: Prediction) -> str:
    """The place of the target among all tokens, 1 being the likeliest."""
    return "-" if p.rank is None else f"{p.rank + 1:,}"


def _difference(found: Explanation) -> str:
    if found.largest_difference is None:
        return "by the model's own scores, from which the walk was made"
    return f"by Model.score; no token's loss differs by more than {found.largest_difference:.1e} from steps 1 to 4"


def _numbers(found: Explanation, number: Callable[[Prediction], str]) -> list[list[str]]:
    return [[number(p) for p in text.predictions] for text in found.texts]
