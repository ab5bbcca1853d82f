"""Files that are written whole or not at all, and names that are not files."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalgpt.core import EvaluationError, UsageError

__all__ = [
    "BOM",
    "STDOUT",
    "TRAINING_LOG",
    "check_writable",
    "is_stream",
    "read_bytes",
    "read_document_bytes",
    "remove_leftovers",
    "replacing",
    "write_bytes",
]


TEMPORARY = ".evalgpt-"
"""How the names of the folders begin in which files are written; the target's own name may be as long as names get."""

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
"""Names of standard output; what is printed besides then goes to standard error."""

TRAINING_LOG = "training.json"
"""The file that makes a folder that of a training run."""

BOM = codecs.BOM_UTF8


def check_writable(path: str) -> None:
    """Find out before the evaluation, not after, that ``path`` cannot be written; remove what killed runs left there.

    Whether it may be written over is :class:`evalgpt.report.targets.Targets`' question.

    Raises:
        UsageError: it cannot; the message says why.
    """
    try:
        _check_target(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _check_target(path: str) -> None:
    if not path:
        raise UsageError("the name of the file to write is empty")
    if Path(path).is_dir() or os.fspath(path).endswith((os.sep, "/")):
        raise UsageError(f"cannot write {path}: it is a folder; give a file such as {Path(path) / 'report.json'}")
    if is_stream(path):
        return
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {target.parent}")
    if target.exists() and not os.access(target, os.W_OK):
        raise UsageError(f"cannot write {path}: permission denied")
    remove_leftovers(target.parent)
    with _private_folder(target.parent):
        pass


def is_stream(path: str) -> bool:
    """Whether ``path`` is ``-``, a pipe or a device, which take the bytes once and as they are."""
    return path in STDOUT or (Path(path).exists() and not Path(path).is_file())


def read_bytes(path: str, what: str) -> bytes:
    """What the file holds, or standard input for ``-``; ``what`` is what an error calls it.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        name = "standard input" if path == "-" else path
        if (Path(path) / TRAINING_LOG).is_file():
            raise UsageError(
                f"{path} is the folder of a training run, not {what.replace('the ', 'a ', 1)}; evalgpt html {path} "
                f"shows it, and evalgpt run makes a report of a checkpoint in it"
            ) from None
        raise UsageError(f"cannot read {what} {name}: {error.strerror}") from None


def read_document_bytes(path: str, what: str) -> bytes:
    """As :func:`read_bytes`, for JSON: without the byte-order mark that editors on Windows put first."""
    return read_bytes(path, what).removeprefix(BOM)


def write_bytes(data: bytes, path: str) -> None:
    """Write so that ``path`` never holds half of ``data``: a temporary file beside it, then a rename.

    Raises:
        EvaluationError: the file cannot be written.
    """
    try:
        if is_stream(path):
            Path(path).write_bytes(data)
        else:
            _replace(Path(os.path.realpath(path)), data)  # a link stays a link
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror}") from None


def _replace(target: Path, data: bytes) -> None:
    with replacing(target) as name:
        Path(name).write_bytes(data)


@contextmanager
def replacing(target: Path) -> Iterator[str]:
    """The name of a file to write, whose place at ``target`` it takes at the end, or never if writing fails.

    It is alone in a folder beside ``target``, so that temporary files of a library that writes it lie there too.

    Raises:
        OSError: the file cannot be written.
    """
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    with _private_folder(target.parent) as folder:
        name = str(folder / "written")
        yield name
        handle = os.open(name, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.chmod(name, mode)
        os.replace(name, target)


@contextmanager
def _private_folder(parent: Path) -> Iterator[Path]:
    """A folder in ``parent``, locked while this process lives and gone at the end."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
        with _locked(folder, wait=True) as locked:
            if locked:
                try:
                    yield folder
                finally:
                    _remove(folder)
                return

        # Another process took the folder for a leftover before it was locked, and removed it: make another.


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of files half written that processes left in ``parent`` when they were killed.

    The system drops a process's locks when it ends, so a folder that can be locked belongs to none that lives. Where
    locks are not to be had, nothing is removed.
    """
    try:
        found = [Path(entry.path) for entry in os.scandir(parent) if entry.name.startswith(TEMPORARY)]
    except OSError:  # a folder that can be written and not listed
        return
    for folder in found:
        if not folder.is_symlink() and folder.is_dir():
            with _locked(folder, wait=False) as locked:
                if locked:
                    _remove(folder)


@contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of ``folder``; False where another process holds it, or where the folder is gone.

    With ``wait`` for a folder of one's own: also True where the system or the disk knows no locks.
    """
    if os.name == "nt":
        yield wait
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield (_lock(handle, wait) or wait) and folder.exists()
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _remove(folder: Path) -> None:
    """Remove a folder of ours: files alone are in it."""
    shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
