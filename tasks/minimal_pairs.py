"""The task ``minimal-pairs``: does a model prefer the acceptable sentence of two?

BLiMP (Warstadt et al. 2020, arXiv:1912.00582) counts a pair as right where the acceptable sentence has the higher
probability: the sum of its tokens' log-probabilities, not their mean.
"""

from __future__ import annotations

import glob
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist

from evalgpt.core import Document, EvaluationError, Row, Task, UsageError
from evalgpt.core.finding import Found, files_of_glob
from evalgpt.core.hooks import Register, hookimpl
from evalgpt.core.protocol import DEFAULT_PROTOCOL
from evalgpt.tasks.formats import Absent, text_of
from evalgpt.tasks.reading import Unchanged, jsonl, looking_at, read_text, shown

__all__ = ["MinimalPairs", "make_minimal_pairs", "wilson"]


LEVEL = 0.95


class MinimalPairs(Task):
    """Two documents for each pair, labelled ``good`` and ``bad`` and grouped as ``paradigm/number``."""

    name = "minimal-pairs"

    def __init__(self, found: Found, good: str, bad: str) -> None:
        self.paths = [Path(name) for name in found.files]
        self.fields = {"good": good, "bad": bad}
        self._left_out = found.notes
        self._unchanged = Unchanged()
        self.notes = found.notes

    def documents(self) -> Iterator[Document]:
        equal: list[str] = []
        for path in self.paths:
            found = False
            self._unchanged.check(str(path))
            for number, record in jsonl(read_text(path).split("\n"), str(path)):
                found = True
                good, bad = self._pair(record, path, number)
                if good.text == bad.text:
                    equal.append(good.group)
                yield from (good, bad)
            self._unchanged.check(str(path))
            if not found:
                raise EvaluationError(f"{path} holds no pairs")
        self.notes = self._left_out
        if equal:
            count, half = (
                (f"{len(equal)} pairs have", "count half each") if equal[1:] else ("1 pair has", "counts half")
            )
            self.notes = [*self.notes, f"{count} two equal sentences, such as {equal[0]}, and {half}"]

    def _pair(self, record: Mapping[str, object], path: Path, number: int) -> tuple[Document, Document]:
        where = f"{path}, line {number}"
        for field in self.fields.values():
            if field not in record:
                raise EvaluationError(
                    f"{where} has no sentence in the field {field!r}; it has {', '.join(record) or 'no fields'}: "
                    f"name the two with minimal-pairs:{path},good=FIELD,bad=FIELD"
                )
        empty = "context" not in record or record["context"] == ""
        context = "" if empty else _text(record, "context", where)
        group = f"{shown(path.stem)}/{number}"
        good, bad = (
            Document(f"{group}/{label}", _text(record, field, where), context, group, label)
            for label, field in self.fields.items()
        )
        return good, bad

    def metrics(self, rows: Iterable[Row]) -> Mapping[str, float]:
        """Accuracy by summed log-probability and by log-probability per UTF-8 byte, over all pairs and per paradigm.

        A tie counts half. Each accuracy has its 95 % Wilson interval: ``accuracy_low``, ``accuracy_high``, for which a
        pair that occurs repeatedly counts once.
        """
        pairs: dict[str, dict[str, Row]] = {}
        for row in rows:
            if row.split:
                raise EvaluationError(
                    f"minimal pairs are scored whole; use a protocol without parts, such as {DEFAULT_PROTOCOL}"
                )
            pairs.setdefault(row.document.group, {})[row.document.label] = row
        paradigms: dict[str, list[dict[str, Row]]] = {}
        for group, pair in pairs.items():
            paradigms.setdefault(group.rpartition("/")[0], []).append(pair)
        result = _accuracies("", [pair for found in paradigms.values() for pair in found])
        if len(paradigms) > 1:
            for paradigm, found in sorted(paradigms.items()):
                result |= _accuracies(f"{paradigm}.", found)
        return result


def _text(record: Mapping[str, object], field: str, where: str) -> str:
    text = text_of(record, field, where)
    if isinstance(text, Absent):
        raise EvaluationError(f"{where}: {field} is {text.value}, and a text is wanted")
    return text


