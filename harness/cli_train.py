"""The command ``evalgpt train``: it parses; the rest is evalgpt.run_train's, imported when it is called."""

from __future__ import annotations

from typing import Any

import click

from evalgpt.core import UsageError
from evalgpt.shell import Share, common, overwriting, state_of, targets_of

__all__ = ["train"]

COUNT = click.IntRange(min=1)
POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option("-m", "--model", metavar="SPEC", help="The model to train; see 'models'.")
@click.option("-t", "--task", metavar="SPEC", help="The text to train on; see 'tasks'.")
@click.option("-o", "--output", metavar="FOLDER", help="Where checkpoints and the log go.")
@click.option("--resume", metavar="FOLDER", help="Go on with a run that was stopped, to the same weights.")
@click.option("--epochs", type=COUNT, help="Passes over the training windows.  [default: 10]")
@click.option("--steps", type=COUNT, help="Updates, instead of epochs.")
@click.option("--batch", type=COUNT, help="Windows in a batch.  [default: 2]")
@click.option("--accumulate", type=COUNT, help="Batches in an update.  [default: 1]")
@click.option("--learning-rate", "--lr", type=POSITIVE, help="Of AdamW.  [default: 0.0004]")
@click.option("--warmup", type=click.IntRange(min=0), help="Updates until it is reached.  [default: 0]")
@click.option("--decay", type=click.Choice(["none", "cosine"]), help="How it falls after that.  [default: none]")
@click.option("--min-learning-rate", type=click.FloatRange(min=0), help="Where the cosine ends.  [default: 0]")
@click.option("--weight-decay", type=click.FloatRange(min=0), help="Of AdamW, on every weight.  [default: 0.1]")
@click.option("--clip", type=POSITIVE, help="The largest norm of the gradient.  [default: any]")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Of shuffling and dropout.  [default: the model's goes on]"
)
@click.option("--context", type=COUNT, metavar="TOKENS", help="Tokens in a window.  [default: 256]")
@click.option("--stride", type=COUNT, metavar="TOKENS", help="Tokens between windows.  [default: the context]")
@click.option("--eval-every", type=COUNT, help="Updates between evaluations.  [default: 5]")
@click.option("--eval-iter", type=COUNT, help="Also the course's partial losses, over so many batches.")
@click.option("--save-every", type=COUNT, help="Updates between checkpoints.  [default: after each epoch]")
@click.option("--sample", metavar="TEXT", help="What the text written after each epoch begins with; '' for none.")
@click.option("--sample-tokens", type=COUNT, help="Its length.  [default: 50]")
@click.option("--memorised", type=Share(), help="From which probability a token is known by heart.  [default: 0.9]")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option("--dtype", metavar="DTYPE", help="float32, bfloat16, float64.  [default: float32]")
@click.option("-q", "--quiet", is_flag=True, help="Only what the run came to.")
@overwriting
@common
@click.pass_context
def train(ctx: click.Context, /, output: str | None, resume: str | None, quiet: bool, **options: Any) -> None:
    """Train a model on a text, watched by the harness, with checkpoints.

    The defaults are those of the from-scratch course (LLMs-from-scratch, chapter 5): the text cut into 90 % to train on
    and 10 % to validate with, windows of 256 tokens, AdamW. The losses are evaluations by protocol book, as 'run' makes
    them. FOLDER gets best.safetensors (the lowest validation loss), last.safetensors and training.json.

    \b
    Try:  evalgpt train -m scratch -t verdict -o run
          evalgpt train --resume run
          evalgpt compare -m scratch -m scratch:weights=run/best.safetensors -t verdict
          evalgpt train -m gpt2:./gpt2 -t text:book.txt -o tuned --epochs 2 --learning-rate 5e-5 --clip 1
    """
    from evalgpt.run_train import begin_run, resume_run

    given = {name: value for name, value in options.items() if value is not None}
    plugins = state_of(ctx).plugins
    if resume is not None:
        if output is not None or given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in (*given, *(["output"] if output else [])))
            raise UsageError(f"--resume goes on with the run's own settings; leave out {names}")
        resume_run(plugins, resume, quiet)
        return
    for name, value in (("-m", given.get("model")), ("-t", given.get("task")), ("-o", output)):
        if value is None:
            raise UsageError(f"train needs {name}, or --resume FOLDER; see evalgpt train --help")
    if "steps" in given and "epochs" in given:
        raise UsageError("--steps is instead of --epochs; give one of them")
    begin_run(plugins, given, str(output), quiet, targets_of(ctx))
