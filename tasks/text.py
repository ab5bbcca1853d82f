"""The task ``text``: any text of yours, from a file, a folder, a glob, standard input, or a field of records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evalgpt.core import Document, EvaluationError, Task, UsageError
from evalgpt.core.finding import LEFT_OUT, Found, files_in_folder, files_of_glob, has_wildcard
from evalgpt.core.hooks import Register, hookimpl, reads
from evalgpt.core.specs import Spec
from evalgpt.tasks.formats import (
    RECORDS,
    Record,
    is_compressed,
    is_json_object,
    is_parquet,
    no_text,
    records_of_csv,
    records_of_json,
    records_of_parquet,
    suffix_of,
    text_of,
)
from evalgpt.tasks.reading import (
    EmptyError,
    Unchanged,
    jsonl,
    lines_of,
    looking_at,
    named,
    read_once,
    read_parts,
    read_text,
    shown,
)

__all__ = ["Text", "make_text"]


SUFFIXES = (".txt", ".text", ".md", ".rst", ".jsonl", ".ndjson")
"""What a folder is searched for."""

NAMED = 3
"""Names of files left out that a note gives; of more, their number."""

LONG = 32 << 20
"""Bytes above which texts are read part by part: so many have eight million tokens, of which a report that keeps them
takes 300 MB."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a spec asks for: the ``field`` of records, hidden files too, and to ``skip`` what holds no text."""

    field: str = "text"
    hidden: bool = False
    skip: bool = False


class Text(Task):
    """One document per file, or per record of a file that holds records.

    Files are read for each model anew; one that changed in between is refused.
    """

    name = "text"

    def __init__(self, found: Found, options: Options, folder: str | None = None) -> None:
        self.paths = found.files
        self.folder = folder
        self.options = options
        self.notes = self._left_out = found.notes
        self._kept = {path: read_once(path) for path in self.paths}
        self._unchanged = Unchanged()
        size = sum(_size(path) for path in self.paths if self._kept[path] is None)
        self.long = size if size > LONG else 0

    def documents(self) -> Iterator[Document]:
        skipped: list[str] = []
        some = False
        for path in self.paths:
            again = self._kept[path] is None
            if again:
                self._unchanged.check(path)
            read = self._from_records if _holds_records(path) else self._from_file
            try:
                for document in read(path, skipped):
                    some = True
                    yield document
            except EmptyError as error:
                if not self.options.skip:
                    ask = "; skip=true leaves such files out" if len(self.paths) > 1 else ""
                    raise EvaluationError(f"{error}{ask}") from None
                skipped.append(error.why)
            if again:
                self._unchanged.check(path)
        if skipped and not some:
            more = f", and {len(skipped) - 1} more without a text" if skipped[1:] else ""
            raise EvaluationError(f"nothing is left to score with skip=true: {skipped[0]}{more}")
        self.notes = self._left_out
        if skipped:
            more = f", and {len(skipped) - 3} more" if len(skipped) > 3 else ""
            note = f"skipped {len(skipped)} without a text: {'; '.join(skipped[:3])}{more}"
            self.notes = [*self.notes, shown(note)]

    def _from_file(self, path: str, skipped: list[str]) -> Iterator[Document]:
        kept = self._kept[path]
        long = self.long and kept is None
        parts = read_parts(path) if long else [read_text(path) if kept is None else kept]
        if not any(part.strip() for part in parts):  # of a long text, the first part with something in it is enough
            raise EmptyError(f"{named(path)} holds only white space")
        if long:
            yield Document(self._id(path), "", parts=partial(read_parts, path))
        else:
            yield Document(self._id(path), next(iter(parts)))

    def _id(self, path: str) -> str:
        """The path as it was given, or within the folder that was given."""
        return shown(path if self.folder is None else str(Path(path).relative_to(self.folder)))

    def _from_records(self, path: str, skipped: list[str]) -> Iterator[Document]:
        found = False
        for where, record in self._records(path):
            found = True
            text = text_of(record, self.options.field, f"{path}, {where}")
            if isinstance(text, str):
                yield Document(f"{self._id(path)}:{where.rpartition(' ')[2]}", text)
            elif self.options.skip:
                skipped.append(f"{path}, {where} is {text.value}")
            else:
                raise EvaluationError(no_text(record, self.options.field, f"{path}, {where}", text))
        if not found:
            raise EmptyError(f"{path} holds no records")

    def _records(self, path: str) -> Iterator[Record]:
        if self._kept[path] is None and is_parquet(path):
            return records_of_parquet(path, self.options.field)
        text, suffix = self._kept[path], suffix_of(path)
        if suffix == ".parquet":
            raise EvaluationError(f"{path} is not a Parquet file, whatever its name")
        parts = read_parts(path) if self.long and text is None else [read_text(path) if text is None else text]
        if suffix == ".json":
            return records_of_json(parts, path)
        if suffix in (".csv", ".tsv"):
            return records_of_csv(lines_of(parts), path)
        return ((f"line {number}", record) for number, record in jsonl(lines_of(parts), path))


