"""The group of all commands: errors in one line, ``--debug`` and ``--plugin`` anywhere, commands of plugins."""

from __future__ import annotations

import contextlib
import errno
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from evalgpt.core import EvalgptError, UsageError
from evalgpt.core.guard import reason
from evalgpt.core.plugins import Plugins, load_plugins
from evalgpt.core.streams import foreign, guarded, release
from evalgpt.core.text import visible

__all__ = ["Cli", "goes_with", "state_of"]


LONGEST = 4096
"""Characters of a word, as long as a path may be, beyond which an error does not repeat it."""

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """An error as the terminal shows it: one line, and the exit code that scripts read."""

    def __init__(self, message: str, exit_code: int) -> None:
        words = (word if len(word) <= LONGEST else f"{word[:60]}..." for word in message.split())
        super().__init__(" ".join(words))
        vars(self)["exit_code"] = exit_code  # click reads it from the instance, and declares it for the class

    def show(self, file: Any = None) -> None:
        click.echo(f"evalgpt: error: {visible(self.format_message())}", err=True, file=file)


class State:
    """The values of the options that every command takes."""

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
    """Turns every failure into one line and an exit code, imports a command when it is called, adds those of plugins.

    ``lazy`` maps a command's name to its module in :mod:`evalgpt.cli.commands`, the attribute there, and its help in
    one line, so that ``evalgpt --help`` imports none of them.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str, str]] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lazy = lazy or {}

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
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:  # click knows no command that is imported when it is called
            known = self.list_commands(ctx)
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=known, ctx=ctx) from None
        if name not in self.lazy and command is not None and command not in self.commands.values():
            release()
        elif command is not None and not ctx.resilient_parsing:
            _check_given_once(command.context_class(command, info_name=name, parent=ctx), rest)
        return name, command, rest

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.lazy, *super().list_commands(ctx), *self._from_plugins(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.lazy:
            module, attribute, _ = self.lazy[cmd_name]
            command: click.Command = getattr(importlib.import_module(f"evalgpt.cli.commands.{module}"), attribute)
            return command
        return super().get_command(ctx, cmd_name) or self._from_plugins(ctx).get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                text = self.lazy[name][2]
            else:
                command = self.get_command(ctx, name)
                text = "" if command is None else command.get_short_help_str(limit=80)
            rows.append((name, text))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _from_plugins(self, ctx: click.Context) -> dict[str, click.Command]:
        plugins = state_of(ctx).plugins
        commands: dict[str, click.Command] = {}
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
                if command in self.lazy or command in self.commands or command in commands:
                    raise UsageError(f"plugin {name} adds the command {command!r}, which is there already")
            commands |= group.commands
        return commands


def _check_given_once(ctx: click.Context, args: list[str]) -> None:
    """Refuse an option that takes one value and is given twice, of which click would take the last without a word."""
    _, _, given = ctx.command.make_parser(ctx).parse_args(args=list(args))
    seen: set[str] = set()
    for option in given:
        if not isinstance(option, click.Option) or option.is_flag or option.multiple or option.count:
            continue
        name = max(option.opts, key=len)
        if name in seen:
            raise click.UsageError(f"Option {name!r} takes one value and is given twice", ctx)
        seen.add(name)


@contextlib.contextmanager
def _in_one_line(debug: Callable[[], bool]) -> Iterator[None]:
    """Turn what is raised inside into one line and an exit code, unless ``debug()``."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "evalgpt"
        message = error.format_message().rstrip(".")
        stop = "" if message.endswith("?") else "."
        raise Failure(f"{message}{stop} See {where} --help", 2) from None
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
