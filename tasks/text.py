"""The task ``text``: any text of yours, from a file, a folder, a glob, standard input, or a field of JSONL."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from evalgpt.core import Document, EvaluationError, Task, UsageError
from evalgpt.hooks import Register, hookimpl
from evalgpt.tasks.reading import jsonl, lines_of, read_once, read_parts, read_text, shown

__all__ = ["Text", "make_text"]

SUFFIXES = (".txt", ".text", ".md", ".rst", ".jsonl", ".ndjson")
"""What a folder is searched for."""

JSONL = (".jsonl", ".ndjson")

LONG = 32 << 20
"""Bytes above which texts are read part by part: so many have eight million tokens, of which a report that keeps them
takes 300 MB."""


class Text(Task):
    """One document per file, or per line of a JSONL file."""

    name = "text"

    def __init__(self, paths: Sequence[str], field: str | None, folder: str | None = None) -> None:
        self.paths = paths
        self.folder = folder
        self.field = field or "text"
        self._kept = {path: read_once(path) for path in paths}
        size = sum(Path(path).stat().st_size for path in paths if self._kept[path] is None)
        self.long = size if size > LONG else 0

    def documents(self) -> Iterator[Document]:
        for path in self.paths:
            text = self._kept[path]
            long = bool(self.long) and text is None
            if Path(path).suffix in JSONL:
                yield from self._from_jsonl(path, read_parts(path) if long else [text or read_text(path)])
            elif long:
                yield Document(self._id(path), "", parts=partial(read_parts, path))
            else:
                yield Document(self._id(path), text or read_text(path))

    def _id(self, path: str) -> str:
        """The path as it was given, or within the folder that was given."""
        return shown(path if self.folder is None else str(Path(path).relative_to(self.folder)))

    def _from_jsonl(self, path: str, parts: Iterable[str]) -> Iterator[Document]:
        found = False
        for number, record in jsonl(lines_of(parts), path):
            text = record.get(self.field)
            where = f"{path}, line {number}"
            if self.field not in record:
                raise EvaluationError(
                    f"{where} has no field {self.field!r}; it has {', '.join(record) or 'none'}: "
                    f"name one with text:{path},field=NAME"
                )
            if not isinstance(text, str) or not text:
                raise EvaluationError(f"{where}: {self.field} must be a text that is not empty")
            found = True
            yield Document(f"{self._id(path)}:{number}", text)
        if not found:
            raise EvaluationError(f"{path} holds no records")


def make_text(argument: str | None, *, field: str | None = None) -> Task:
    """Your own text, text:PATH: a file, a folder, a glob, - for standard input, JSONL with field=NAME. UTF-8."""
    if argument is None:
        raise UsageError("task 'text' needs a path: text:book.txt, text:folder, text:'*.txt', or text:- to read stdin")
    paths = _paths(argument)
    if field is not None and not any(Path(path).suffix in JSONL for path in paths):
        raise UsageError(f"task 'text': field={field} is for JSONL ({', '.join(JSONL)}), and {argument} is none")
    return Text(paths, field, argument if Path(argument).is_dir() else None)


def _paths(argument: str) -> list[str]:
    path = Path(argument)
    if argument == "-" or path.is_file():
        return [argument]
    if path.is_dir():
        found = sorted(str(p) for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not found:
            raise EvaluationError(f"the folder {argument} holds no text; looked for {', '.join(SUFFIXES)}")
        return found
    found = sorted(p for p in glob.glob(argument, recursive=True) if Path(p).is_file())
    if found:
        return found
    if path.exists():  # a pipe, as in text:<(zcat book.gz)
        return [argument]
    wild = any(mark in argument for mark in "*?[")
    raise UsageError(f"nothing matches {argument}" if wild else f"there is no file or folder {argument}")


@hookimpl
def register_tasks(register: Register) -> None:
    register("text", make_text)
