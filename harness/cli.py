"""The command line. Commands parse, call the Python API and print; heavy imports wait inside them."""

from __future__ import annotations

import errno
import inspect
import io
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import click

from evalgpt import cli_learn, cli_reports, cli_train
from evalgpt.plugins import load_plugins
from evalgpt.shell import Cli, Share, common, goes_with, models, names_of, output, running, state_of, targets_of, tasks
from evalgpt.specs import visible
from evalgpt.streams import finish, keep

__all__ = ["cli", "main"]


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="evalgpt", message="evalgpt %(version)s")
@common
def cli() -> None:
    """Measure how well language models predict text: loss, perplexity and bits per byte.

    \b
    Try:  evalgpt run --model scratch --task pairs
          evalgpt run --model scratch --task text:book.txt -o report.json
          evalgpt models
    """


def rarest(option: str) -> Callable[[Any], Any]:
    """The assumption behind ``option``, which stops before the whole text is scored."""
    return click.option(
        "--rarest",
        type=Share(),
        default="1%",
        show_default=True,
        help=f"Smallest share that a kind of window may have for {option} to hold.",
    )


for command in (
    cli_learn.explain,
    cli_learn.generate,
    cli_reports.export,
    cli_reports.html,
    cli_reports.show,
    cli_train.train,
):
    cli.add_command(command)


@cli.command()
@models(required=True, help="A model; see 'models'.")
@tasks(required=True, help="A task; see 'tasks'.")
@running
@output("the report")
@click.option("--precision", type=Share(), help="Stop when the perplexity is known this well, as in 1%.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order, with --precision."
)
@rarest("--precision")
@click.option(
    "--tokens/--no-tokens",
    default=None,
    help="Keep ids and losses of single tokens in the report.  [default: unless a text is too long to hold]",
)
@click.option("--detail", type=click.Choice(["parquet", "npz"]), help="Rank, entropy, top tokens, in a file by FILE.")
@click.option(
    "--top", type=click.IntRange(1, 1000), default=5, show_default=True, help="Likeliest tokens, with --detail."
)
@common
@click.pass_context
def run(ctx: click.Context, /, **options: Any) -> None:
    """Measure one or more models on one or more tasks.

    A SPEC is name[:argument][,key=value...], as in scratch:seed=7 or text:book.txt. A comma that belongs to a path or a
    value and stands before key= is written \\, as in 'text:a\\,b=c.txt'.

    \b
    Try:  evalgpt run -m scratch -t pairs
          evalgpt run -m scratch -t verdict -o report.json
          evalgpt run -m scratch -m scratch:seed=7 -t text:book.txt --protocol exact --stride 64
          evalgpt run -m smollm2 -t text:long.txt --precision 2%
    """
    from evalgpt.run import RunOptions, run_all

    goes_with(ctx, top="detail", seed="precision", rarest="precision")
    state = state_of(ctx)
    targets = targets_of(ctx)
    code = run_all(state.plugins, RunOptions(**options, debug=state.debug, targets=targets), targets.command)
    ctx.exit(code)


@cli.command()
@click.argument("reports", nargs=-1, metavar="[REPORT]...")
@models(help="A model to run; the first is the baseline.")
@tasks(help="A task to run them on.")
@running
@click.option("--kl", is_flag=True, help="Also the KL divergence from the baseline (one vocabulary).")
@click.option("--until-decided", is_flag=True, help="Stop when it is settled which of two is better on this text.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order, until decided.")
@rarest("--until-decided")
@click.option("--fail-if-worse", type=float, metavar="X", help="Exit 1 if worse by more than X bits per byte.")
@output("the comparison")
@click.option("--save-report", metavar="FILE", help="Keep the report of the runs.")
@common
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

    goes_with(ctx, seed="until_decided", rarest="until_decided")
    targets = targets_of(ctx)
    code = compare_all(state_of(ctx).plugins, CompareOptions(**options, targets=targets), targets.command)
    ctx.exit(code)


@cli.command()
@click.argument("model", metavar="[SPEC]", required=False, shell_complete=names_of("model"))
@click.option("--other", metavar="SPEC", help="The same kind of model with other weights, for the fingerprint.")
@click.option("--only", multiple=True, metavar="NAME", help="Run this check alone; may be given several times.")
@click.option("--expect", multiple=True, metavar="NAME=REASON", help="This check is known to fail, and why.")
@click.option("--list", "listing", is_flag=True, help="List the checks, and what each asserts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random texts that are scored.")
@click.option("--tolerance", type=float, metavar="NATS", help="By which equal scores may differ.  [default: by dtype]")
@click.option(
    "--longest", type=click.IntRange(min=1), default=4096, show_default=True, help="Longest window, in tokens."
)
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, float16, float64.  [default: float32]")
@output("the outcomes")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@common
@click.pass_context
def check(ctx: click.Context, /, model: str | None, listing: bool, **options: Any) -> None:
    """Check an adapter: shift, causality, padding, probabilities, tokenizer, fingerprint.

    Each check says what to look at when it fails; the exit code is then 1. Wrong adapters give plausible numbers.

    \b
    Try:  evalgpt check scratch
          evalgpt check --plugin my_plugin.py my-model:seed=1 --other my-model:seed=2
          evalgpt check hf:./my-model --expect round_trip="lower-cases by design"
    """
    from evalgpt.run_check import CheckOptions, check_all, list_checks

    if listing:
        list_checks()
    elif model is None:
        raise click.UsageError("Missing argument 'SPEC'.", ctx)
    else:
        ctx.exit(check_all(state_of(ctx).plugins, CheckOptions(model=model, **options, targets=targets_of(ctx))))


