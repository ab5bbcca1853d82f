"""Which files a folder or a glob means: each real file once, in a stable order, hidden ones only where asked for."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evalgpt.core.errors import UsageError

__all__ = ["LEFT_OUT", "Found", "files_in_folder", "files_of_glob", "has_wildcard", "would_match"]


LEFT_OUT = "left out, by their names or kinds, "
"""How a note begins on files that are no part of the text; they may come and go, as a report written beside it."""

_WILDCARD = re.compile(r"[*?[]")


@dataclass(slots=True)
class Found:
    """``files`` in the order in which they are read; ``notes`` on what was left out, for the report."""

    files: list[str]
    notes: list[str] = field(default_factory=list)


def has_wildcard(path: str) -> bool:
    """Whether ``path`` is a glob."""
    return _WILDCARD.search(path) is not None


def files_in_folder(folder: Path, wanted: Callable[[Path], bool], *, hidden: bool = False) -> Found:
    """The files below ``folder`` that are ``wanted`` by their names, sorted by path.

    Links to folders are followed, and each real folder is read once, so links in a loop end. A name that begins with a
    dot is hidden: such files and folders are left out without ``hidden``. What is not a file that can be read (a broken
    link, a pipe) is left out with a note.

    Raises:
        UsageError: a folder cannot be read.
    """
    return _each_once(p for below in _folders(folder, hidden) for p in _inside(below, hidden) if wanted(p))


def files_of_glob(pattern: str, *, hidden: bool = False) -> Found:
    """The files that ``pattern`` matches, sorted by path; ``**`` matches any number of folders, also none.

    A wildcard matches a hidden name only where its part of the pattern begins with a dot, or with ``hidden``. Links as
    in :func:`files_in_folder`; the standard library's ``glob`` follows a loop until the path is too long.

    Raises:
        UsageError: a folder cannot be read.
    """
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if has_wildcard(part))
    return _each_once(_matches(Path(*parts[:first]), parts[first:], hidden))


def would_match(pattern: str, path: str) -> bool:
    """Whether a file written at ``path``, where there is none yet, would be one of the glob ``pattern``."""
    parts = Path(pattern).parts
    first = next((i for i, part in enumerate(parts) if has_wildcard(part)), len(parts))
    folder, target = (os.path.realpath(name) for name in (Path(*parts[:first]), path))
    try:
        names = Path(target).relative_to(folder).parts
    except ValueError:
        return False
    return _names_match(names, parts[first:])


def _names_match(names: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        rest = parts[1:] or ("*",)
        return any(_names_match(names[n:], rest) for n in range(len(names)))
    return bool(names) and fnmatch.fnmatch(names[0], parts[0]) and _names_match(names[1:], parts[1:])


def _matches(folder: Path, parts: tuple[str, ...], hidden: bool) -> Iterator[Path]:
    """The paths that ``parts``, the names of a pattern, match below ``folder``."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below in _folders(folder, hidden):
            yield from _matches(below, rest or ("*",), hidden)
        return
    if has_wildcard(part):
        inside = _inside(folder, hidden or part.startswith("."))
        matched = [path for path in inside if fnmatch.fnmatch(path.name, part)]
    else:
        matched = [folder / part]
    for path in matched:
        if rest and path.is_dir():
            yield from _matches(path, rest, hidden)
        elif not rest and (path.exists() or path.is_symlink()):
            yield path


def _folders(root: Path, hidden: bool) -> Iterator[Path]:
    """``root`` and each real folder below it once, under a path without links if it has one.

    A link to a folder around ``root`` is left out: what else is in there was not asked for.
    """
    seen = {_identity(folder) for folder in Path(os.path.realpath(root)).parents}
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        identity = _identity(folder)
        if identity in seen and folder is not root:
            continue
        seen.add(identity)
        yield folder
        below = [path for path in _inside(folder, hidden) if path.is_dir()]
        folders += [path for path in reversed(below) if not path.is_symlink()]
        links += [path for path in below if path.is_symlink()]


def _inside(folder: Path, hidden: bool) -> list[Path]:
    """What is in ``folder``, sorted; nothing where it is not a folder."""
    try:
        return sorted(path for path in folder.iterdir() if hidden or not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"cannot read the folder {folder}: {error.strerror}") from None


def _identity(path: Path) -> object:
    """What all names of one file or folder share: device and inode, or the real path where a system has no inodes."""
    status = path.stat()
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _each_once(paths: Iterator[Path]) -> Found:
    """Each real file of ``paths`` once, sorted, under a name that is not a link if it has one."""
    files, odd = list[Path](), list[Path]()
    for path in sorted(set(paths), key=str):
        if path.is_file():
            files.append(path)
        elif not path.is_dir():
            odd.append(path)
    chosen: dict[object, Path] = {}
    for path in sorted(files, key=_links):
        chosen.setdefault(_identity(path), path)
    kept = set(chosen.values())
    notes = []
    if links := [path for path in files if path not in kept]:
        other = chosen[_identity(links[0])]
        notes.append(_left_out(links, "names of files that are read under another name", f"the same file as {other}"))
    if odd:
        notes.append(_left_out(odd, "names of what is not a file", _what(odd[0])))
    return Found(
        [str(path) for path in files if path in kept],
        [os.fsencode(note).decode(errors="backslashreplace") for note in notes],
    )


def _left_out(paths: Sequence[Path], what: str, first: str) -> str:
    """The note on ``paths``, which are ``what`` together; ``first`` says what the first one is."""
    return f"left out {paths[0] if len(paths) == 1 else f'{len(paths)} {what}, such as {paths[0]}'} ({first})"


def _what(path: Path) -> str:
    """What is at ``path``, which is neither a file nor a folder."""
    if not path.exists():
        return "a broken link"
    return "a pipe" if path.is_fifo() else "a device or a socket"


def _links(path: Path) -> tuple[bool, bool]:
    """Whether ``path`` is a link, and whether it leads through one: False sorts first."""
    return path.is_symlink(), os.path.realpath(path) != str(path.absolute())
