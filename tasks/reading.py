"""Reading text and records from files, with errors that name the file and the place."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from evalgpt.core import EvaluationError, UsageError
from evalgpt.tasks.formats import CARRIAGE_RETURNS, DAMAGED, load_json, open_text

__all__ = [
    "EmptyError",
    "Unchanged",
    "jsonl",
    "lines_of",
    "looking_at",
    "named",
    "read_once",
    "read_parts",
    "read_text",
    "shown",
]


PART = 1 << 20

CONVERT = "convert it from its encoding, for example with iconv -f WINDOWS-1252 -t UTF-8"

MEND = "it is UTF-8 before that; iconv -c -f UTF-8 -t UTF-8 leaves out bytes that are not"

CUT_OFF = "unexpected end of data"


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file (``-`` is standard input), byte for byte: no newline translation, no BOM removed.

    What is compressed by gzip, bzip2 or xz is decompressed.

    Raises:
        UsageError: the file cannot be read. EvaluationError: it is not UTF-8, or it is empty.
    """
    with _opened(str(path)) as (file, name):
        data = file.read()
    if not data:
        raise _empty(name)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        advice = CONVERT if data[: error.start].isascii() and error.reason != CUT_OFF else MEND
        raise EvaluationError(
            f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x} ({error.reason}); {advice}"
        ) from None


@contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], str]]:
    """The file or standard input, decompressed, and its name; errors of opening and reading in one line."""
    name = named(path)
    try:
        with ExitStack() as stack:
            raw: IO[bytes] = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
            yield open_text(io.BytesIO(raw.read()) if path == "-" else raw, name), name
    except FileNotFoundError:
        raise UsageError(f"there is no file {name}") from None
    except DAMAGED as error:
        raise EvaluationError(f"{name} is damaged or cut off, and cannot be decompressed: {error}") from None
    except OSError as error:
        if error.errno is None:  # bz2's word for data that is not bzip2
            raise EvaluationError(f"{name} is damaged, and cannot be decompressed: {error}") from None
        raise UsageError(f"cannot read {name}: {error.strerror}") from None


def named(path: str) -> str:
    """What messages call ``path``, of which ``-`` is standard input."""
    return "standard input" if path == "-" else path


@contextmanager
def looking_at(path: str | None) -> Iterator[None]:
    """Turns what the system says of a path that cannot be looked at (no permission, too long) into a UsageError."""
    try:
        yield
    except OSError as error:
        short = f"{path[:60]}..." if path is not None and len(path) > 255 else path
        raise UsageError(f"cannot look for {short}: {error.strerror}") from None


class EmptyError(EvaluationError):
    """A file without a text; ``why`` names it and says what it holds."""

    def __init__(self, why: str, rest: str = "") -> None:
        super().__init__(f"{why}{rest}; there is nothing to score")
        self.why = why


def _empty(name: str) -> EmptyError:
    return EmptyError(f"{name} is empty", ", or something read it before" if name == "standard input" else "")


def read_parts(path: str) -> Iterator[str]:
    """The text of a UTF-8 file, a MiB at a time; otherwise as :func:`read_text`."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    try:
        with _opened(path) as (file, _):
            while data := file.read(PART):
                yield decoder.decode(data)
                at += len(data)
            decoder.decode(b"", final=True)
            if not at:
                raise _empty(path)
    except UnicodeDecodeError as error:
        at += error.start - len(decoder.getstate()[0])
        advice = MEND if error.reason == CUT_OFF else CONVERT
        raise EvaluationError(f"{path} is not UTF-8 near byte {at} ({error.reason}); {advice}") from None


class Unchanged:
    """Files as they were first read: a task reads them anew for each model, and each has to read the same."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def check(self, path: str) -> None:
        """Ask before a file is read and after it.

        Raises:
            UsageError: it is gone. EvaluationError: it is another than when it was first asked for.
        """
        try:
            status = Path(path).stat()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        now = (status.st_size, status.st_mtime_ns)
        if self._seen.setdefault(path, now) != now:
            raise EvaluationError(
                f"{path} changed while it was evaluated: its text would be part old and part new, or another for each "
                f"model; run again when nothing writes to it"
            )


def read_once(path: str) -> str | None:
    """The text of what can be read only once, standard input or a pipe; None for a file.

    A task is asked for its documents once for each model, so such a text has to be kept.
    """
    return read_text(path) if path == "-" or not Path(path).is_file() else None


def lines_of(parts: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in parts, cut at line feeds alone."""
    rest: list[str] = []  # a line may be as long as the file: its parts are put together once
    for part in parts:
        first, *more = part.split("\n")
        rest.append(first)
        if more:
            yield "".join(rest)
            yield from more[:-1]
            rest = [more[-1]]
    yield "".join(rest)


def jsonl(lines: Iterable[str], path: str) -> Iterator[tuple[int, dict[str, object]]]:
    """The objects of the ``lines`` of a JSONL text with their numbers, from 1; empty lines are passed over.

    Raises:
        EvaluationError: a line is not a JSON object; the message names ``path`` and the line.
    """
    for number, read in enumerate(lines, 1):
        line = read.removeprefix("\ufeff") if number == 1 else read
        if not line.strip():
            continue
        try:
            record = load_json(line)
        except (ValueError, RecursionError) as error:
            returns = f"; {CARRIAGE_RETURNS}" if "\r" in line.strip() else ""
            # The decoder counts lines of its own, within this one.
            why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise EvaluationError(f"{path}, line {number} is not JSON: {why}{returns}") from None
        if not isinstance(record, dict):
            raise EvaluationError(f"{path}, line {number} is not a JSON object")
        yield number, record


def shown(path: str) -> str:
    """A file's name as text: bytes that are not UTF-8 are spelled out, so that two names stay two."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode(errors="backslashreplace")
    return path
