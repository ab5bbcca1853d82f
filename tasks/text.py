"""The task ``text``: any text of yours, from a file, a folder, a glob, standard input, or a field of JSONL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from evalgpt.core import Document, EvaluationError, Task, UsageError
from evalgpt.hooks import Register, hookimpl
from evalgpt.tasks.finding import Found, files_in_folder, files_of_glob, has_wildcard
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

    def __init__(self, found: Found, field: str | None, folder: str | None = None) -> None:
        self.paths = found.files
        self.notes = found.notes
        self.folder = folder
        self.field = field or "text"
        self._kept = {path: read_once(path) for path in self.paths}
        size = sum(Path(path).stat().st_size for path in self.paths if self._kept[path] is None)
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


def make_text(argument: str | None, *, field: str | None = None, hidden: bool = False) -> Task:
    """Your own text, text:PATH: a file, a folder, a glob, - for standard input, JSONL with field=NAME. UTF-8."""
    if argument is None:
        raise UsageError("task 'text' needs a path: text:book.txt, text:folder, text:'*.txt', or text:- to read stdin")
    found = _find(argument, hidden)
    if field is not None and not any(Path(path).suffix in JSONL for path in found.files):
        raise UsageError(f"task 'text': field={field} is for JSONL ({', '.join(JSONL)}), and {argument} is none")
    return Text(found, field, argument if Path(argument).is_dir() else None)


def _find(argument: str, hidden: bool) -> Found:
    path = Path(argument)
    if argument == "-" or path.is_file():
        return Found([argument])
    if path.is_dir():
        found = files_in_folder(path, lambda file: file.suffix in SUFFIXES, hidden=hidden)
        if not found.files:
            ask = "" if hidden else f"; hidden files and folders are read with text:{argument},hidden=true"
            raise EvaluationError(f"the folder {argument} holds no text; looked for {', '.join(SUFFIXES)}{ask}")
        return found
    if path.exists():  # a pipe, as in text:<(zcat book.gz)
        return Found([argument])
    if not has_wildcard(argument):
        broken = path.is_symlink()
        raise UsageError(
            f"{argument} is a link to a file that is not there" if broken else f"there is no file or folder {argument}"
        )
    found = files_of_glob(argument, hidden=hidden)
    if not found.files:
        only = (
            found.notes[0] if found.notes else "a folder is named without a wildcard, or searched with folder/**/*.txt"
        )
        raise UsageError(f"nothing matches {argument}; {only}")
    return found


@hookimpl
def register_tasks(register: Register) -> None:
    register("text", make_text)
