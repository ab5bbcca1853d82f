"""The types and errors that every part of evalgpt speaks."""

from __future__ import annotations

from evalgpt.core.capabilities import (
    CutsText,
    Diverges,
    GivesLogits,
    Optimisation,
    Reloads,
    SharesPrefixes,
    Trainable,
    Trained,
    Trainer,
)
from evalgpt.core.data import Detail, Document, Encoding, Row, Scored, TokenScores, Window, common_prefix_length
from evalgpt.core.errors import EvalgptError, EvaluationError, UsageError
from evalgpt.core.hooks import hookimpl
from evalgpt.core.model import Model
from evalgpt.core.task import Task

__all__ = [
    "CutsText",
    "Detail",
    "Diverges",
    "Document",
    "Encoding",
    "EvalgptError",
    "EvaluationError",
    "GivesLogits",
    "Model",
    "Optimisation",
    "Reloads",
    "Row",
    "Scored",
    "SharesPrefixes",
    "Task",
    "TokenScores",
    "Trainable",
    "Trained",
    "Trainer",
    "UsageError",
    "Window",
    "common_prefix_length",
    "hookimpl",
]
