"""What a command may write over: an earlier document of its own, never a file that it reads.

Every command that writes a file asks :class:`Targets` before it begins its work.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from evalgpt.core import UsageError
from evalgpt.core.finding import files_of_glob, has_wildcard, would_match
from evalgpt.core.specs import parse
from evalgpt.core.text import visible
from evalgpt.report.files import BOM, check_writable, is_stream

__all__ = ["Existing", "Kind", "Targets", "document_at", "document_kind", "marked_kind"]


_FIRST = re.compile(rb'\s*\{\s*"schema"\s*:\s*"evalgpt\.')
"""How a document of evalgpt begins: its schema is the first field."""

MADE = {".json", ".html", ".npz", ".parquet"}
"""Suffixes of what evalgpt writes into a folder that it may read as well; such a file is known by its contents."""

SILENT = {"-q", "--quiet", "--debug"}
"""Flags that say what the terminal shows, never what a document holds."""


@dataclass(frozen=True, slots=True)
class Existing:
    """The document that stands at a path.

    ``what`` names it, as "a report"; ``command`` wrote it at the time ``created``, both None where it does not say.
    ``replaceable``: it is made again from files that are still there, so no flag is needed to replace it.
    """

    what: str
    command: tuple[str, ...] | None = None
    created: str | None = None
    replaceable: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document. ``find`` gives what is at a path, or None where that is of another kind."""

    what: str
    find: Callable[[str], Existing | None]


class _Run(msgspec.Struct):
    command: list[str] = []
    created: str | None = None


class _Head(msgspec.Struct):
    schema: str
    run: _Run | None = None
    command: list[str] = []


def document_at(path: str) -> Existing | None:
    """The JSON document of evalgpt in the file ``path``, whole and alone in it; None for anything else.

    A file that does not begin as a document is not read further, so a large one costs nothing.
    """
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = len(BOM) if data[: len(BOM)] == BOM else 0
            if not _FIRST.match(data[start : start + 4096]):
                return None
            with memoryview(data) as whole, whole[start:] as view:
                head = msgspec.json.decode(view, type=_Head)
    except (OSError, ValueError, RecursionError):  # also msgspec's errors, and an empty file, which has no map
        return None
    name = head.schema.removeprefix("evalgpt.").rpartition("/")[0]
    what = f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"
    run = head.run or _Run(command=head.command)
    return Existing(what, tuple(run.command) or None, run.created)


def document_kind(name: str) -> Kind:
    """The kind of document whose schema is ``evalgpt.NAME/VERSION``."""
    what = f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"

    def find(path: str) -> Existing | None:
        found = document_at(path)
        return found if found is not None and found.what == what else None

    return Kind(what, find)


