"""Reading text and records from files, with errors that name the file and the place."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from evalgpt.core import EvaluationError, UsageError

__all__ = ["jsonl", "lines_of", "read_once", "read_parts", "read_text", "shown"]

PART = 1 << 20

CONVERT = "convert it, for example with iconv -f LATIN1 -t UTF-8"


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file (``-`` is standard input), byte for byte: no newline translation, no BOM removed.

    Raises:
        UsageError: the file cannot be read. EvaluationError: it is not UTF-8, or it is empty.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no file {name}") from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
    if not data:
        raise _empty(name)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise EvaluationError(
            f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x} ({error.reason}); {CONVERT}"
        ) from None


def _empty(name: str) -> EvaluationError:
    return EvaluationError(f"{name} is empty; there is nothing to score")


def read_parts(path: str) -> Iterator[str]:
    """The text of a UTF-8 file, a MiB at a time; errors as :func:`read_text`."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    try:
        with Path(path).open("rb") as file:
            while data := file.read(PART):
                yield decoder.decode(data)
                at += len(data)
            decoder.decode(b"", final=True)
            if not at:
                raise _empty(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        at += error.start - len(decoder.getstate()[0])
        raise EvaluationError(f"{path} is not UTF-8 near byte {at} ({error.reason}); {CONVERT}") from None


def read_once(path: str) -> str | None:
    """The text of what can be read only once, standard input or a pipe; None for a file.

    A task is asked for its documents once for each model, so such a text has to be kept.
    """
    return read_text(path) if path == "-" or not Path(path).is_file() else None


def lines_of(parts: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in parts, cut at line feeds alone."""
    rest = ""
    for part in parts:
        *lines, rest = (rest + part).split("\n")
        yield from lines
    yield rest


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
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"{path}, line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise EvaluationError(f"{path}, line {number} is not a JSON object")
        for key, value in record.items():
            if isinstance(value, str) and not _is_text(value):
                raise EvaluationError(f"{path}, line {number}: {key} holds half of a surrogate pair, which is no text")
        yield number, record


def shown(path: str) -> str:
    """A file's name as text, where it may hold bytes that are none."""
    return path if _is_text(path) else os.fsencode(path).decode(errors="replace")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
