"""Documents from JSON: typed, and refused where they are nested too deep."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from evalgpt.core.validation import DEEPEST, too_deep

__all__ = ["decode_as", "schema_of"]

T = TypeVar("T")

TOO_DEEP = f"it is nested too deep; at most {DEEPEST} levels of metadata are read"


def decode_as(data: bytes, document: type[T]) -> T:
    """``data``, JSON, as the typed ``document``. A byte-order mark before it is no part of it.

    Raises:
        ValueError, msgspec.DecodeError: it is not one, or it is nested too deep to be shown.
    """
    try:
        found = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=document)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    for part in getattr(found, "evaluations", [found]):
        for name, keys in (("model", ("config", "tokenizer", "runtime")), ("protocol", ("settings",))):
            info = getattr(part, name, None)
            if any(too_deep(getattr(info, key, None)) for key in keys):
                raise ValueError(TOO_DEEP)
    return found


class _Version(msgspec.Struct):
    schema: str


def schema_of(data: bytes) -> str:
    """The schema that the document ``data`` says it has.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, ValueError: as :func:`decode_as`.
    """
    return decode_as(data, _Version).schema
