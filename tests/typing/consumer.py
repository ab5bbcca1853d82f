"""A user's own plugin and script: what test_typing.py gives mypy and pyright in strict mode. It is never run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import torch
from numpy.typing import NDArray

import evalgpt
from evalgpt import testing
from evalgpt.adapters.base import TorchModel, fingerprint
from evalgpt.core.hooks import Register
from evalgpt.protocols import Protocol


class Unigram(evalgpt.Model):
    """A model written against the core alone."""

    def __init__(self, seed: int) -> None:
        self.name = "unigram"
        self.fingerprint = f"unigram-{seed}"
        self.context_length = 1024
        self.vocab_size = 256
        self.losses: NDArray[np.float32] = np.full(256, np.log(256), dtype=np.float32)

    def encode(self, text: str) -> evalgpt.Encoding:
        ids = list(text.encode())
        return evalgpt.Encoding(ids, [(i, i + 1) for i in range(len(ids))])

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def score(
        self, windows: Sequence[evalgpt.Window], detail: evalgpt.Detail | None = None
    ) -> Sequence[evalgpt.TokenScores]:
        return [evalgpt.TokenScores(self.losses[list(w.ids[w.start :])]) for w in windows]


class Bigram(TorchModel):
    """A model in torch: two methods beside the tokenizer's."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        self.table = torch.nn.Embedding(256, 16)
        self.name = "bigram"
        self.fingerprint = fingerprint(self.table.state_dict().items())
        self.context_length = 512
        self.vocab_size = 256

    def encode(self, text: str) -> evalgpt.Encoding:
        return evalgpt.Encoding(list(text.encode()), None)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.table(ids)
        return states

    def unembedding(self) -> torch.Tensor:
        return self.table.weight


class Haiku(evalgpt.Task):
    """A task with a metric of its own."""

    name = "haiku"
    default_protocol = "exact:prefix=none"

    def documents(self) -> Iterator[evalgpt.Document]:
        yield evalgpt.Document("frog", "a frog jumps into the pond\n", context="an old silent pond\n", group="haiku")

    def metrics(self, rows: Iterable[evalgpt.Row]) -> Mapping[str, float]:
        return {"lines": float(sum(row.text.count("\n") for row in rows))}


def make_unigram(argument: str | None, *, seed: int = 0) -> evalgpt.Model:
    """Byte frequencies, no context."""
    if argument is not None:
        raise evalgpt.UsageError("unigram takes no argument")
    return Unigram(seed)


def make_haiku(argument: str | None) -> evalgpt.Task:
    """Three lines."""
    return Haiku()


@evalgpt.hookimpl
def register_models(register: Register) -> None:
    register("unigram", make_unigram)


@evalgpt.hookimpl
def register_tasks(register: Register) -> None:
    register("haiku", make_haiku)


@testing.parametrize(lambda: Unigram(1), other=lambda: Unigram(2), expected={"padding": "a reason"}, longest=64)
def test_unigram(check: Any) -> None:
    check()


def numbers(evaluation: evalgpt.Evaluation) -> tuple[float, float]:
    """The numbers a study reads, with the types it relies on."""
    metrics = evaluation.metrics
    assert_type(metrics.scores, int)
    assert_type(metrics.loss, float)
    assert_type(metrics.perplexity, float | None)
    assert_type(metrics.bits_per_byte, float | None)
    assert_type(evaluation.ledger.scores, int)
    assert_type(evaluation.peer, dict[str, float | None])
    assert_type(evaluation.model.fingerprint, str)
    assert_type(evaluation.protocol.settings, dict[str, Any])
    for row in evaluation.rows:
        assert_type(row.loss, float | None)
        if row.tokenized is not None:
            assert_type(row.tokenized.ids, list[int])
            assert_type(row.tokenized.nll, list[float])
    if metrics.bits_per_byte is None:
        raise evalgpt.EvaluationError("the text has no bytes")
    return metrics.loss, metrics.bits_per_byte


def study(folder: Path) -> int:
    """Evaluate, write, read, explain and generate."""
    by_name = evalgpt.evaluate("scratch:seed=7", "pairs", "exact:stride=64", device="cpu", dtype="float32")
    own = evalgpt.evaluate(Bigram(), Haiku(), batch_tokens=512, tokens=True)
    assert_type(own, evalgpt.Evaluation)
    how = evalgpt.Options(batch_tokens=512, precision=0.1)
    evalgpt.evaluate(Bigram(), Haiku(), None, how, seed=3)
    report = evalgpt.make_report([by_name, own], ["study"])
    assert_type(report, evalgpt.Report)
    evalgpt.write_report(report, str(folder / "report.json"))
    again = evalgpt.read_report(str(folder / "report.json"))
    assert_type(again, evalgpt.Report)
    assert_type(again.evaluations, list[evalgpt.Evaluation])
    better = evalgpt.compare("scratch:seed=7", Bigram(), Haiku(), options=how, kl=True, cache=None)
    assert_type(better, evalgpt.Comparison)
    assert_type(better.bits_per_byte_difference.value, float)
    assert_type(evalgpt.compare(by_name, report).unit, str)
    evalgpt.compare("scratch", "smollm2", "pairs", None, evalgpt.ComparisonOptions(until_decided=True), seed=3)
    verified = evalgpt.verify(report, "scratch:seed=7", Haiku(), "exact", windows=16, device="cpu")
    assert_type(verified, evalgpt.Verified)
    assert_type(evalgpt.verify(own, options=evalgpt.VerificationOptions(seed=1)).largest, float)
    loss, bits = numbers(again.evaluations[0])
    plugins = evalgpt.load_plugins()
    assert_type(plugins.model("scratch"), evalgpt.Model)
    assert_type(plugins.task("pairs"), evalgpt.Task)
    assert_type(plugins.protocol("exact"), Protocol)
    walk = evalgpt.explain(Unigram(1), ["Every effort moves you"], top=2)
    assert_type(walk, evalgpt.Explanation)
    assert_type(evalgpt.generate(Bigram(), "Every effort", tokens=5), evalgpt.Generation)
    drawn = evalgpt.GenerationOptions(sampling=evalgpt.Sampling(temperature=1.0))
    evalgpt.generate(Bigram(), "Every effort", drawn, prefix=False)
    outcomes = testing.run_checks(testing.Subject(lambda: Unigram(1)), only=["shift", "causality"])
    good = all(assert_type(outcome.good, bool) for outcome in outcomes)
    try:
        evalgpt.evaluate("no-such-model", "pairs")
    except evalgpt.EvalgptError as error:
        assert_type(error.exit_code, int)
        return error.exit_code
    return 0 if good and loss > 0 and bits > 0 else 1