def _accuracies(prefix: str, pairs: Sequence[Mapping[str, Row]]) -> dict[str, float]:
    result = {f"{prefix}pairs": float(len(pairs))}
    trials = _different(pairs)
    for name, per_byte in (("accuracy", False), ("accuracy_per_byte", True)):
        points = sum(_points(pair["good"], pair["bad"], per_byte) for pair in pairs)
        low, high = wilson(points * (trials / len(pairs)), trials)
        key = f"{prefix}{name}"
        result |= {key: points / len(pairs), f"{key}_low": low, f"{key}_high": high}
    return result


def _different(pairs: Sequence[Mapping[str, Row]]) -> float:
    """How many pairs the interval rests on: all, if each occurs once, else Kish's effective number (sum m)^2 / sum m^2
    of pairs that occur m times."""
    texts = Counter(tuple((row.document.context, row.text) for row in (pair["good"], pair["bad"])) for pair in pairs)
    return len(pairs) ** 2 / sum(times**2 for times in texts.values())


def _points(good: Row, bad: Row, per_byte: bool) -> float:
    for row in (good, bad):
        if not len(row.nll):
            raise EvaluationError(f"no token of {row.document.id} was scored, so its pair cannot be judged")
    if good.text == bad.text:  # their losses may differ by the rounding of two batches
        return 0.5
    losses = [
        float(row.nll.sum(dtype="float64")) / (len(row.text.encode()) if per_byte else 1.0) for row in (good, bad)
    ]
    return 0.5 if losses[0] == losses[1] else float(losses[0] < losses[1])


def wilson(successes: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927), which stays within 0 and 1.

    Not ``scipy.stats.binomtest``, which takes whole numbers: a tie is half a success, repeated pairs a part of a trial.
    Pairs of one paradigm come from templates and are not quite independent, so it is somewhat too narrow.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At 0 and 1 a bound is the share itself, which rounding may miss.
    return min(max((middle - half) / scale, 0.0), share), max(min((middle + half) / scale, 1.0), share)


def make_minimal_pairs(
    argument: str | None, *, good: str = "sentence_good", bad: str = "sentence_bad", hidden: bool = False
) -> Task:
    """Minimal pairs as BLiMP's, minimal-pairs:PATH (JSONL file or folder) or :PARADIGM of BLiMP in $EVALGPT_DATA."""
    if good == bad:
        raise UsageError(f"task 'minimal-pairs': good and bad are both the field {good!r}")
    with looking_at(argument):
        return MinimalPairs(_find(argument, hidden), good, bad)


def _find(argument: str | None, hidden: bool) -> Found:
    data = os.environ.get("EVALGPT_DATA")
    blimp = Path(data) / "blimp" if data else None
    if argument is None:
        if blimp is None or not blimp.is_dir():
            raise UsageError(
                "task 'minimal-pairs' needs a JSONL file or a folder of them, minimal-pairs:PATH; without one it reads "
                "the folder blimp in EVALGPT_DATA, which is not there"
            )
        argument = str(blimp)
    path = Path(argument)
    if path.is_file():
        return Found([argument])
    if path.is_dir():
        found = files_of_glob(f"{glob.escape(argument)}/*.jsonl", hidden=hidden)
        if not found.files:
            raise EvaluationError(f"the folder {argument} holds no .jsonl files")
        return found
    named = blimp / f"{argument}.jsonl" if blimp else None
    if named and named.is_file():
        return Found([str(named)])
    known = ", ".join(sorted(p.stem for p in blimp.glob("*.jsonl"))) if blimp and blimp.is_dir() else ""
    there = f"; paradigms in EVALGPT_DATA: {known}" if known else "; EVALGPT_DATA has no folder blimp to look it up in"
    raise UsageError(f"task 'minimal-pairs': there is no file, folder or paradigm {argument}{there}")


@hookimpl
def register_tasks(register: Register) -> None:
    register("minimal-pairs", make_minimal_pairs)
