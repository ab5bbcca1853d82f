"""Text that is safe to print and to store."""

from __future__ import annotations

import os

__all__ = ["printable", "visible"]


def printable(text: str) -> str:
    """``text`` from the command line, where bytes that are no UTF-8 become U+FFFD: reports are UTF-8."""
    return os.fsencode(text).decode(errors="replace")


def visible(text: str) -> str:
    """``text`` for a terminal: control characters and lone surrogates, which could steer it, are spelled out."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)
