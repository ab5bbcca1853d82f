"""The types that every part of evalgpt speaks. Standard library only; numpy appears in annotations alone.

One way through::

    text -> Document -> Encoding -> Window -> Model.score -> Row -> metrics -> Report

Losses are negative log-likelihoods (NLL) in nats wherever no other unit is named.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = ["EvalgptError", "EvaluationError", "UsageError"]


class EvalgptError(Exception):
    """A failure that is the user's to read: one line that says what was wrong and what is accepted."""

    exit_code: ClassVar[int] = 1


class UsageError(EvalgptError):
    """The request itself cannot be met: an unknown name or key, a limit exceeded, a path that is not there."""

    exit_code: ClassVar[int] = 2


class EvaluationError(EvalgptError):
    """The request was understood, but this text or this model cannot be evaluated."""
