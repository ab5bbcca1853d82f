"""Options of a function as one frozen dataclass, whose fields its callers may also give as keywords."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from evalgpt.core.errors import UsageError
from evalgpt.core.guard import described
from evalgpt.core.protocol import DEFAULT_PROTOCOL

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["choose_options"]

T = TypeVar("T", bound="DataclassInstance")


IN_PROTOCOL = ("context", "stride", "prefix")
"""What users look for among the options and is the protocol's."""

WORDS = {str: "a text", int: "a whole number", float: "a number, as 0.05", bool: "True or False", type(None): "None"}


def choose_options(kind: type[T], options: DataclassInstance | None, changes: Mapping[str, object]) -> T:
    """``options``, by default those of ``kind``, with the fields in ``changes`` replaced. Options of a base class of
    ``kind`` leave its other fields at their defaults.

    Raises:
        TypeError: ``options`` has another type, or ``changes`` names no field.
        UsageError: a field has a value of another type than it is declared with.
    """
    if options is not None and not (is_dataclass(options) and issubclass(kind, type(options))):
        raise TypeError(f"options must be of type {kind.__name__}, not {described(options)}")
    names = [field.name for field in fields(kind)]
    for name, value in changes.items():
        if name not in names:
            message = f"unknown option {name!r}; accepted: {', '.join(names)}"
            if name in IN_PROTOCOL:
                message += f"; {name} goes into the protocol's spec: '{DEFAULT_PROTOCOL}:{name}={value}'"
            raise TypeError(message)
    given = {} if options is None else {field.name: getattr(options, field.name) for field in fields(options)}
    values = given | dict(changes)
    hints = get_type_hints(kind)
    for name, value in values.items():
        accepted = _parts(hints[name])
        if not any(_fits(value, part) for part in accepted):
            words = " or ".join(WORDS.get(part) or _named(part) for part in accepted)
            raise UsageError(f"the option {name} must be {words}, not {described(value)}")
    return kind(**values)


def _parts(hint: object) -> Sequence[Any]:
    """The types that ``hint`` allows, one by one."""
    return get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)


def _fits(value: object, part: Any) -> bool:
    """Whether ``value`` is of the type ``part``; numbers of numpy are numbers, and True is none."""
    boolean = type(value).__name__ in ("bool", "bool_")
    if part is bool:
        return boolean
    if part in (int, float):
        return isinstance(value, Integral if part is int else Real) and not boolean
    kind = get_origin(part) or part
    return isinstance(value, kind) if isinstance(kind, type) else True


def _named(part: Any) -> str:
    return "a function" if get_origin(part) is Callable else f"of type {getattr(part, '__name__', part)}"