def marked_kind(what: str, begins: bytes) -> Kind:
    """A kind of text that has no schema and ``begins`` always alike."""

    def find(path: str) -> Existing | None:
        try:
            with Path(path).open("rb") as file:
                ours = file.read(len(begins)) == begins
        except OSError:
            return None
        return Existing(what) if ours else None

    return Kind(what, find)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What one command may write: ``command`` is its command line, ``overwrite`` whether it may replace a document of
    its own kind that another command wrote. ``specs`` and ``files`` name what it reads, which it never replaces."""

    command: Sequence[str] = ()
    overwrite: bool = False
    specs: Sequence[str] = ()
    files: Sequence[str] = ()

    def reading(self, specs: Sequence[str] = (), files: Sequence[str] = ()) -> Targets:
        """The same for a command that also reads the paths in ``specs`` and ``files``."""
        return replace(self, specs=[*self.specs, *specs], files=[*self.files, *files])

    def check(self, path: str, kind: Kind) -> None:
        """Find out before the work that ``path`` cannot be written, or must not be.

        Raises:
            UsageError: it cannot; the command reads it; it holds something else than ``kind``, or what another command
                wrote and ``--overwrite`` is not given.
        """
        check_writable(path)
        if is_stream(path):
            return
        self.check_not_read(path)
        if not Path(path).exists() or not Path(path).stat().st_size:
            return
        found = kind.find(path)
        if found is None:
            other = document_at(path)
            holds = f"something else than {kind.what}" if other is None else f"{visible(other.what)}, not {kind.what}"
            raise UsageError(f"cannot write {path}: it holds {holds}; give another name, or remove it first")
        if not (self.overwrite or found.replaceable or self._wrote(found)):
            raise UsageError(f"{path} holds {_described(found)}; --overwrite replaces it, or give another name")

    def check_not_read(self, path: str) -> None:
        """Raise UsageError where the command reads the file ``path``, by whatever name or link."""
        for named in self.files:
            if _same(path, named):
                raise UsageError(f"{path} would be written over {named}, which this command reads; give another name")
        for spec in self.specs:
            for named in _paths(spec):
                if _reads(named, path):
                    raise UsageError(f"{path} would be written over a file of {spec}, which this command reads")

    def _wrote(self, found: Existing) -> bool:
        return found.command is not None and _measuring(found.command) == _measuring(self.command)


def own_command(command: Sequence[str]) -> list[str]:
    """The command line as documents keep it: UTF-8, and without the flag that only says what it may replace."""
    return [os.fsencode(word).decode(errors="replace") for word in command if word != "--overwrite"]


def _measuring(command: Sequence[str]) -> list[str]:
    """The command line without the flags that change nothing in a document, by which two commands are compared."""
    return [word for word in own_command(command) if word not in SILENT]


def check_distinct(*paths: str) -> None:
    """Raise UsageError where two of the files that one command writes are one file."""
    for number, path in enumerate(paths):
        for other in paths[:number]:
            if not is_stream(path) and _same(path, other):
                raise UsageError(f"{path} would be written over {other}, which is written as well; give two names")


def _described(found: Existing) -> str:
    parts = [found.what]
    if found.command:
        parts.append(f"of `{visible(' '.join(found.command))}`")
    if found.created:
        parts.append(f"of {visible(found.created)}")
    return " ".join(parts)


def _same(path: str, other: str) -> bool:
    """Whether both are one file, through links and hard links; a file that is not there yet has its path alone. As
    ``other``, ``-`` is what standard input comes from."""
    try:
        if other == "-":
            return os.path.samestat(os.stat(path), os.fstat(0))  # noqa: PTH116
        return Path(path).samefile(other)
    except (OSError, ValueError):
        return other != "-" and os.path.realpath(path) == os.path.realpath(other)


def _paths(spec: str) -> Iterator[str]:
    """Whatever in a spec may be the name of a file, a folder or a glob; also a file beside the argument."""
    try:
        parsed = parse(spec)
    except UsageError:  # told when the spec is built
        return
    argument = None if parsed.argument is None else os.path.expanduser(parsed.argument)  # noqa: PTH111
    if argument is not None:
        yield argument
    for value in parsed.options.values():
        yield os.path.expanduser(value)  # noqa: PTH111
        if argument is not None:
            yield os.path.join(argument, value)  # noqa: PTH118


def _reads(named: str, target: str) -> bool:
    """Whether ``target`` is the file ``named``, in that folder, or among the files of that glob."""
    if "\0" in named:
        return False
    if os.path.isdir(named):  # noqa: PTH112
        return _is_in(target, named)
    if _same(target, named):
        return True
    if not has_wildcard(named):
        return False
    if os.path.exists(target):  # noqa: PTH110
        return any(_same(target, found) for found in files_of_glob(named, hidden=True).files)
    return would_match(named, target)


def _is_in(target: str, folder: str) -> bool:
    """Whether a file of ``folder`` is ``target``, or would be once it is written.

    A report beside a model, or among texts, is none of their files.
    """
    suffix = Path(target).suffix
    if suffix in MADE:
        return False
    if not os.path.exists(target):  # noqa: PTH110
        return bool(suffix) and Path(os.path.realpath(target)).is_relative_to(os.path.realpath(folder))
    wanted = os.stat(target)  # noqa: PTH116
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        about = os.stat(parent)  # noqa: PTH116
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()  # links in a loop
            continue
        seen.add((about.st_dev, about.st_ino))
        for name in names:
            try:
                if os.path.samestat(os.stat(os.path.join(parent, name)), wanted):  # noqa: PTH116, PTH118
                    return True
            except OSError:  # a link to nothing
                continue
    return False
