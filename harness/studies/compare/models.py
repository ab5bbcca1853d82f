"""``evalgpt.compare``: two models on one text, or two evaluations of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Unpack

import msgspec

from evalgpt.core import Model, Task, UsageError
from evalgpt.core.guard import calling
from evalgpt.core.options import choose_options
from evalgpt.core.plugins import built, default_plugins
from evalgpt.core.protocol import Protocol
from evalgpt.core.validation import documents_of
from evalgpt.report.describe import only_evaluation
from evalgpt.report.document import Evaluation, Report
from evalgpt.scoring.batching import BatchSize
from evalgpt.scoring.engine import Result, bind, plan_windows, row_of
from evalgpt.scoring.evaluate import assemble, built_task, evaluate, scorer_for
from evalgpt.scoring.options import Changes, Options
from evalgpt.studies.compare import comparison
from evalgpt.studies.compare.comparison import Comparison, Decision, Divergence
from evalgpt.studies.compare.decide import until_decided
from evalgpt.studies.compare.divergence import check_models, diverge

__all__ = ["ComparisonChanges", "ComparisonOptions", "compare", "decide", "divergence_of", "share_context"]


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(Options):
    """The options of :func:`evalgpt.compare`: those of :class:`evalgpt.Options`, and two more.

    Args:
        kl: also the KL divergence of the candidate from the baseline, which needs one vocabulary.
        until_decided: stop when it is settled which has the lower loss on the whole text; windows are then scored in
            the random order of ``seed``, and ``rarest`` holds as with a precision.
    """

    kl: bool = False
    until_decided: bool = False

    def check(self) -> None:
        """Raise UsageError for what a comparison cannot have."""
        if self.until_decided and self.kl:
            raise UsageError("kl needs the whole text, and until_decided stops earlier; give one of them")
        if self.precision is not None:
            raise UsageError("a comparison takes no precision; until_decided=True stops when the better model is known")
        if self.tokens is False:
            raise UsageError("a comparison needs the losses of single tokens; leave out tokens=False")
        if self.until_decided and self.detail is not None:
            raise UsageError("detail needs the whole text, and until_decided stops earlier; give one of them")


class ComparisonChanges(Changes, total=False):
    """The fields of :class:`ComparisonOptions` as keywords, so that a type checker knows them."""

    kl: bool
    until_decided: bool


def compare(
    baseline: Model | Evaluation | Report | str,
    candidate: Model | Evaluation | Report | str,
    task: Task | str | None = None,
    protocol: Protocol | str | None = None,
    options: Options | None = None,
    **changes: Unpack[ComparisonChanges],
) -> Comparison:
    """Compare two models on one text: which predicts it better, by how much, and how sure.

    Args:
        baseline, candidate: two models, built or as specs; or two evaluations, or reports with one each.
        task: a Task, or a spec such as ``"text:book.txt"``; needed with models, and refused with evaluations, as are
            ``protocol``, ``options`` and ``changes``.
        protocol: a Protocol, or a spec such as ``"exact:stride=64"``; the task's own by default. Where it gives no
            context, both models get the smaller of their defaults.
        options: how to evaluate, ``Options`` or ``ComparisonOptions``.
        changes: fields of ``options`` to replace, as in ``kl=True``.

    Returns:
        The comparison: ``.bits_per_byte_difference`` and ``.loss_difference`` (nats per token), candidate minus
        baseline, with intervals; ``.unit`` says whether tokens were paired or, with two tokenizers, spans of bytes.

    Raises:
        UsageError: the two cannot be compared; the message names the field that differs, or what is missing.
        EvaluationError: the text or a model cannot be evaluated. TypeError: an unknown keyword.
    """
    if isinstance(baseline, (Evaluation, Report)) or isinstance(candidate, (Evaluation, Report)):
        if not isinstance(baseline, (Evaluation, Report)) or not isinstance(candidate, (Evaluation, Report)):
            raise UsageError("a comparison is of two models, or of two evaluations; evaluate the model first")
        if task is not None or protocol is not None or options is not None or changes:
            raise UsageError("task, protocol and options go with models to run, not with evaluations that are there")
        return comparison.compare(only_evaluation(baseline), only_evaluation(candidate))
    chosen = choose_options(ComparisonOptions, options, changes)
    chosen.check()
    if task is None:
        raise UsageError("a comparison of two models needs a task")
    task = built_task(task)
    if protocol is None or isinstance(protocol, str):
        protocol = default_plugins().protocol(protocol or task.default_protocol)
    models = (built(baseline, chosen.device, chosen.dtype), built(candidate, chosen.device, chosen.dtype))
    return _compare(models, task, share_context(protocol, models)[0], chosen)


def _compare(models: tuple[Model, Model], task: Task, protocol: Protocol, options: ComparisonOptions) -> Comparison:
    if options.kl:
        check_models(models)
    if options.until_decided:
        decision, pair = decide(models, task, protocol, options)
        return msgspec.structs.replace(comparison.compare(*pair), decision=decision)
    how = {field.name: getattr(options, field.name) for field in fields(Options)}
    how |= {"device": None, "dtype": None, "tokens": True}  # the models are built
    one, other = (evaluate(model, task, protocol, Options(**how)) for model in models)
    found = comparison.compare(one, other)
    if options.kl:
        found = msgspec.structs.replace(found, divergence=divergence_of(models, task, protocol, options))
    return found


def share_context(protocol: Protocol, models: Sequence[Model]) -> tuple[Protocol, bool]:
    """``protocol`` with one context for all ``models``: where none was given, the smallest of their defaults; and
    whether another model would take more."""
    if protocol.context is not None:
        return protocol, False
    with calling(protocol, "default_context()"):
        defaults = [protocol.default_context(model) for model in models]
    return replace(protocol, context=min(defaults)), min(defaults) < max(defaults)


def decide(
    models: tuple[Model, Model], task: Task, protocol: Protocol, options: Options
) -> tuple[Decision, tuple[Evaluation, Evaluation]]:
    """Score the same windows with both models until it is settled which is better on the whole text.

    Raises:
        UsageError, EvaluationError: as :func:`evalgpt.studies.compare.decide.until_decided`.
    """
    bound = [bind(protocol, model) for model in models]
    one, other = (scorer_for(model, options.batch_tokens, options.cache) for model in models)
    documents = list(documents_of(task))
    plans = [plan_windows(model, documents, p) for model, p in zip(models, bound, strict=True)]
    began = time.perf_counter()
    decision, sample = until_decided((one, other), (plans[0], plans[1]), options.seed, options.progress, options.rarest)
    seconds = time.perf_counter() - began

    def evaluation(k: int) -> Evaluation:
        scorer = (one, other)[k]
        rows = [row_of(piece) for piece in plans[k]]
        result = Result(rows, documents, scorer.work, encoding_seconds=0.0, scoring_seconds=seconds / 2, sample=sample)
        return assemble(scorer, task, bound[k], result)

    return decision, (evaluation(0), evaluation(1))


def divergence_of(models: tuple[Model, Model], task: Task, protocol: Protocol, options: Options) -> Divergence:
    """The KL divergence of the second model from the first on the task's text.

    Raises:
        UsageError, EvaluationError: as :func:`evalgpt.studies.compare.divergence.diverge`.
    """
    size = BatchSize.of(models[0], options.batch_tokens)
    documents = list(documents_of(task))
    return diverge(models, documents, bind(protocol, models[0]), size=size, progress=options.progress)
