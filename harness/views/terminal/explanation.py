"""The walk from logits to perplexity as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from evalgpt.studies.explanation import Candidate, Explanation, Prediction, Token
from evalgpt.views.terminal.console import console_for, print_rows, say, shown
from evalgpt.views.wording.explanation import Step, place_of, probability_of, steps_of

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
    for step in steps_of(found):
        _heading(console, f"{step.name}: {step.says}" if step.says else step.name)
        for line in _lines(step, several):
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
    predicted = "-" if p.predicted is None else _numbered(p.predicted)
    return str(number), _numbered(p.input), predicted, _numbered(p.target), place_of(p)


def _lines(step: Step, several: bool) -> Iterator[str]:
    """What stands below a step's title: one line for each text, with a number for each of its predictions."""
    if step.lead:
        yield step.lead
    for at, numbers in enumerate(step.numbers, 1):
        yield (f"text {at}: " if several else "") + " ".join(numbers)
    if step.note:
        yield step.note


def _likeliest(every: Sequence[Prediction]) -> tuple[Sequence[str], list[list[str]]]:
    """Headers and rows of the table of candidates."""
    most = max(len(p.likeliest) for p in every)
    rows = []
    for p in every:
        cells = [_candidate(c) for c in p.likeliest]
        rows.append([f"after {_quoted(p.input)}", *cells, *[""] * (most - len(cells))])
    return ["", *(f"{place}." for place in range(1, most + 1))], rows


def _candidate(c: Candidate) -> str:
    return f"{_quoted(c.token)} {probability_of(c)}"


def _numbered(token: Token) -> str:
    return f"{token.id} {_quoted(token)}"


def _quoted(token: Token) -> str:
    return f'"{token.text}"'
