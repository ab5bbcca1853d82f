"""Options of a function as one frozen dataclass, whose fields its callers may also give as keywords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, TypeVar

from evalgpt.core.guard import described

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["choose_options"]

T = TypeVar("T", bound="DataclassInstance")


def choose_options(kind: type[T], options: DataclassInstance | None, changes: Mapping[str, object]) -> T:
    """``options``, by default those of ``kind``, with the fields in ``changes`` replaced. Options of a base class of
    ``kind`` leave its other fields at their defaults.

    Raises:
        TypeError: ``options`` has another type, or ``changes`` names no field.
    """
    if options is not None and not (is_dataclass(options) and issubclass(kind, type(options))):
        raise TypeError(f"options must be of type {kind.__name__}, not {described(options)}")
    names = [field.name for field in fields(kind)]
    for name in changes:
        if name not in names:
            raise TypeError(f"unknown option {name!r}; accepted: {', '.join(names)}")
    given = {} if options is None else {field.name: getattr(options, field.name) for field in fields(options)}
    return kind(**(given | dict(changes)))
