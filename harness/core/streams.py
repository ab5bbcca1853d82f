"""Standard output is the document's: what the code of plugins prints goes to standard error.

A model that prints "loading..." would spoil the JSON that a program reads. Two things are done. :func:`keep` gives the
process a standard output of its own and sends file descriptor 1 to standard error, so that subprocesses and C libraries
cannot write into the document; the console script does this once. :func:`guarded` replaces ``sys.stdout`` while a
command runs. The replacement writes to standard error inside :class:`foreign`, the mark around every call into a
plugin, and in every thread but the main one. From Python, where no command runs, prints go where they always went.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TextIO, cast

__all__ = ["finish", "foreign", "guarded", "keep", "release"]


_depth = threading.local()

_kept: int | None = None

_released = False


class foreign:  # noqa: N801 - a context manager, read as a mark
    """Marks a block that runs the code of a plugin: what it prints there goes to standard error."""

    def __enter__(self) -> None:
        _depth.value = getattr(_depth, "value", 0) + 1

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _depth.value -= 1


class _Output:
    """A ``sys.stdout`` that is the document's in the main thread outside of plugins, and standard error elsewhere."""

    def __init__(self, document: TextIO) -> None:
        self._document = document

    def _stream(self) -> TextIO:
        own = not getattr(_depth, "value", 0) and threading.current_thread() is threading.main_thread()
        return self._document if own else sys.stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream())


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Keep ``sys.stdout`` for the command that runs inside."""
    before = sys.stdout
    if before is None or isinstance(before, _Output):  # closed by the shell, or a command within a command
        yield
        return
    output = cast(TextIO, _Output(before))
    sys.stdout = output
    try:
        yield
    finally:
        if sys.stdout is output:
            sys.stdout = before


def keep() -> None:
    """Move standard output to a descriptor of its own, and send descriptor 1 to standard error for good: C libraries
    write out their buffers as late as at the end of the process."""
    global _kept
    _fill_closed()
    try:
        if not isinstance(sys.stdout, io.TextIOWrapper) or sys.stdout.fileno() != 1:
            return
        sys.stdout.flush()
        document = os.dup(1)
        os.dup2(2, 1)
    except OSError:
        return
    old = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(document, "w")), old.encoding, old.errors, line_buffering=old.line_buffering
    )
    _kept = document


def _fill_closed() -> None:
    """Put the null device where the caller closed a standard descriptor: the next file that is opened would take its
    number, and what is printed would land in it."""
    for descriptor, flags in ((0, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, flags)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), "utf-8", "backslashreplace", line_buffering=True)


def finish() -> OSError | None:
    """Send out what is still buffered; what went wrong. Nothing is tried again when the process ends.

    The document is whole then: what threads of plugins print until the process ends goes to standard error.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if _kept is not None:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, _kept)
            os.close(nothing)
        return error
    if _kept is not None and not _released:
        sys.stdout = sys.stderr
    return None


def release() -> None:
    """Give descriptor 1 back to a command of a plugin, whose subprocesses may print on purpose."""
    global _released
    if _kept is not None:
        os.dup2(_kept, 1)
        _released = True
