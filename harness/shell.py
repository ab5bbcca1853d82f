"""What every command shares: errors in one line, ``--debug`` and ``--plugin`` anywhere, commands of plugins."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from evalgpt.core import EvalgptError, UsageError
from evalgpt.files import STDOUT
from evalgpt.guard import reason
from evalgpt.plugins import Plugins, load_plugins
from evalgpt.specs import visible
from evalgpt.streams import foreign, guarded, release

if TYPE_CHECKING:
    from evalgpt.targets import Targets

__all__ = [
    "Cli",
    "Share",
    "common",
    "goes_with",
    "learning",
    "models",
    "names_of",
    "output",
    "overwriting",
    "running",
    "state_of",
    "targets_of",
    "tasks",
]

LONGEST = 4096
"""Characters of a word, as long as a path may be, beyond which an error does not repeat it."""

F = TypeVar("F", bound=Callable[..., Any])

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class Failure(click.ClickException):
    """An error as the terminal shows it: one line, and the exit code that scripts read."""

    def __init__(self, message: str, exit_code: int) -> None:
        words = (word if len(word) <= LONGEST else f"{word[:60]}..." for word in message.split())
        super().__init__(" ".join(words))
        vars(self)["exit_code"] = exit_code  # click reads it from the instance, and declares it for the class

    def show(self, file: Any = None) -> None:
        click.echo(f"evalgpt: error: {visible(self.format_message())}", err=True, file=file)


class State:
    """What the options common to all commands say."""

    def __init__(self) -> None:
        self.debug = False
        self.extra: list[str] = []

    @cached_property
    def plugins(self) -> Plugins:
        plugins = load_plugins(self.extra)
        for name, why in plugins.failures.items():
            click.echo(f"evalgpt: warning: plugin {name} failed to load and is left out: {visible(why)}", err=True)
        return plugins


class Cli(click.Group):
    """Turns every failure into one line and an exit code, and adds the commands of plugins."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        command = [info_name or "evalgpt", *args]
        with _in_one_line(lambda: "--debug" in command):
            ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta["evalgpt.command"] = command
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        with _in_one_line(lambda: state_of(ctx).debug):
            return super().invoke(ctx)

    def main(self, *args: Any, **extra: Any) -> Any:
        with guarded():
            return super().main(*args, **extra)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        if found[1] is not None and found[1] not in self.commands.values():
            release()
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._from_plugins(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._from_plugins(ctx).get(cmd_name)

    def _from_plugins(self, ctx: click.Context) -> dict[str, click.Command]:
        plugins = state_of(ctx).plugins
        found: dict[str, click.Command] = {}
        for name, plugin in plugins.manager.list_name_plugin():
            others = [other for other in plugins.manager.get_plugins() if other is not plugin]
            group = click.Group()
            try:
                with foreign():
                    plugins.manager.subset_hook_caller("register_commands", remove_plugins=others)(cli=group)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # one plugin's commands are not worth all the others
                why = visible(reason(error))
                click.echo(f"evalgpt: warning: plugin {name} cannot add its commands: {why}", err=True)
                continue
            for command in group.commands:
                if command in self.commands or command in found:
                    raise UsageError(f"plugin {name} adds the command {command!r}, which is there already")
            found |= group.commands
        return found


@contextlib.contextmanager
def _in_one_line(debug: Callable[[], bool]) -> Iterator[None]:
    """Turn what is raised inside into one line and an exit code, unless ``debug()``."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "evalgpt"
        raise Failure(f"{error.format_message().rstrip('.')}. See {where} --help", 2) from None
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if debug() or (isinstance(error, OSError) and error.errno == errno.EPIPE):
            raise
        if isinstance(error, EvalgptError):
            raise Failure(str(error), error.exit_code) from None
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise Failure("cannot write: no space left on the device", 1) from None
        if isinstance(error, OSError) and error.strerror and error.filename:
            raise Failure(f"cannot use {error.filename}: {error.strerror}", 1) from None
        # A bug, or a machine at its limits: still one line.
        raise Failure(f"{reason(error)} (unexpected; --debug shows where)", 1) from None


def state_of(ctx: click.Context) -> State:
    state: State = ctx.find_root().ensure_object(State)
    return state


def goes_with(ctx: click.Context, **needed: str) -> None:
    """Refuse an option that does nothing without another one: ``top="detail"``.

    Raises:
        UsageError: it was given, and the other was not.
    """
    for name, other in needed.items():
        if not ctx.params[other] and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name} goes with --{other.replace('_', '-')}, which is not given")


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


def overwriting(function: F) -> F:
    """``--overwrite``, for every command that writes a file; :func:`targets_of` has what it says."""

    def given(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.meta["evalgpt.overwrite"] = value

    return click.option(
        "--overwrite",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=given,
        help="Replace what another command of evalgpt wrote there.",
    )(function)


def targets_of(ctx: click.Context) -> Targets:
    """What the command may write: never a plugin that it loads."""
    from evalgpt.targets import Targets

    return Targets(
        command=ctx.find_root().meta["evalgpt.command"],
        overwrite=ctx.meta["evalgpt.overwrite"],
        files=state_of(ctx).extra,
    )


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
