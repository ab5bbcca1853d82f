"""Where a command writes: what ``-o``, ``--json`` and ``--overwrite`` say, as one object."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
import msgspec

from evalgpt.cli.shell import F, state_of
from evalgpt.core import EvaluationError
from evalgpt.core.text import visible
from evalgpt.report.files import STDOUT, is_stream, write_bytes
from evalgpt.report.targets import Kind, Targets, check_distinct, document_kind, own_command

__all__ = ["Output", "check_outputs", "output", "output_file", "output_folder"]


NOTHING = Kind("a file of this command", lambda path: None)
"""The kind of an output before the command says what it writes: no file is of this kind, so none is replaced."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """The target of one document: a file, a pipe or device, standard output, or none.

    ``path`` is None where no document was asked for. ``kind`` is what the document is; a file that holds anything else
    is not replaced. ``targets`` has the command line and the files that the command reads, which it never replaces.
    """

    path: str | None
    targets: Targets
    kind: Kind = NOTHING

    @property
    def to_stdout(self) -> bool:
        """Whether standard output holds the document; tables and texts then go to standard error."""
        return self.path in STDOUT

    @property
    def to_file(self) -> bool:
        """Whether the target is a file: it is replaced as a whole, and may be written several times."""
        return self.path is not None and not is_stream(self.path)

    @property
    def command(self) -> list[str]:
        """The command line as documents keep it."""
        return own_command(self.targets.command)

    def reading(self, specs: Sequence[str] = (), files: Sequence[str] = ()) -> Output:
        """The same output of a command that reads the paths in ``specs`` and ``files``."""
        return replace(self, targets=self.targets.reading(specs=specs, files=files))

    def at(self, path: str | None, kind: Kind) -> Output:
        """Another output of the same command: a document of ``kind`` at ``path``."""
        return replace(self, path=path, kind=kind)

    def check(self) -> None:
        """Find out before any work that the target cannot be written, or must not be replaced.

        Raises:
            UsageError: as :meth:`evalgpt.report.targets.Targets.check` says.
        """
        if self.path is not None and not self.to_stdout:
            self.targets.check(self.path, self.kind)

    def save(self, document: msgspec.Struct | bytes) -> None:
        """Write a document that is not complete yet, so that nothing is lost later. Only files can be written twice.

        Raises:
            EvaluationError: the file cannot be written.
        """
        if self.to_file:
            self._write(document)

    def write(self, document: msgspec.Struct | bytes) -> None:
        """Write the complete document once and announce its file; do nothing where no document was asked for.

        Raises:
            EvaluationError: the target cannot be written.
        """
        if self.path is not None:
            self._write(document)
            self._announce()

    def complete(self, document: msgspec.Struct | bytes) -> None:
        """Announce the file where the complete document was saved; a pipe, a device or standard output gets it now.

        Raises:
            EvaluationError: the target cannot be written.
        """
        if self.to_file:
            self._announce()
        else:
            self.write(document)

    def _announce(self) -> None:
        """Print the name of the file on standard error, as ``Report: report.json``."""
        if self.to_file:
            _, _, name = self.kind.what.partition(" ")
            click.echo(f"{name[:1].upper()}{name[1:]}: {visible(str(self.path))}", err=True)

    def _write(self, document: msgspec.Struct | bytes) -> None:
        data = document if isinstance(document, bytes) else _encoded(document)
        if self.to_stdout:
            _print(data)
        else:
            write_bytes(data, str(self.path))


def _encoded(document: msgspec.Struct) -> bytes:
    from evalgpt.report.document import to_json  # numpy: not needed to parse a command line

    return to_json(document)


def _print(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has what it wanted
        raise
    except OSError as error:
        raise EvaluationError(f"cannot write standard output: {error.strerror}") from None


def check_outputs(*outputs: Output) -> None:
    """Check every output of one command, and that no two are the same file.

    Raises:
        UsageError: one of them cannot be written, or two are one file.
    """
    check_distinct(*(str(one.path) for one in outputs if one.path is not None and not one.to_stdout))
    for one in outputs:
        one.check()


def output(document: str, what: str) -> Callable[[F], F]:
    """``-o FILE``, ``--json`` (short for ``-o -``) and ``--overwrite`` of a command that writes a JSON document.

    The command gets one :class:`Output` as ``output``. ``document`` is the name in the document's schema, ``what`` the
    document in the words of the help.
    """
    flag = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember("json"),
        help="Write the JSON to standard output; short for -o -.",
    )

    def add(function: F) -> F:
        return _path_option(f"Write {what} as JSON to FILE; - is standard output.", document_kind(document))(
            flag(_overwrite_option()(function))
        )

    return add


def output_file(help: str) -> Callable[[F], F]:
    """``-o FILE`` and ``--overwrite`` of a command that says later, by :meth:`Output.at`, what it writes."""

    def add(function: F) -> F:
        return _path_option(help, NOTHING)(_overwrite_option()(function))

    return add


def output_folder(document: str, what: str) -> Callable[[F], F]:
    """``-o FOLDER`` and ``--overwrite`` of a command whose files lie in a folder marked by ``document``."""

    def add(function: F) -> F:
        overwrite = _overwrite_option(f"Replace the {document} run in FOLDER.")
        return _path_option(f"Write {what} to FOLDER.", document_kind(document), "FOLDER")(overwrite(function))

    return add


def _path_option(help: str, kind: Kind, metavar: str = "FILE") -> Callable[[F], F]:
    def chosen(ctx: click.Context, _: click.Parameter, value: str | None) -> Output:
        if ctx.meta.get("evalgpt.json"):
            if value not in (None, *STDOUT):
                raise click.UsageError("--json writes to standard output and -o to a file; give one of them", ctx)
            value = "-"
        targets = Targets(
            command=ctx.find_root().meta["evalgpt.command"],
            overwrite=ctx.meta["evalgpt.overwrite"],
            files=state_of(ctx).extra,  # plugins are read, so never replaced
        )
        return Output(path=value, targets=targets, kind=kind)

    return click.option("-o", "--output", metavar=metavar, type=click.Path(), callback=chosen, help=help)


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Keep the value of an option for the callback of ``-o``, which is called after it."""

    def keep(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        ctx.meta[f"evalgpt.{name}"] = value

    return keep


def _overwrite_option(
    help: str = "Replace a document of the same kind that another evalgpt command wrote.",
) -> Callable[[F], F]:
    return click.option(
        "--overwrite", is_flag=True, expose_value=False, is_eager=True, callback=_remember("overwrite"), help=help
    )
