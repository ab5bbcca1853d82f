"""Reports as a section of a model card: a table, sentences, and the ``model-index`` that Hugging Face reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from evalgpt.core import UsageError
from evalgpt.core.text import visible
from evalgpt.report.document import Evaluation, describe_protocol
from evalgpt.report.metrics import Metrics
from evalgpt.views.export.base import Exported, Source, accuracies, by_model, called, parts
from evalgpt.views.wording.evaluation import sentences

__all__ = ["BEGINS", "escape", "to_markdown"]


BEGINS = b"---\nmodel-index:\n"

LOSSES = ("model", "text", "protocol", "tokens", "loss", "perplexity", "95 % interval", "bits/byte", "95 % interval")

ACCURACIES = ("model", "text", "pairs", "accuracy", "95 % interval", "accuracy per byte", "95 % interval")

INDEXED = {"loss": "Loss (nats per token)", "perplexity": "Perplexity", "bits_per_byte": "Bits per byte"}
"""The metrics of ``model-index``, with their names there."""

SPECIAL = re.compile(r"[\\`*\[\]<>|&~$#]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown may take as markup. Inside a word, as in n_layers, an underscore is none."""


def to_markdown(sources: Sequence[Source]) -> list[Exported]:
    """Front matter, then the tables, then what they say in words; the front matter has the numbers in full.

    Raises:
        UsageError: PyYAML is missing.
    """
    found = [e for source in sources for e in source.report.evaluations]
    front = _yaml({"model-index": _index(found)})
    lines = ["---", *front.rstrip("\n").split("\n"), "---", "", "## Evaluation", ""]
    lines += _table(LOSSES, [row for e in found for row in _losses(e)], left=3)
    pairs = [row for e in found for row in _accuracies(e)]
    if pairs:
        lines += ["", *_table(ACCURACIES, pairs, left=2)]
    lines += [
        "",
        "Loss is in nats per token, perplexity is its exponential, bits per byte are of the text's UTF-8 bytes.",
    ]
    for e in found:
        lines += ["", f"**{_name(e)}**, protocol {escape(describe_protocol(e))}:", ""]
        lines += [f"- {escape(sentence)}" for sentence in sentences(e)]
        lines.append(
            f"- weights {escape(e.model.fingerprint)}, {escape(e.model.dtype)}; text sha256:{escape(e.task.sha256)}"
        )
    made = {f"evalgpt {source.report.run.software.get('evalgpt', '')}".strip() for source in sources}
    lines += ["", f"Measured with {', '.join(sorted(map(escape, made)))}."]
    return [Exported("evaluations.md", ("\n".join(lines) + "\n").encode())]


def escape(text: str) -> str:
    """``text`` on one line, as Markdown (GitHub's, Hugging Face's) shows it as it is, also in a table."""
    return SPECIAL.sub(lambda match: "\\" + match[0], visible(text))


def _name(evaluation: Evaluation) -> str:
    return f"{escape(called(evaluation.model))} on {escape(evaluation.task.spec or evaluation.task.name)}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    rule = ["---" if number < left else "---:" for number in range(len(headers))]
    return [f"| {' | '.join(cells)} |" for cells in (headers, rule, *rows)]


def _losses(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    model, text = escape(called(evaluation.model)), escape(evaluation.task.spec or evaluation.task.name)
    protocol = escape(describe_protocol(evaluation))
    for split, m in parts(evaluation):
        named = (model, text, protocol) if not split else (model, f"{text}, {escape(split)}", protocol)
        yield (*named, str(m.scores), f"{m.loss:.4f}", *_with_intervals(m))


def _with_intervals(metrics: Metrics) -> tuple[str, str, str, str]:
    spread = metrics.uncertainty
    perplexity, bits = (None, None) if spread is None else (spread.perplexity, spread.bits_per_byte)
    return (
        _number(metrics.perplexity, "beyond a float"),
        _interval(perplexity),
        "" if metrics.bits_per_byte is None else f"{metrics.bits_per_byte:.4f}",
        "" if bits is None else f"{bits[0]:.4f} to {bits[1]:.4f}",
    )


def _interval(bounds: tuple[float | None, float | None] | None) -> str:
    return "" if bounds is None else " to ".join(_number(bound, "beyond a float") for bound in bounds)


def _number(value: float | None, without: str) -> str:
    return without if value is None else f"{value:.2f}" if value < 1e9 else f"{value:.4g}"


def _accuracies(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    model, text = escape(called(evaluation.model)), escape(evaluation.task.spec or evaluation.task.name)
    for paradigm, numbers in accuracies(evaluation).items():
        cells = []
        for name in ("accuracy", "accuracy_per_byte"):
            bounds = [numbers.get(f"{name}{end}") for end in ("_low", "_high")]
            cells.append(f"{numbers[name]:.4f}" if name in numbers else "")
            cells.append(" to ".join(f"{bound:.4f}" for bound in bounds if bound is not None))
        yield (model, f"{text}, {escape(paradigm)}" if paradigm else text, f"{numbers['pairs']:g}", *cells)


def _index(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Hugging Face's model-index (hub-docs, modelcard.md), one entry for each model."""
    return [
        {"name": _quoted(called(found[0].model)), "results": [result for e in found for result in _results(e)]}
        for found in by_model(evaluations)
    ]


def _results(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """One result for each split with its losses; the accuracies stand with the whole."""
    spec = evaluation.task.spec or evaluation.task.name
    for split, metrics in parts(evaluation):
        dataset = {"name": spec, "type": evaluation.task.name, "config": describe_protocol(evaluation)}
        dataset |= {"split": split} if split else {}
        dataset["revision"] = f"sha256:{evaluation.task.sha256}"
        values = {name: getattr(metrics, name) for name in INDEXED}
        listed = [{"type": k, "name": INDEXED[k], "value": v} for k, v in values.items() if v is not None]
        for paradigm, numbers in accuracies(evaluation).items() if not split else ():
            name = f"Accuracy, {paradigm}" if paradigm else "Accuracy"
            listed.append({"type": "accuracy", "name": _quoted(name), "value": numbers["accuracy"]})
        yield {
            "task": {"type": "text-generation", "name": "Text Generation"},
            "dataset": {key: _quoted(text) for key, text in dataset.items()},
            "metrics": listed,
        }


class _Quoted(str):
    """A string that is written in double quotes, so that YAML 1.1 and 1.2 both read a string: 1e5, no, 0o17."""

    __slots__ = ()


def _yaml(value: object) -> str:
    """Block YAML.

    Raises:
        UsageError: PyYAML is missing.
    """
    try:
        import yaml
    except ModuleNotFoundError:
        raise UsageError(
            "a model card needs PyYAML, which is not installed; install evalgpt's extra markdown: "
            "pip install 'evalgpt[markdown]', or '.[markdown]' in a clone of it"
        ) from None

    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})  # a class of its own: representers are kept by class
    tag = "tag:yaml.org,2002:str"
    dumper.add_representer(_Quoted, lambda own, text: own.represent_scalar(tag, str(text), style='"'))
    text: str = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, width=math.inf)
    return text


def _quoted(text: str) -> _Quoted:
    return _Quoted(visible(text))
