"""What ``evalgpt run`` and ``evalgpt compare`` have in common: the options, and what follows from them at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from evalgpt.cli.shell import F, overwriting, state_of
from evalgpt.core import EvalgptError, EvaluationError, Model, Task, UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.core.protocol import Protocol
from evalgpt.core.text import visible
from evalgpt.report.files import STDOUT
from evalgpt.report.targets import Kind, Targets

if TYPE_CHECKING:
    from evalgpt.scoring.cache import ScoreCache

__all__ = ["ModelOptions", "Share", "common", "learning", "models", "names_of", "output", "running", "tasks"]


def given_text(texts: Sequence[str]) -> list[str]:
    """The texts, with standard input in the place of ``-``.

    Raises:
        UsageError: ``-`` is there twice. EvaluationError: standard input is not UTF-8.
    """
    if list(texts).count("-") > 1:
        raise UsageError("standard input can be read once; give - once")
    return [_standard_input() if text == "-" else text for text in texts]


def _standard_input() -> str:
    data = sys.stdin.buffer.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EvaluationError(f"standard input is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    return text.removesuffix("\n").removesuffix("\r")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which models to run on which tasks, and how."""

    models: Sequence[str] = ()
    tasks: Sequence[str] = ()
    protocol: str | None = None
    context: int | None = None
    stride: int | None = None
    device: str | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    output: str | None = None
    cache: bool = True
    targets: Targets = field(default_factory=Targets)
    quiet: bool = False

    def check(self, plugins: Plugins) -> None:
        """Raise UsageError for a spec whose name, key or value cannot be."""
        for spec in self.models:
            plugins.check("model", spec, {"device": self.device, "dtype": self.dtype})
        for spec in self.tasks:
            plugins.check("task", spec)

    def check_target(self, path: str, kind: Kind) -> None:
        """Raise UsageError where ``path`` cannot be written, or holds what must not be replaced."""
        self.reads().check(path, kind)

    def reads(self) -> Targets:
        """What the command may write, given what it reads."""
        specs = [*self.models, *self.tasks, *([self.protocol] if self.protocol is not None else [])]
        return self.targets.reading(specs=specs)

    @contextmanager
    def open_cache(self) -> Iterator[ScoreCache | None]:
        """Where scores are kept, None with ``--no-cache``; trouble with it is told at the end, and costs no run."""
        if not self.cache:
            yield None
            return
        from evalgpt.scoring.cache import ScoreCache  # numpy: not needed to parse a command line

        with ScoreCache() as cache:
            yield cache
        if cache.problem is not None:
            click.echo(f"evalgpt: warning: {visible(cache.problem)}", err=True)

    def build_model(self, plugins: Plugins, spec: str) -> Model:
        """The model of ``spec`` on the device and in the dtype asked for."""
        from evalgpt.cli.progress import waiting  # rich: not needed to parse a command line

        with waiting(f"building {spec}", self.quiet):
            return plugins.model(spec, device=self.device, dtype=self.dtype)

    def build_task(self, plugins: Plugins, spec: str) -> tuple[Task, Protocol]:
        """The task of ``spec`` with the protocol asked for, else its own, not yet bound to a model."""
        task = plugins.task(spec)
        chosen = self.protocol or task.default_protocol
        return task, plugins.protocol(chosen, context=self.context, stride=self.stride)


Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def common(function: F) -> F:
    """Options that every command takes, before or after its name."""

    def debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        state_of(ctx).debug |= value

    def plugin(ctx: click.Context, _: click.Parameter, value: Sequence[str]) -> None:
        state_of(ctx).extra += value

    function = click.option(
        "--debug", is_flag=True, expose_value=False, is_eager=True, callback=debug, help="Show tracebacks."
    )(function)
    return click.option(
        "--plugin",
        metavar="FILE_OR_MODULE",
        multiple=True,
        expose_value=False,
        is_eager=True,
        callback=plugin,
        help="Load a plugin that is not installed; may be given several times.",
    )(function)


class Share(click.ParamType[float]):
    """A share of something, as ``1%`` or ``0.01``."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(value.removesuffix("%")) / 100 if isinstance(value, str) and "%" in value else float(value)
        except ValueError:
            share = -1.0
        if not 0 < share < 1:
            self.fail(f"{value!r} is no share between 0 and 1, as in 1% or 0.01", param, ctx)
        return share


class BatchTokens(click.ParamType[int]):
    """A whole number from 1 up, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto":
            return 0
        if isinstance(value, int):
            return value
        if not (value.isascii() and value.isdecimal() and len(value) <= 4000 and int(value) >= 1):  # int() has a limit
            self.fail(f"{value!r} is neither a whole number from 1 up nor auto", param, ctx)
        return int(value)


def output(what: str) -> Callable[[F], F]:
    """``-o FILE``, and ``--json`` as a short way to write ``-o -``."""

    def asked(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.meta["evalgpt.json"] = value

    def chosen(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
        if ctx.meta.get("evalgpt.json"):
            if value not in (None, *STDOUT):
                raise click.UsageError("--json writes to standard output and -o to a file; give one of them", ctx)
            return "-"
        return value

    def add(function: F) -> F:
        function = overwriting(function)
        function = click.option(
            "--json", is_flag=True, expose_value=False, is_eager=True, callback=asked, help="The same as -o -."
        )(function)
        return click.option(
            "-o",
            "--output",
            metavar="FILE",
            type=click.Path(),
            callback=chosen,
            help=f"Write {what} as JSON; - for standard output.",
        )(function)

    return add


def learning(function: F) -> F:
    """Options of the commands that look at one model."""
    for option in reversed(
        [
            click.option(
                "-m", "--model", metavar="SPEC", required=True, shell_complete=names_of("model"), help="The model."
            ),
            click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]"),
            click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, float16, float64.  [default: float32]"),
            click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
        ]
    ):
        function = option(function)
    return function


def names_of(kind: str) -> Complete:
    """Complete the name of a ``model``, ``task`` or ``protocol``; behind a colon there is nothing to offer."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            entries = state_of(ctx).plugins.entries[kind]
        except EvalgptError:  # of a plugin half typed
            return []
        return [
            CompletionItem(name, help=entry.summary)
            for name, entry in sorted(entries.items())
            if name.startswith(incomplete)
        ]

    return complete


models = partial(
    click.option, "-m", "--model", "models", metavar="SPEC", multiple=True, shell_complete=names_of("model")
)

tasks = partial(click.option, "-t", "--task", "tasks", metavar="SPEC", multiple=True, shell_complete=names_of("task"))


def running(function: F) -> F:
    """Options of the commands that run models."""
    for option in reversed(
        [
            click.option(
                "-p",
                "--protocol",
                metavar="SPEC",
                shell_complete=names_of("protocol"),
                help="Which tokens are scored; see 'protocols'.",
            ),
            click.option("--context", type=int, metavar="TOKENS", help="Tokens fed at once (the protocol's L)."),
            click.option("--stride", type=int, metavar="TOKENS", help="Tokens between windows (the protocol's S)."),
            click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]"),
            click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, float16, float64.  [default: float32]"),
            click.option("--batch-tokens", type=BatchTokens(), help="Tokens per batch, padded; auto finds how many."),
            click.option("--cache/--no-cache", default=True, help="Keep scores of windows between runs; see 'cache'."),
            click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
        ]
    ):
        function = option(function)
    return function
