"""Files that are written whole or not at all, and names that are not files."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalgpt.core import EvaluationError, UsageError

__all__ = ["STDOUT", "check_writable", "is_stream", "read_bytes", "replacing", "write_bytes"]

TEMPORARY = ".evalgpt-"
"""How the names of files being written begin; the target's own name may be as long as names get."""

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
"""Names of standard output; what is printed besides then goes to standard error."""


def check_writable(path: str, begins: bytes = b"{", what: str = "a report") -> None:
    """Find out before the evaluation, not after, that ``path`` cannot be written.

    A file that is there is written over only where it ``begins`` as ``what`` is to be written does.

    Raises:
        UsageError: it cannot; the message says why.
    """
    try:
        _check_target(path, begins, what)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _check_target(path: str, begins: bytes, what: str) -> None:
    if Path(path).is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; give a file such as {Path(path) / 'report.json'}")
    if is_stream(path):
        return
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {target.parent}")
    if target.exists():
        if not os.access(target, os.W_OK):
            raise UsageError(f"cannot write {path}: permission denied")
        with target.open("rb") as file:
            if file.read(len(begins)) not in (b"", begins):
                raise UsageError(f"cannot write {path}: it holds something else than {what}; remove it first")
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=TEMPORARY):
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
        raise UsageError(f"cannot read {what} {name}: {error.strerror}") from None


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
    """The name of a file to write beside ``target``, whose place it takes at the end, or never if writing fails.

    Raises:
        OSError: the file cannot be written.
    """
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
    os.close(handle)
    try:
        yield name
        handle = os.open(name, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
