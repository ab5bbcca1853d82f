"""The options that several commands take, each declared once.

A group of options is a frozen dataclass whose fields are :func:`option`; :func:`takes` gives them to a command as one
object. A new command that runs models on tasks needs one line, ``@takes(ScoringOptions)``, or a subclass with its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from evalgpt.cli.shell import F, state_of
from evalgpt.core import EvalgptError, EvaluationError, Model, Task, UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.core.protocol import Protocol
from evalgpt.core.text import visible

if TYPE_CHECKING:
    from evalgpt.scoring.cache import ScoreCache

__all__ = [
    "ModelOptions",
    "ScoringOptions",
    "Share",
    "SingleModelOptions",
    "common",
    "device_option",
    "given_text",
    "models_option",
    "names_of",
    "option",
    "quiet_option",
    "rarest_option",
    "seed_option",
    "takes",
    "tasks_option",
]


def given_text(texts: Sequence[str]) -> list[str]:
    """The texts, with standard input in the place of ``-``. A text that is the name of a file gets a note.

    Raises:
        UsageError: ``-`` is there twice. EvaluationError: standard input is not UTF-8.
    """
    if list(texts).count("-") > 1:
        raise UsageError("standard input can be read once; give - once")
    for text in texts:
        if text != "-" and os.path.isfile(text):  # noqa: PTH113 - a text too long for a path is no error here
            click.echo(
                f"evalgpt: note: {visible(text)} is a file, and its name is taken as the text; its contents are read "
                f"with - < {visible(text)}",
                err=True,
            )
    return [_standard_input() if text == "-" else text for text in texts]


def _standard_input() -> str:
    data = sys.stdin.buffer.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EvaluationError(f"standard input is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    return text.removesuffix("\n").removesuffix("\r")


def option(*names: str, **settings: Any) -> Any:
    """A field of an options class: what :func:`click.option` takes, but for the name, which is the field's."""
    return field(metadata={"option": (names, settings)})


def takes(kind: type[Any]) -> Callable[[F], F]:
    """Give a command every option of the class ``kind``; its function gets one object of it as ``options``."""

    def add(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            values = {item.name: given.pop(item.name) for item in fields(kind)}
            return function(*args, options=kind(**values), **given)

        for item in reversed(fields(kind)):
            names, settings = item.metadata["option"]
            call = click.option(*names, item.name, **settings)(call)
        return call  # type: ignore[return-value]

    return add


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
            self.fail(f"{value!r} does not lie between 0 and 1; give a share such as 1% or 0.01", param, ctx)
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


Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


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


# one option each, where the help differs from command to command


def models_option(**settings: Any) -> Any:
    return option("-m", "--model", metavar="SPEC", multiple=True, shell_complete=names_of("model"), **settings)


def tasks_option(**settings: Any) -> Any:
    return option("-t", "--task", metavar="SPEC", multiple=True, shell_complete=names_of("task"), **settings)


def device_option() -> Any:
    return option("--device", metavar="DEVICE", help="Device: auto, cpu, cuda, cuda:N or mps.  [default: auto]")


def dtype_option(names: str = "float32, bfloat16, float16 or float64") -> Any:
    return option("--dtype", metavar="DTYPE", help=f"Type of weights and arithmetic: {names}.  [default: float32]")


def quiet_option(what: str = "Show no progress on standard error.") -> Any:
    return option("-q", "--quiet", is_flag=True, help=what)


def seed_option(what: str) -> Any:
    """A seed from 0 up; ``what`` is random, in the words of the help."""
    return option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=f"Seed of {what}.")


def rarest_option(needs: str) -> Any:
    """The assumption behind the option ``needs``, which stops before the whole text is scored."""
    return option(
        "--rarest",
        type=Share(),
        default="1%",
        show_default=True,
        help=f"Assumed smallest share that any kind of window has of all windows; {needs} relies on it.",
    )


# groups


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How models are built."""

    device: str | None = device_option()
    dtype: str | None = dtype_option()
    quiet: bool = quiet_option()

    def check_models(self, plugins: Plugins, *specs: str) -> None:
        """Raise UsageError for a spec whose name, key or value cannot be."""
        for spec in specs:
            plugins.check("model", spec, {"device": self.device, "dtype": self.dtype})

    def build_model(self, plugins: Plugins, spec: str) -> Model:
        """The model of ``spec`` on the device and in the dtype asked for."""
        from evalgpt.cli.progress import waiting  # rich: not needed to parse a command line

        with waiting(f"building {spec}", self.quiet):
            return plugins.model(spec, device=self.device, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class _OneModel:
    model: str = option(
        "-m", "--model", metavar="SPEC", required=True, shell_complete=names_of("model"), help="Model; see 'models'."
    )


@dataclass(frozen=True, kw_only=True)
class SingleModelOptions(ModelOptions, _OneModel):
    """One model, which a command shows at work."""


@dataclass(frozen=True, kw_only=True)
class _Specs:
    models: Sequence[str] = models_option(required=True, help="Model to run; may be given several times. See 'models'.")
    tasks: Sequence[str] = tasks_option(required=True, help="Task to run; may be given several times. See 'tasks'.")
    protocol: str | None = option(
        "-p",
        "--protocol",
        metavar="SPEC",
        shell_complete=names_of("protocol"),
        help="Protocol: which tokens are scored, from which context; see 'protocols'.  [default: the task's]",
    )
    context: int | None = option(
        "--context", type=int, metavar="TOKENS", help="Context: tokens that the model is fed at once."
    )
    stride: int | None = option(
        "--stride", type=int, metavar="TOKENS", help="Stride: tokens from the start of a window to the next."
    )


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(ModelOptions, _Specs):  # the help lists the fields of the last base first
    """Which models to run on which tasks, and how their texts are scored."""

    batch_tokens: int | None = option(
        "--batch-tokens", type=BatchTokens(), help="Tokens in a batch, with padding; auto measures the fastest size."
    )
    cache: bool = option(
        "--cache/--no-cache", default=True, help="Keep the scores of windows between runs; see 'cache'."
    )

    def check(self, plugins: Plugins) -> None:
        """Raise UsageError for a spec whose name, key or value cannot be."""
        self.check_models(plugins, *self.models)
        for spec in self.tasks:
            plugins.check("task", spec)

    @property
    def specs(self) -> list[str]:
        """Every spec that the command reads."""
        return [*self.models, *self.tasks, *([self.protocol] if self.protocol is not None else [])]

    @contextmanager
    def open_cache(self) -> Iterator[ScoreCache | None]:
        """The cache of scores, None with ``--no-cache``; a fault of its file is a warning at the end."""
        if not self.cache:
            yield None
            return
        from evalgpt.scoring.cache import ScoreCache  # numpy: not needed to parse a command line

        with ScoreCache() as cache:
            yield cache
        if cache.problem is not None:
            click.echo(f"evalgpt: warning: {visible(cache.problem)}", err=True)

    def build_task(self, plugins: Plugins, spec: str) -> tuple[Task, Protocol]:
        """The task of ``spec`` with the protocol asked for, else its own, not yet bound to a model."""
        task = plugins.task(spec)
        chosen = self.protocol or task.default_protocol
        return task, plugins.protocol(chosen, context=self.context, stride=self.stride)