def _holds_records(path: str) -> bool:
    """Whether a field of records is the text; of what is not a file, which can be read once, the name alone tells."""
    return suffix_of(path) in RECORDS or (Path(path).is_file() and path != "-" and is_parquet(path))


def _size(path: str) -> int:
    """Bytes of the text in the file: of a compressed one a guess, for English is a third of its size by gzip."""
    return Path(path).stat().st_size * (3 if is_compressed(path) else 1)


@reads(lambda path: str(Spec("text", path)))
def make_text(argument: str | None, *, field: str | None = None, hidden: bool = False, skip: bool = False) -> Task:
    """Your own text, text:PATH: file, folder, glob, - for stdin; JSONL, JSON, CSV, TSV, Parquet by field=NAME."""
    if argument is None:
        raise UsageError("task 'text' needs a path: text:book.txt, text:folder, text:'*.txt', or text:- to read stdin")
    if field == "":
        raise UsageError("task 'text': field= names no field of the records")
    with looking_at(argument):
        found = _find(argument, hidden)
    if field is not None and not any(_holds_records(path) for path in found.files):
        raise UsageError(f"task 'text': field={field} is for records ({', '.join(RECORDS)}), and {argument} has none")
    options = Options(field or "text", hidden, skip)
    return Text(found, options, argument if Path(argument).is_dir() else None)


def _find(argument: str, hidden: bool) -> Found:
    path = Path(argument)
    if argument == "-" or path.is_file():
        return Found([argument])
    if path.is_dir():
        return _find_in_folder(path, hidden)
    if path.exists():  # a pipe, as in text:<(zcat book.gz)
        return Found([argument])
    if not has_wildcard(argument):
        broken = path.is_symlink()
        raise UsageError(
            f"{argument} is a link to a file that is not there" if broken else f"there is no file or folder {argument}"
        )
    found = files_of_glob(argument, hidden=hidden)
    if not found.files:
        ask = f"the files in a folder are matched by FOLDER/*, and all the way down by FOLDER{os.sep}**{os.sep}*"
        raise UsageError(f"no file matches {argument}; {found.notes[0] if found.notes else ask}")
    return found


def _find_in_folder(folder: Path, hidden: bool) -> Found:
    def by_name(file: Path) -> bool:
        return file.suffix.lower() in SUFFIXES

    def by_glob_only(file: Path) -> bool:
        kinds = (*SUFFIXES, *RECORDS)
        return not by_name(file) and suffix_of(str(file)) in kinds and not is_json_object(str(file))

    found = files_in_folder(folder, by_name, hidden=hidden)
    others = files_in_folder(folder, by_glob_only, hidden=hidden).files
    rest = files_in_folder(folder, lambda file: not by_name(file) and not by_glob_only(file), hidden=hidden).files
    if not found.files and not found.notes and not others:
        found.notes.append(f"looked for {', '.join(SUFFIXES)}")
    if others:
        count = f"{len(others)} files of other kinds, such as {others[0]}" if others[1:] else others[0]
        glob = folder / "**" / f"*{Path(others[0]).suffix}"
        found.notes.append(shown(f"left out {count}; a glob reads them: text:'{glob}'"))
    if rest:
        names = [str(Path(path).relative_to(folder)) for path in rest]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        left = f"{LEFT_OUT}{', '.join(names[:NAMED])}{more}"
        found.notes.append(shown(f"{left}; a glob, text:'{folder / '**' / '*'}', reads such as are text"))
    if found.files:
        return found
    why = list(found.notes)
    if not hidden and files_in_folder(folder, by_name, hidden=True).files:
        why.append(f"hidden files and folders are read with text:{folder},hidden=true")
    raise EvaluationError(f"the folder {folder} holds no text; {'; '.join(why)}")


@hookimpl
def register_tasks(register: Register) -> None:
    register("text", make_text)
