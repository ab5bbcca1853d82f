"""Build again what a report names: its model, its task and its protocol."""

from __future__ import annotations

from evalgpt.core import EvaluationError, Model, Task, UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.core.protocol import Protocol
from evalgpt.core.specs import Spec, parse
from evalgpt.report.document import Evaluation
from evalgpt.scoring.engine import bind

__all__ = ["rebuild_model", "rebuild_protocol", "rebuild_task"]


def rebuild_model(plugins: Plugins, evaluation: Evaluation, spec: str, device: str | None) -> Model:
    """The model ``spec``, in the evaluation's dtype where the spec does not give one.

    Raises:
        UsageError: no such model. EvaluationError: it cannot be built.
    """
    parsed = parse(spec)
    takes = "dtype" in plugins.find("model", parsed.name).options and "dtype" not in parsed.options
    return plugins.model(spec, device=device, dtype=evaluation.model.dtype if takes else None)


def rebuild_task(plugins: Plugins, evaluation: Evaluation) -> Task:
    """The evaluation's task.

    Raises:
        UsageError: there is no text to compare with, as when standard input is gone.
    """
    try:
        return plugins.task(evaluation.task.spec)
    except EvaluationError as error:
        raise UsageError(f"text: {error}") from error


def rebuild_protocol(plugins: Plugins, evaluation: Evaluation, model: Model) -> Protocol:
    """The evaluation's protocol, not yet bound to ``model``.

    Raises:
        EvaluationError: parameters that no run with ``model`` can have had.
    """
    settings = {key: str(value) for key, value in evaluation.protocol.settings.items() if value is not None}
    try:
        protocol = plugins.protocol(str(Spec(evaluation.protocol.name, None, settings)))
        bind(protocol, model)
    except UsageError as error:
        raise EvaluationError(f"protocol: {error}") from error
    return protocol
