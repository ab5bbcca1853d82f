"""The documents that a page is made from: reports, explanations, logs of training runs, told apart by their schema."""

from __future__ import annotations

from pathlib import Path

import msgspec

from evalgpt.core import UsageError
from evalgpt.report import document as report
from evalgpt.report.decoding import decode_as, schema_of
from evalgpt.report.document import Report, parse_report
from evalgpt.report.files import read_document_bytes
from evalgpt.studies import explanation
from evalgpt.studies.explanation import Explanation
from evalgpt.studies.training import log as training_log
from evalgpt.studies.training.log import LOG, Training

__all__ = ["Document", "file_of", "read_document"]


Document = Report | Explanation | Training

ACCEPTED = (report.SCHEMA, explanation.SCHEMA, training_log.SCHEMA)


def file_of(path: str) -> str:
    """``path``, or the log in it where it is the folder of a training run."""
    log = Path(path) / LOG
    return str(log) if path != "-" and log.is_file() else path


def read_document(path: str) -> Document:
    """Read a document, from standard input for ``-``.

    Raises:
        UsageError: it cannot be read, or is none of the documents that there is a page of.
    """
    name = "standard input" if path == "-" else path
    data = read_document_bytes(path, "the report")
    try:
        schema = schema_of(data)
        if schema == explanation.SCHEMA:
            return _checked_walk(decode_as(data, Explanation))
        if schema == training_log.SCHEMA:
            return _checked_training(decode_as(data, Training))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{name} is not a report, an explanation or the log of a training run: {error}") from None
    if schema != report.SCHEMA:
        raise UsageError(f"{name} has schema {schema!r}; a page is made of {', '.join(map(repr, ACCEPTED))}")
    return parse_report(data, name)


def _checked_walk(found: Explanation) -> Explanation:
    """Raise ValueError where the explanation does not fit together, which only a changed file has."""
    if not found.texts or not all(text.predictions for text in found.texts):
        raise ValueError("it has a text without a prediction")
    every = [p for text in found.texts for p in text.predictions]
    if found.largest_difference is not None and any(p.logit is None or p.log_normaliser is None for p in every):
        raise ValueError("it has a prediction without a logit, and others with one")
    return found


def _checked_training(found: Training) -> Training:
    """Raise ValueError where the log does not fit together, which only a changed file has."""
    lists = [getattr(found.updates, name) for name in found.updates.__struct_fields__]
    if len({len(values) for values in lists}) > 1:
        raise ValueError("updates has lists of different lengths")
    numbers = [e.updates for e in found.evaluations]
    if numbers != sorted(numbers) or any(not 0 <= n <= len(lists[0]) for n in numbers):
        raise ValueError("evaluations do not fit the updates")
    return found
