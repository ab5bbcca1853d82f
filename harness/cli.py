"""The command line. Commands parse, call the Python API and print; heavy imports wait inside them."""

from __future__ import annotations

import errno
import inspect
import textwrap
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import click

from evalgpt.core import EvalgptError, UsageError
from evalgpt.plugins import Plugins, load_plugins

__all__ = ["cli", "main"]

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """An error as the terminal shows it: one line, and the exit code that scripts read."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(" ".join(message.split()))
        vars(self)["exit_code"] = exit_code  # click reads it from the instance, and declares it for the class

    def show(self, file: Any = None) -> None:
        click.echo(f"evalgpt: error: {self.format_message()}", err=True, file=file)


class State:
    """What the options common to all commands say."""

    def __init__(self) -> None:
        self.debug = False
        self.extra: list[str] = []

    @cached_property
    def plugins(self) -> Plugins:
        plugins = load_plugins(self.extra)
        for name, why in plugins.failures.items():
            click.echo(f"evalgpt: warning: plugin {name} failed to load and is left out: {why}", err=True)
        return plugins


class Cli(click.Group):
    """Turns every failure into one line and an exit code, and adds the commands of plugins."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        command = [info_name or "evalgpt", *args]
        try:
            ctx = super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _one_line(error) from None
        ctx.meta["evalgpt.command"] = command
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _one_line(error) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except EvalgptError as error:
            if _state(ctx).debug:
                raise
            raise Failure(str(error), error.exit_code) from None
        except OSError as error:
            if _state(ctx).debug or error.errno == errno.EPIPE:
                raise
            raise Failure(f"{type(error).__name__}: {error}", 1) from None
        except Exception as error:  # a bug, here or in a plugin: still one line
            if _state(ctx).debug:
                raise
            raise Failure(f"{type(error).__name__}: {error} (unexpected; --debug shows where)", 1) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._from_plugins(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._from_plugins(ctx).get(cmd_name)

    def _from_plugins(self, ctx: click.Context) -> dict[str, click.Command]:
        group = click.Group()
        _state(ctx).plugins.manager.hook.register_commands(cli=group)
        for name in group.commands:
            if name in self.commands:
                raise UsageError(f"a plugin adds the command {name!r}, which evalgpt has")
        return dict(group.commands)


def _one_line(error: click.UsageError) -> click.ClickException:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error
    where = error.ctx.command_path if error.ctx else "evalgpt"
    return Failure(f"{error.format_message()} See {where} --help", 2)


def _state(ctx: click.Context) -> State:
    state: State = ctx.find_root().ensure_object(State)
    return state


def _common(function: F) -> F:
    """Options that every command takes, before or after its name."""

    def debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        _state(ctx).debug |= value

    def plugin(ctx: click.Context, _: click.Parameter, value: Sequence[str]) -> None:
        _state(ctx).extra += value

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


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="evalgpt", message="evalgpt %(version)s")
@_common
def cli() -> None:
    """Measure how well language models predict text: loss, perplexity and bits per byte.

    \b
    Try:  evalgpt run --model scratch --task pairs
          evalgpt run --model scratch --task text:book.txt -o report.json
          evalgpt models
    """


@cli.command()
@click.option("-m", "--model", "models", metavar="SPEC", multiple=True, required=True, help="A model; see 'models'.")
@click.option("-t", "--task", "tasks", metavar="SPEC", multiple=True, required=True, help="A task; see 'tasks'.")
@click.option("-p", "--protocol", metavar="SPEC", help="Which tokens are scored from which context; see 'protocols'.")
@click.option("--context", type=int, metavar="TOKENS", help="Tokens fed at once (the protocol's L).")
@click.option("--stride", type=int, metavar="TOKENS", help="Tokens between windows (the protocol's S).")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, float16 or float64.  [default: float32]")
@click.option("--batch-tokens", type=click.IntRange(min=1), metavar="N", help="Tokens per batch, padding included.")
@click.option("-o", "--output", metavar="FILE", help="Write the report as JSON; - for standard output.")
@click.option("--tokens/--no-tokens", default=True, help="Keep ids and losses of single tokens in the report.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@_common
@click.pass_context
def run(ctx: click.Context, /, **options: Any) -> None:
    """Measure one or more models on one or more tasks.

    A SPEC is name[:argument][,key=value...], as in scratch:seed=7 or text:book.txt.

    \b
    Try:  evalgpt run -m scratch -t pairs
          evalgpt run -m scratch -t verdict -o report.json
          evalgpt run -m scratch -m scratch:seed=7 -t text:book.txt --protocol exact --stride 64
    """
    from evalgpt.run import RunOptions, run_all

    code = run_all(_state(ctx).plugins, RunOptions(**options), ctx.find_root().meta["evalgpt.command"])
    ctx.exit(code)


@cli.command()
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@_common
def show(reports: Sequence[str]) -> None:
    """Print the table of a report again; - reads standard input."""
    from evalgpt.render import print_evaluations
    from evalgpt.report import read_report

    read = [read_report(path) for path in reports]
    print_evaluations([evaluation for report in read for evaluation in report.evaluations])


@cli.command()
@_common
def schema() -> None:
    """Print the JSON Schema of a report."""
    import json

    from evalgpt.report import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


def _listing(kind: str, doc: str) -> None:
    @cli.command(f"{kind}s", help=doc)
    @click.argument("names", nargs=-1, metavar="[NAME]...")
    @_common
    @click.pass_context
    def listing(ctx: click.Context, names: Sequence[str]) -> None:
        plugins = _state(ctx).plugins
        for name in names or sorted(plugins.entries[kind]):
            entry = plugins.find(kind, name)
            text = inspect.cleandoc(entry.factory.__doc__ or "")
            summary, _, body = text.partition("\n\n")
            click.secho(name, bold=True, nl=False)
            click.echo("  " + " ".join(summary.split()))
            for line in body.splitlines() if kind == "protocol" or names else []:
                click.echo(f"    {line}")
            keys = ", ".join(
                k if v in (None, inspect.Parameter.empty) else f"{k}={v}" for k, v in entry.options.items()
            )
            if keys:
                click.echo(textwrap.fill(f"keys: {keys}", 100, initial_indent="    ", subsequent_indent="      "))


_listing("model", "List the models, with the keys that their specs take.")
_listing("task", "List the tasks, with the keys that their specs take.")
_listing("protocol", "Describe the protocols: which tokens are scored, and from which context.")


@cli.command()
@_common
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """List the plugins: what each adds, and which failed to load."""
    loaded = load_plugins(_state(ctx).extra)
    for plugin, _ in loaded.manager.list_name_plugin():
        adds = [
            f"{kind} {entry.name}"
            for kind, entries in loaded.entries.items()
            for entry in entries.values()
            if entry.plugin == plugin
        ]
        click.echo(f"{plugin}: {', '.join(adds) or 'adds nothing by name'}")
    for plugin, why in loaded.failures.items():
        click.echo(f"{plugin}: failed to load: {why}")


def main() -> None:
    """The ``evalgpt`` console script."""
    cli(prog_name="evalgpt")
