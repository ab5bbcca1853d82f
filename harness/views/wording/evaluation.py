"""An evaluation in sentences; the terminal and the page show the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evalgpt.report.document import Evaluation, Sample
from evalgpt.report.metrics import Uncertainty

__all__ = ["in_words", "sentences"]


def perplexity_text(value: float) -> str:
    return f"{value:.2f}" if value < 1e9 else f"{value:.4g}"


def sentences(evaluation: Evaluation) -> Iterator[str]:
    """What the numbers of ``evaluation`` say, in words."""
    yield in_words(evaluation.metrics.perplexity, evaluation.model.vocab_size)
    if evaluation.peer:
        numbers = ", ".join(f"{_label(key)} {_number(value, '.5f')}" for key, value in evaluation.peer.items())
        yield f"as {evaluation.protocol.source} counts it: {numbers}"
    for key, value in evaluation.task_metrics.items():
        if not key.endswith(("_low", "_high")):
            yield f"{_label(key)}: {_number(value, '.5g')}{_range(evaluation.task_metrics, key)}"
    if evaluation.sample is not None:
        yield _sample(evaluation.sample)
    yield _spread(evaluation.metrics.uncertainty)
    yield _ledger(evaluation)
    yield from evaluation.notes
    if failed := evaluation.timing.failed_batch_tokens:
        last = evaluation.batch_tokens
        yield f"a batch of {failed} tokens did not fit the memory; the last ones had at most {last}"
    for verdict in evaluation.verdicts:
        yield f"! {verdict.message}"


def in_words(perplexity: float | None, vocabulary: int) -> str:
    if perplexity is None or perplexity > 1e15:
        return f"less certain than a guess among all {vocabulary:,} tokens could ever be"
    among = f"{perplexity:,.0f}" if perplexity >= 100 else f"{perplexity:.3g}"
    if perplexity > vocabulary:
        if among == f"{vocabulary:,}":
            return f"as uncertain as choosing among all {among} tokens, or a little more"
        return f"as uncertain as choosing among {among} tokens, more than the {vocabulary:,} there are"
    return f"as uncertain as choosing among {among} of {vocabulary:,} tokens"


def _spread(found: Uncertainty | None) -> str:
    if found is None:
        return "too few tokens to say how far another text of this kind might lie"
    low, high = (("beyond a float" if x is None else perplexity_text(x)) for x in found.perplexity)
    over = f"{found.units} documents" if found.method == "clusters" else f"correlated tokens, {found.method}"
    return f"{found.level:.0%} interval of the perplexity on text of this kind: {low} to {high} ({over})"


def _sample(found: Sample) -> str:
    if found.windows == found.of:
        return f"{found.reason}: the perplexity is that of the whole text"
    part = f"{found.windows} of {found.of} windows, {found.tokens / found.of_tokens:.1%} of the tokens, in random order"
    if found.perplexity is None or None in found.perplexity:
        return f"{found.reason}: {part}{assumed(found.rarest)}"
    low, high = _apart([x for x in found.perplexity if x is not None])
    asked = "" if found.precision is None else f", within {found.precision * 100:g} % of it"
    return (
        f"{found.reason}: the whole text's perplexity is {low} to {high} ({found.level:.0%}){asked}; {part}"
        + assumed(found.rarest)
    )


def _apart(bounds: Sequence[float]) -> list[str]:
    """Perplexities in as many digits as tell the bounds of a narrow interval apart."""
    shown = [perplexity_text(x) for x in bounds]
    for digits in range(6, 17):
        if len(set(shown)) == len(set(bounds)):
            break
        shown = [f"{x:.{digits}g}" for x in bounds]
    return shown


def assumed(rarest: float | None) -> str:
    """The assumption under which a sample's interval holds, in words; empty where none was recorded."""
    return (
        "" if rarest is None else f"; holds if every kind of window that matters is {rarest * 100:g} % of all or more"
    )


def _ledger(evaluation: Evaluation) -> str:
    ledger = evaluation.ledger
    parts = [
        f"{count} {what}"
        for count, what in (
            (ledger.given, "given as context"),
            (ledger.head, "unscored at the head"),
            (ledger.inside, "unscored inside"),
            (ledger.tail, "unscored at the tail"),
            (ledger.twice, "scored more than once"),
        )
        if count
    ]
    line = f"{ledger.scored} of {ledger.tokens} tokens scored"
    if parts:
        line += f" ({', '.join(parts)})"
    if ledger.context is not None:
        c = ledger.context
        if c.smallest == c.largest:
            line += f"; each after {c.largest} token{'' if c.largest == 1 else 's'}"
        else:
            line += f"; each after {c.smallest} to {c.largest} tokens, {c.median:g} in the median"
    recalled, computed = evaluation.timing.recalled_scores, evaluation.timing.computed_scores
    if recalled:
        line += f"; {min(recalled, ledger.scores) if computed else 'all'} losses from the cache"
    return line if computed == 0 else f"{line}; {evaluation.timing.tokens_per_second:,.0f} tokens/s"


def _number(value: float | None, form: str) -> str:
    return "beyond a float" if value is None else f"{value:{form}}"


def _range(values: Mapping[str, float | None], key: str) -> str:
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    return "" if low is None or high is None else f" (95 % interval {low:.5g} to {high:.5g})"


def _label(key: str) -> str:
    paradigm, _, name = key.rpartition(".")
    return f"{paradigm}: {name.replace('_', ' ')}" if paradigm else name.replace("_", " ")
