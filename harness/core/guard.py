"""A guard around every call into the code of a plugin: whatever it raises becomes one line that names whose it was."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from evalgpt.core.errors import EvalgptError, EvaluationError
from evalgpt.core.streams import foreign

__all__ = ["PluginError", "calling", "described", "named", "reason"]


LONGEST = 500
"""Characters that are kept of what a plugin's exception says: some carry a whole tensor."""


class PluginError(EvaluationError):
    """The code of a model, task, protocol or plugin failed; ``__cause__`` is what it raised."""


class calling(foreign):  # noqa: N801 - a context manager, read as a mark
    """Marks a call into a plugin. Everything raised inside that is not an EvalgptError becomes a PluginError.

    ``SystemExit`` as well: a plugin that exits is a run that failed. ``KeyboardInterrupt`` stays what it is.

    Args:
        who: the model, task or protocol that is asked, or a text that names it.
        what: what it is asked for, as ``score()``.
        where: what is said of the place at the end, as ``document 'a.txt', window 3 of 9``; called only on failure.
    """

    def __init__(self, who: object, what: str, where: Callable[[], str] | str = "") -> None:
        self.who, self.what, self.where = who, what, where

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)
        if value is None or isinstance(value, (EvalgptError, KeyboardInterrupt)):
            return
        place = self.where if isinstance(self.where, str) else self.where()
        where = f", in {place}" if place else ""
        raise PluginError(f"{named(self.who)}: {self.what} {_failed(value)}{where}") from value


def named(who: object) -> str:
    """``who`` as errors call it, as ``model scratch``: by its name, or where it has none by its spec or its class."""
    if isinstance(who, str):
        return who
    bases: tuple[type, ...] = type.__dict__["__mro__"].__get__(type(who))  # whatever its metaclass says
    kinds = [base.__name__ for base in bases if base.__module__.startswith("evalgpt.")]
    kind = next((name.lower() for name in kinds if name in ("Model", "Task", "Protocol")), "plugin's")
    for key in ("name", "spec"):
        try:
            name = getattr(who, key)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            continue
        if isinstance(name, str) and name.strip() and name.isprintable():
            return f"{kind} {name}"
    return f"{kind} {type(who).__qualname__}"


def reason(error: BaseException) -> str:
    """What ``error`` says, in one line, with the class of what is not evalgpt's own."""
    try:
        text = " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException:  # an exception whose own text fails, or ends the program with exit code 0
        text = ""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}..."
    if isinstance(error, EvalgptError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def described(value: object) -> str:
    """``value`` for a message: its type, and itself where that is short."""
    try:
        text = repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a plugin's own repr may do anything
        text = ""
    return f"{type(value).__name__} {text}" if text and len(text) <= 60 and "\n" not in text else type(value).__name__


def _failed(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"ended the program (exit code {error.code}), which a plugin must not"
    return f"raised {reason(error)}"
