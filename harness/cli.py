"""The command line. Commands parse, call the Python API and print; heavy imports wait inside them."""

from __future__ import annotations

import contextlib
import errno
import inspect
import io
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import click

from evalgpt.core import EvalgptError, UsageError
from evalgpt.plugins import Plugins, load_plugins
from evalgpt.specs import visible

__all__ = ["cli", "main"]

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """An error as the terminal shows it: one line, and the exit code that scripts read."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(" ".join(message.split()))
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
        with _in_one_line(lambda: _state(ctx).debug):
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._from_plugins(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._from_plugins(ctx).get(cmd_name)

    def _from_plugins(self, ctx: click.Context) -> dict[str, click.Command]:
        plugins = _state(ctx).plugins
        found: dict[str, click.Command] = {}
        for name, plugin in plugins.manager.list_name_plugin():
            others = [other for other in plugins.manager.get_plugins() if other is not plugin]
            group = click.Group()
            try:
                plugins.manager.subset_hook_caller("register_commands", remove_plugins=others)(cli=group)
            except Exception as error:  # one plugin's commands are not worth all the others
                why = visible(" ".join(f"{type(error).__name__}: {error}".split()))
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
        raise Failure(f"{error.format_message()} See {where} --help", 2) from None
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if debug() or (isinstance(error, OSError) and error.errno == errno.EPIPE):
            raise
        if isinstance(error, EvalgptError):
            raise Failure(str(error), error.exit_code) from None
        # A bug, here or in a plugin, or a machine at its limits: still one line.
        raise Failure(f"{type(error).__name__}: {error} (unexpected; --debug shows where)", 1) from None


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


def _running(function: F) -> F:
    """Options of the commands that run models."""
    for option in reversed(
        [
            click.option("-p", "--protocol", metavar="SPEC", help="Which tokens are scored; see 'protocols'."),
            click.option("--context", type=int, metavar="TOKENS", help="Tokens fed at once (the protocol's L)."),
            click.option("--stride", type=int, metavar="TOKENS", help="Tokens between windows (the protocol's S)."),
            click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]"),
            click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, float16, float64.  [default: float32]"),
            click.option("--batch-tokens", type=click.IntRange(min=1), metavar="N", help="Tokens per batch, padded."),
            click.option("-q", "--quiet", is_flag=True, help="No progress on standard error."),
        ]
    ):
        function = option(function)
    return function


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
@_running
@click.option("-o", "--output", metavar="FILE", help="Write the report as JSON; - for standard output.")
@click.option("--tokens/--no-tokens", default=True, help="Keep ids and losses of single tokens in the report.")
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

    state = _state(ctx)
    code = run_all(state.plugins, RunOptions(**options, debug=state.debug), ctx.find_root().meta["evalgpt.command"])
    ctx.exit(code)


@cli.command()
@click.argument("reports", nargs=-1, metavar="[REPORT]...")
@click.option(
    "-m", "--model", "models", metavar="SPEC", multiple=True, help="A model to run; the first is the baseline."
)
@click.option("-t", "--task", "tasks", metavar="SPEC", multiple=True, help="A task to run them on.")
@_running
@click.option("--kl", is_flag=True, help="Also the KL divergence from the baseline (one vocabulary).")
@click.option("--fail-if-worse", type=float, metavar="X", help="Exit 1 if worse by more than X bits per byte.")
@click.option("-o", "--output", metavar="FILE", help="Write the comparison as JSON; - for standard output.")
@click.option("--save-report", metavar="FILE", help="Keep the report of the runs.")
@_common
@click.pass_context
def compare(ctx: click.Context, /, **options: Any) -> None:
    """Compare models on the same text: which is better, by how much, and how sure.

    Give reports made by 'run -o', or models and tasks to run. The first is the baseline. With one tokenizer, tokens are
    paired; with different ones, stretches of the same bytes.

    \b
    Try:  evalgpt compare before.json after.json
          evalgpt compare -m scratch -m smollm2 -t verdict
          evalgpt compare before.json after.json --fail-if-worse 0.01
    """
    from evalgpt.run_compare import CompareOptions, compare_all

    code = compare_all(_state(ctx).plugins, CompareOptions(**options), ctx.find_root().meta["evalgpt.command"])
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
@click.argument("what", type=click.Choice(["report", "comparison"]), default="report")
@_common
def schema(what: str) -> None:
    """Print the JSON Schema of a report, or of a comparison."""
    import json

    from evalgpt.compare import Comparisons
    from evalgpt.report import Report, json_schema

    click.echo(json.dumps(json_schema(Report if what == "report" else Comparisons), indent=2))


def _listing(kind: str, doc: str) -> None:
    @cli.command(f"{kind}s", help=doc)
    @click.argument("names", nargs=-1, metavar="[NAME]...")
    @_common
    @click.pass_context
    def listing(ctx: click.Context, names: Sequence[str]) -> None:
        plugins = _state(ctx).plugins
        for name in names or sorted(plugins.entries[kind]):
            entry = plugins.find(kind, name)
            _, _, body = inspect.cleandoc(entry.factory.__doc__ or "").partition("\n\n")
            click.secho(name, bold=True, nl=False)
            click.echo(f"  {entry.summary}")
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
        click.echo(f"{plugin}: failed to load: {visible(why)}")


def main() -> None:
    """The ``evalgpt`` console script."""
    # Threads that spin while they wait starve each other on a busy machine: 2 to 40 times slower with two jobs on two
    # cores. On an idle one, waiting asleep costs a GPT of 124M 4 %, and a tiny one 40 %.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a result is not lost to a name the terminal cannot spell
    cli(prog_name="evalgpt")
