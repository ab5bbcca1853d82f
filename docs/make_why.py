"""Write docs/why.md: one text, one model, one row for every protocol and averaging, and what makes each gap.

``python docs/make_why.py`` takes some minutes on two cores; ``--model`` and ``--task`` choose others.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import evalgpt
from evalgpt.studies.compare.difference import explain, numbers_of

PAGE = Path(__file__).parent / "why.md"

ROWS = (
    ("exact:context=512,stride=256", ("loss",), {}),
    ("exact:context=2048,stride=1024", ("loss",), {}),
    ("exact:context=512,stride=64", ("loss",), {}),
    ("exact:context=512,stride=512", ("loss",), {}),
    ("exact:context=512,stride=256,prefix=none", ("loss",), {}),
    ("exact:context=512,stride=256", ("loss",), {"dtype": "bfloat16"}),
    ("hf-strided:context=512,stride=256", ("perplexity_v1", "perplexity_v2", "perplexity_v3"), {}),
    ("hf-strided:context=512,stride=512", ("perplexity_v1", "perplexity_v2", "perplexity_v3"), {}),
    ("llama.cpp:context=512", ("perplexity",), {}),
    ("book:context=256,stride=256", ("train_loss", "validation_loss"), {}),
    ("lm-eval:context=512", ("loss", "word_perplexity", "byte_perplexity"), {}),
)
"""The first is what the others are held against."""

CAUSES = ("averaging", "unscored tokens", "prefix", "context", "dtype", "tokenizer")

TEXT = """# Why does my perplexity differ?

Two tools, one model, one text, and two perplexities. Neither need be wrong: "perplexity" leaves open which tokens are
scored, what each is predicted from, and what is averaged. evalgpt has the tools' ways by name, so one run of each shows
what they make of the same predictions. Here they are for `{model}` on `{task}`, each held against the first row. Per
token, the same model on the same text has perplexities from {low} to {high}.

{table}

*from the first* is the difference of the logarithms of the two perplexities; the columns behind it are the causes, in
nats, and sum to it. `evalgpt explain-difference` prints them for any two reports. 0.01 nats are one per cent of a
perplexity. bits/byte is that of the tokens which that protocol scores.

Made by `python docs/make_why.py` with evalgpt {version}, in float32 unless the row says otherwise.

## The causes

- **averaging**: what is averaged over. A mean of window means (`hf-strided` v2) gives a short last window the weight of
  a long one; a mean per word or per byte (`lm-eval`) is another quantity altogether, no number of tokens.
- **unscored tokens**: llama.cpp scores the second half of each chunk, `book` splits off a tenth and leaves the tails,
  and without BOS the first token has no prediction. The tokens left out may be harder or easier than the others.
- **prefix**: whether BOS (or EOS) stands in front. Some models were trained to expect it.
- **context**: how many tokens each is predicted from. With a stride as long as the context, each window begins with
  tokens predicted from next to nothing. The longer the context, the lower the loss, up to what the model can use.
- **dtype**: rounding to bfloat16.
- **tokenizer**: where a text is cut before it is tokenized, the tokens at the cut are others. Between two tokenizers
  perplexities per token cannot be compared at all: compare bits per byte (`evalgpt compare`).

## What to do

Name the protocol beside the number: `evalgpt run` writes it into the report, and `evalgpt compare` refuses two reports
whose protocols differ. To reproduce a published number, take the protocol of the tool that made it; to measure a model,
take `exact`, which scores every token once, and state context and stride. If two numbers still differ:

```bash
evalgpt explain-difference theirs.json mine.json   # what makes how much of the gap
evalgpt verify theirs.json                         # is their report true here?
evalgpt check hf:./my-model                        # is the adapter right?
```
"""


def rows(model: str, task: str) -> list[list[str]]:
    """The table's rows for ``model`` on ``task``."""
    found: list[list[str]] = []
    base: evalgpt.Evaluation | None = None
    built: dict[str, evalgpt.Model] = {}
    for protocol, names, options in ROWS:
        dtype = options.get("dtype", "float32")
        if dtype not in built:
            built[dtype] = evalgpt.load_plugins().model(model, dtype=dtype)
        evaluation = evalgpt.evaluate(built[dtype], task, protocol)
        base = base or evaluation
        found += [_row(base, evaluation, protocol, name) for name in names]
    return found


def _row(base: evalgpt.Evaluation, evaluation: evalgpt.Evaluation, protocol: str, name: str) -> list[str]:
    gap = explain(base, evaluation, ("loss", name))
    shares = {step.name: step.nats for step in gap.steps}
    nats = numbers_of(evaluation)[name]
    metrics = evaluation.splits.get(name.removesuffix("_loss"), evaluation.metrics)
    bits = metrics.bits_per_byte
    dtype = "" if evaluation.model.dtype == base.model.dtype else f", {evaluation.model.dtype}"
    return [
        f"`{protocol}`{dtype}",
        "token mean" if name == "loss" else name.replace("_", " "),
        f"{math.exp(nats):.4f}" if nats < 20 else f"{math.exp(nats):.4g}",
        "" if bits is None else f"{bits:.4f}",
        str(metrics.scores),
        f"{gap.nats:+.4f}",
        *(f"{shares[cause]:+.4f}" if abs(shares.get(cause, 0.0)) >= 5e-5 else "" for cause in CAUSES),
    ]


def page(model: str, task: str) -> str:
    """The page, with its table as a run gives it."""
    found = rows(model, task)
    per_token = [float(row[2]) for row in found if not row[1].startswith(("word", "byte"))]
    low, high = f"{min(per_token):.2f}", f"{max(per_token):.2f}"
    made = _table(found)
    return TEXT.format(model=model, task=task, table=made, low=low, high=high, version=evalgpt.__version__)


def _table(found: list[list[str]]) -> str:
    header = ["protocol", "number", "perplexity", "bits/byte", "tokens", "from the first", *CAUSES]
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)], *found]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--task", default="verdict")
    options = parser.parse_args()
    PAGE.write_text(page(options.model, options.task), encoding="utf-8")


if __name__ == "__main__":
    main()
