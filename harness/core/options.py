"""Options of a function as one frozen dataclass, whose fields its callers may also give as keywords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from evalgpt.core.guard import described

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["choose_options"]

T = TypeVar("T", bound="DataclassInstance")


def choose_options(kind: type[T], options: T | None, changes: Mapping[str, object]) -> T:
    """``options``, by default those of ``kind``, with the fields in ``changes`` replaced.

    Raises:
        TypeError: ``options`` is no ``kind``, or ``changes`` names no field of it.
    """
    if options is not None and not isinstance(options, kind):
        raise TypeError(f"options must be of type {kind.__name__}, not {described(options)}")
    names = [field.name for field in fields(kind)]
    for name in changes:
        if name not in names:
            raise TypeError(f"unknown option {name!r}; accepted: {', '.join(names)}")
    return replace(kind() if options is None else options, **changes)
