"""What a report says of the model, the task and the run."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from evalgpt.core import Document, Model, Task, UsageError
from evalgpt.core.answers import decode
from evalgpt.core.guard import described
from evalgpt.core.text import printable
from evalgpt.core.validation import plain
from evalgpt.report import environment
from evalgpt.report.document import Evaluation, ModelInfo, Report, Run, TaskInfo

__all__ = ["make_report", "model_info", "only_evaluation", "task_info"]


def make_report(evaluations: Sequence[Evaluation], command: Sequence[str] = ()) -> Report:
    """A report of ``evaluations`` made in this process, now."""
    run = Run(
        id=str(uuid.uuid4()),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        command=[printable(part) for part in command],
        software=environment.software(),
        hardware=environment.hardware(),
    )
    return Report(run=run, evaluations=list(evaluations))


def only_evaluation(report: Report | Evaluation) -> Evaluation:
    """The one evaluation of ``report``, or ``report`` itself where it is an evaluation.

    Raises:
        UsageError: the report holds none, or several.
    """
    if isinstance(report, Evaluation):
        return report
    if not isinstance(report, Report):
        raise UsageError(f"a report is an evalgpt.Report or an evalgpt.Evaluation, not {described(report)}")
    if len(report.evaluations) != 1:
        raise UsageError(f"the report holds {len(report.evaluations)} evaluations; give one, as report.evaluations[0]")
    return report.evaluations[0]


def model_info(model: Model) -> ModelInfo:
    """What a report says of ``model``."""
    mappings = {key: plain(model, key) for key in ("config", "tokenizer", "runtime")}
    prefix = None if model.prefix_id is None else int(model.prefix_id)
    return ModelInfo(
        spec=model.spec or model.name,
        name=model.name,
        fingerprint=model.fingerprint,
        context_length=int(model.context_length),
        vocab_size=int(model.vocab_size),
        prefix_id=prefix,
        prefix=None if prefix is None else decode(model, [prefix]),
        adds_bos=bool(model.adds_bos),
        trained=None if model.trained is None else bool(model.trained),
        device=model.device,
        dtype=model.dtype,
        **mappings,
    )


def task_info(task: Task, documents: Sequence[Document]) -> TaskInfo:
    """What a report says of ``task``."""
    documents = [document.whole() for document in documents]
    return TaskInfo(
        spec=task.spec or task.name,
        name=task.name,
        documents=len(documents),
        characters=sum(len(d.text) for d in documents),
        bytes=sum(len(d.text.encode()) for d in documents),
        sha256=_text_hash(documents),
    )


def _text_hash(documents: Sequence[Document]) -> str:
    """The hash by which a report knows its text; see :class:`~evalgpt.report.document.TaskInfo`."""
    if len(documents) == 1 and not documents[0].context:
        return hashlib.sha256(documents[0].text.encode()).hexdigest()
    digest = hashlib.sha256()
    for document in documents:
        hashes = [hashlib.sha256(part.encode()).hexdigest() for part in (document.context, document.text)]
        digest.update(f"{hashes[0]}\t{hashes[1]}\n".encode())
    return digest.hexdigest()
