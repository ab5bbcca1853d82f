"""The walk from logits to perplexity as a person reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.text import Text

from evalgpt.explanation import Candidate, Explanation, Prediction, Token
from evalgpt.render import console_for, in_words, print_rows, say, shown

__all__ = ["print_explanation"]


def print_explanation(found: Explanation, *, err: bool = False) -> None:
    """Print the tokens, the six steps, the same in one line, and what the perplexity means."""
    console = console_for(err=err)
    every = [(number, p) for number, text in enumerate(found.texts, 1) for p in text.predictions]
    _heading(console, _about(found, len(every)))
    several = len(found.texts) > 1
    headers = ("text", "input", "predicted", "target", "target's place")[0 if several else 1 :]
    rows = [_row(number, p)[0 if several else 1 :] for number, p in every]
    print_rows(console, headers, rows, left=len(headers) - 1, names=2 if several else 1)
    for title, *lines in _steps(found):
        _heading(console, title)
        for line in lines:
            say(console, line, indent=3)
    if any(p.likeliest for _, p in every):
        _heading(console, "What the model held likeliest")
        print_rows(console, *_likeliest([p for _, p in every]), left=1)


def _heading(console: Console, text: str) -> None:
    """A sentence in bold on a terminal; there alone it is wrapped."""
    if console.is_terminal:
        console.print(Text(shown(console, text), style="bold"))
    else:
        say(console, text)


def _about(found: Explanation, count: int) -> str:
    texts = f"{len(found.texts)} text{'s' * (len(found.texts) > 1)}"
    predictions = f"{count} prediction{'s' * (count > 1)}"
    prefix = "" if found.prefix is None else f", each text behind {_quoted(found.prefix)}"
    return f"{found.model.spec}, {texts}, {predictions} among {found.model.vocab_size:,} tokens{prefix}"


def _row(number: int, p: Prediction) -> tuple[str, ...]:
    place = "-" if p.rank is None else f"{p.rank + 1:,}"
    predicted = "-" if p.predicted is None else _numbered(p.predicted)
    return str(number), _numbered(p.input), predicted, _numbered(p.target), place


def _steps(found: Explanation) -> Iterator[tuple[str, ...]]:
    size = f"{found.model.vocab_size:,}"
    if found.largest_difference is None:
        yield (
            f"1. Logits: model {found.model.name} gives none, only how likely tokens are: the walk begins at step 3",
        )
    else:
        title = f"1. Logits: {size} numbers after each input token, one for each token that could come next"
        yield title, "the targets' logits:", *_per_text(found, lambda p: f"{p.logit:.4f}")
        title = "2. Probabilities: exp(logit) over the sum of exp of all logits (softmax), so that they sum to 1"
        logs = _per_text(found, lambda p: f"{p.log_normaliser:.4f}")
        yield title, "the logarithms of the sums:", *logs
    yield "3. Target probabilities", *_per_text(found, lambda p: f"{p.probability:.4e}")
    yield "4. Log-probabilities", *_per_text(found, lambda p: f"{p.log_probability:.4f}")
    count = sum(len(text.predictions) for text in found.texts)
    yield (f"5. Their average{f' over all {count}' if count > 1 else ''}: {found.mean_log_probability:.4f}",)
    yield (f"6. Its negative, the loss: {found.loss:.4f} nats per token",)
    yield f"The same in one line, cross entropy: {found.cross_entropy:.4f}", _difference(found)
    perplexity = "beyond a float" if found.perplexity is None else f"{found.perplexity:.2f}"
    yield f"Perplexity, exp(loss): {perplexity}", in_words(found.perplexity, found.model.vocab_size)


def _difference(found: Explanation) -> str:
    if found.largest_difference is None:
        return "by the model's own scores, from which the walk was made"
    return f"by Model.score; no token's loss differs by more than {found.largest_difference:.1e} from steps 1 to 4"


def _per_text(found: Explanation, number: Callable[[Prediction], str]) -> Iterator[str]:
    """One line for each text, with a number for each of its predictions."""
    for at, text in enumerate(found.texts, 1):
        before = f"text {at}: " if len(found.texts) > 1 else ""
        yield before + " ".join(number(p) for p in text.predictions)


def _likeliest(every: Sequence[Prediction]) -> tuple[Sequence[str], list[list[str]]]:
    """Headers and rows of the table of candidates."""
    most = max(len(p.likeliest) for p in every)
    rows = []
    for p in every:
        cells = [_candidate(c) for c in p.likeliest]
        rows.append([f"after {_quoted(p.input)}", *cells, *[""] * (most - len(cells))])
    return ["", *(f"{place}." for place in range(1, most + 1))], rows


def _candidate(c: Candidate) -> str:
    return f"{_quoted(c.token)} " + (f"{c.probability:.4f}" if c.probability >= 0.001 else f"{c.probability:.1e}")


def _numbered(token: Token) -> str:
    return f"{token.id} {_quoted(token)}"


def _quoted(token: Token) -> str:
    return f'"{token.text}"'