@cli.command()
@click.argument("reports", nargs=2, metavar="A B")
@click.option(
    "--number-a", metavar="NAME", help="A's number, as loss or word_perplexity.  [default: its tool's headline]"
)
@click.option("--number-b", metavar="NAME", help="B's number.")
@output("the steps")
@common
@click.pass_context
def explain_difference(
    ctx: click.Context, /, reports: tuple[str, str], number_a: str | None, number_b: str | None, output: str | None
) -> None:
    """Explain why two reports of one text have different perplexities.

    The gap is taken apart into averaging, unscored tokens, prefix, context, tokenizer and dtype, from the losses of
    single tokens that the reports keep. The parts sum to the whole.

    \b
    Try:  evalgpt run -m scratch -t story -p lm-eval -o a.json
          evalgpt run -m scratch -t story -p hf-strided -o b.json
          evalgpt explain-difference a.json b.json
    """
    from evalgpt.run_difference import explain_all

    explain_all(reports, (number_a, number_b), output, targets_of(ctx))


@cli.command()
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@click.option("--quick", is_flag=True, help="Score a random sample of the windows again, not all.")
@click.option("--windows", type=click.IntRange(min=1), default=16, show_default=True, help="How many for --quick.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample.")
@click.option("--tolerance", type=float, metavar="NATS", help="By which a loss may differ.  [default: by dtype]")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
@common
@click.pass_context
def verify(ctx: click.Context, /, **options: Any) -> None:
    """Make a report's evaluations again and compare: weights, text, windows, every loss, every number.

    Exit code 0 only if all of it holds. The specs in the report are built again here, so relative paths are looked for
    from this folder.

    \b
    Try:  evalgpt verify report.json
          evalgpt verify report.json --quick --windows 8
    """
    from evalgpt.run_verify import VerifyOptions, verify_all

    ctx.exit(verify_all(state_of(ctx).plugins, VerifyOptions(**options)))


@cli.command()
@click.argument("action", type=click.Choice(["info", "clear"]), default="info")
@common
def cache(action: str) -> None:
    """Say what scores are kept between runs, or delete them.

    Windows that were scored before are not scored again, in a repeated run, under another protocol, or after a run was
    killed. The file is cut back to $EVALGPT_CACHE_LIMIT MiB (1024), the longest unused first; $EVALGPT_CACHE is the
    folder it is in.
    """
    from evalgpt.cache import ScoreCache

    found = ScoreCache().info() if action == "info" else ScoreCache().clear()
    size = f"{found.windows} windows, {found.bytes / 2**20:.1f} MiB"
    limit = f" of {found.limit >> 20}" if action == "info" else " deleted"
    click.echo(f"{visible(str(found.path))}: {size}{limit}")


@cli.command()
@click.argument(
    "what",
    type=click.Choice(["report", "comparison", "difference", "check", "explanation", "generation", "training"]),
    default="report",
)
@common
def schema(what: str) -> None:
    """Print the JSON Schema of a report, or of what another command writes with -o."""
    import json

    import msgspec

    from evalgpt.compare import Comparisons
    from evalgpt.difference import Differences
    from evalgpt.explanation import Explanation
    from evalgpt.generation import Generation
    from evalgpt.report import Report, json_schema
    from evalgpt.testing import Checked
    from evalgpt.training_log import Training

    documents: dict[str, type[msgspec.Struct]] = {
        "report": Report,
        "comparison": Comparisons,
        "difference": Differences,
        "check": Checked,
        "explanation": Explanation,
        "generation": Generation,
        "training": Training,
    }
    click.echo(json.dumps(json_schema(documents[what]), indent=2))


def _listing(kind: str, doc: str) -> None:
    @cli.command(f"{kind}s", help=doc)
    @click.argument("names", nargs=-1, metavar="[NAME]...")
    @common
    @click.pass_context
    def listing(ctx: click.Context, names: Sequence[str]) -> None:
        plugins = state_of(ctx).plugins
        for name in names or sorted(plugins.entries[kind]):
            entry = plugins.find(kind, name)
            _, _, body = entry.doc.partition("\n\n")
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
@common
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """List the plugins: what each adds, and which failed to load."""
    loaded = load_plugins(state_of(ctx).extra)
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
    keep()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a result is not lost to a name the terminal cannot spell
    try:
        cli(prog_name="evalgpt")
        code: Any = 0
    except SystemExit as stop:
        code = stop.code
    failed = finish()
    if failed is not None and not code:
        code = 1
        if failed.errno != errno.EPIPE:
            click.echo(f"evalgpt: error: cannot write standard output: {failed.strerror}", err=True)
    sys.exit(code)
