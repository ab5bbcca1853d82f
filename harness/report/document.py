"""The report: what was measured, of what, how, where; typed, versioned, written atomically."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final, Literal

import msgspec

from evalgpt.core import Row, UsageError
from evalgpt.report.decoding import decode_as, schema_of
from evalgpt.report.files import read_document_bytes, write_bytes
from evalgpt.report.metrics import Ledger, Metrics
from evalgpt.report.verdicts import Verdict

__all__ = [
    "SCHEMA",
    "DetailFile",
    "Evaluation",
    "ModelInfo",
    "ProtocolInfo",
    "Report",
    "RowInfo",
    "Run",
    "Sample",
    "TaskInfo",
    "Timing",
    "Tokenized",
    "describe_protocol",
    "json_schema",
    "keeps_tokens",
    "parse_report",
    "read_report",
    "row_info",
    "to_json",
    "write_report",
]


SCHEMA: Final = "evalgpt.report/1"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """When, by what and on what the evaluations ran. ``id`` and ``created`` differ between equal runs."""

    id: str
    created: str
    command: list[str]
    software: dict[str, str]
    hardware: dict[str, str | int | float | None]


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The model, so that it can be built again and recognised. ``fingerprint`` is a hash of the weights. ``prefix_id``
    is the token a protocol may put before a text. ``trained`` says whether the weights were loaded or drawn at random,
    null where that is not known."""

    spec: str
    name: str
    fingerprint: str
    context_length: int
    vocab_size: int
    prefix_id: int | None
    prefix: str | None
    adds_bos: bool
    trained: bool | None = None
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    device: str
    dtype: str
    runtime: dict[str, Any]


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The texts. ``sha256`` is that of the text itself where there is one document without a context; else of
    one line per document: the hashes of its context and of its text, tab-separated."""

    spec: str
    name: str
    documents: int
    characters: int
    bytes: int
    sha256: str


class ProtocolInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Which tokens were scored from which context. ``source`` is the tool whose numbers ``peer`` reproduces."""

    name: str
    source: str
    settings: dict[str, Any]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Wall-clock seconds. ``computed_scores`` were computed, ``recalled_scores`` kept from an earlier run (None in
    reports that do not say; a sample's batches may hold more than it needed). ``tokens_per_second`` is of the computed,
    ``fed_tokens_per_second`` of the tokens read for them, both over ``scoring_seconds``. ``failed_batch_tokens`` is the
    size of the smallest batch that did not fit the memory, 0 where all fitted, None in reports that do not say."""

    encoding_seconds: float
    scoring_seconds: float
    tokens_per_second: float
    fed_tokens_per_second: float
    computed_scores: int | None = None
    recalled_scores: int | None = None
    failed_batch_tokens: int | None = None


class Tokenized(msgspec.Struct, frozen=True, kw_only=True):
    """Per token: ids and byte spans in the row's context and text. ``byte_starts`` and ``byte_ends`` are None
    where the tokenizer cannot tell. Per window: it scored tokens ``first .. first + size - 1``, the first of them
    predicted from ``context`` tokens. ``nll`` (nats) is flat, in window order. ``text`` is the context and the
    text that the byte spans count in (None in reports that do not keep it)."""

    ids: list[int]
    text: str | None = None
    byte_starts: list[int] | None
    byte_ends: list[int] | None
    first: list[int]
    size: list[int]
    context: list[int]
    nll: list[float]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a text was scored: the first ``windows`` ``of`` all, in the random order of ``seed``.

    The order takes from each of ``strata`` strata in proportion (evalgpt.scoring.strata). Every kind of window that
    matters is assumed to make up at least the share ``rarest`` of the windows; nothing was concluded before
    ``first_look`` windows. These three are null in reports of versions that assumed nothing.

    ``loss`` and ``perplexity`` bound what scoring the whole text would give, at ``level`` although the run looked again
    and again (evalgpt.scoring.sequential): nothing is said of other texts. ``precision`` is the half-width asked for,
    as a share of the perplexity.
    """

    seed: int
    windows: int
    of: int
    tokens: int
    of_tokens: int
    level: float
    precision: float | None
    reason: str
    loss: tuple[float | None, float | None] | None
    perplexity: tuple[float | None, float | None] | None
    rarest: float | None = None
    first_look: int | None = None
    strata: int | None = None


class RowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of text: a document, or the part of it named by ``split``, beginning at byte ``offset``."""

    id: str
    split: str
    group: str
    label: str
    offset: int
    bytes: int
    context_bytes: int
    context_tokens: int
    sha256: str
    tokens: int
    scores: int
    loss: float | None
    tokenized: Tokenized | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one task. ``splits`` has the metrics of each split where the protocol makes splits; ``peer``
    the numbers that the protocol's tool of origin would print; ``task_metrics`` the task's own. ``verdicts`` name what
    looks wrong with the numbers; ``sample`` says which part was scored, where not all was."""

    model: ModelInfo
    task: TaskInfo
    protocol: ProtocolInfo
    metrics: Metrics
    splits: dict[str, Metrics]
    peer: dict[str, float | None]
    task_metrics: dict[str, float | None]
    ledger: Ledger
    notes: list[str]
    verdicts: list[Verdict] = []
    sample: Sample | None = None
    batch_tokens: int
    timing: Timing
    rows: list[RowInfo]


class DetailFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file beside the report that holds more of single tokens (evalgpt.report.detail); ``file`` is its name there."""

    file: str
    sha256: str
    top: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of evalgpt: every model on every task. ``schema`` says which version of this structure it is."""

    schema: Literal["evalgpt.report/1"] = SCHEMA
    run: Run
    detail: DetailFile | None = None
    evaluations: list[Evaluation]


def describe_protocol(evaluation: Evaluation) -> str:
    """The protocol with its parameters, as in ``exact (context 256, stride 128, prefix auto)``."""
    settings = ", ".join(f"{key} {value}" for key, value in evaluation.protocol.settings.items())
    return f"{evaluation.protocol.name} ({settings})" if settings else evaluation.protocol.name


def keeps_tokens(evaluation: Evaluation) -> bool:
    """Whether the losses of single tokens are in the report."""
    return bool(evaluation.rows) and all(row.tokenized is not None for row in evaluation.rows)


def row_info(row: Row, *, tokens: bool) -> RowInfo:
    """The report's form of a row; ``tokens`` says whether to keep what belongs to single tokens."""
    text = row.text.encode()
    return RowInfo(
        id=row.document.id,
        split=row.split,
        group=row.document.group,
        label=row.document.label,
        offset=row.offset,
        bytes=len(text),
        context_bytes=len(row.document.context.encode()),
        context_tokens=row.context_tokens,
        sha256=hashlib.sha256(text).hexdigest(),
        tokens=len(row.ids),
        scores=len(row.nll),
        loss=float(row.nll.mean(dtype="float64")) if len(row.nll) else None,
        tokenized=_tokenized(row) if tokens else None,
    )


def _tokenized(row: Row) -> Tokenized:
    starts, ends = None, None
    if row.byte_spans is not None:
        starts, ends = [int(span[0]) for span in row.byte_spans], [int(span[1]) for span in row.byte_spans]
    return Tokenized(
        ids=[int(i) for i in row.ids],
        text=row.document.context + row.text,
        byte_starts=starts,
        byte_ends=ends,
        first=[w.first for w in row.windows],
        size=[w.size for w in row.windows],
        context=[w.context for w in row.windows],
        nll=[float(str(x)) for x in row.nll],  # the shortest decimal that is this float32
    )


def json_schema(document: type[msgspec.Struct] = Report) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a report, or of another typed document."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(document)}


def to_json(report: msgspec.Struct) -> bytes:
    """A report, or another typed document, as indented JSON; a list of numbers stays on one line.

    NaN and infinity become null.
    """
    pretty = msgspec.json.format(msgspec.json.encode(report), indent=2)
    # A line break follows "[" only outside strings, where JSON forbids raw ones.
    return re.sub(rb"\[\n[-+0-9.eE,\s]*\]", lambda match: b" ".join(match[0].split()), pretty) + b"\n"


def read_report(path: str) -> Report:
    """Read a report file, or standard input for ``-``.

    Raises:
        UsageError: there is no such file, or it is no report, or of a version this evalgpt does not read.
    """
    name = "standard input" if path == "-" else path
    return parse_report(read_document_bytes(path, "the report"), name)


def parse_report(data: bytes, name: str) -> Report:
    """The report that ``data`` is; ``name`` is what an error calls it.

    Raises:
        UsageError: it is no report, or of a version this evalgpt does not read.
    """
    try:
        found = schema_of(data)
        if found == SCHEMA:
            report = decode_as(data, Report)
            _check_rows(report)
            return report
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{name} is not an evalgpt report: {error}") from None
    if found.startswith("evalgpt.") and found.partition("/")[0] != SCHEMA.partition("/")[0]:
        raise UsageError(f"{name} is no report: its schema is {found!r}, and {SCHEMA!r} is wanted here")
    raise UsageError(f"{name} has schema {found!r}; this evalgpt reads {SCHEMA!r}")


def _check_rows(report: Report) -> None:
    """Raise ValueError where the losses of single tokens do not fit together, which only a changed file has."""
    for e, evaluation in enumerate(report.evaluations):
        for r, row in enumerate(evaluation.rows):
            if row.tokenized is not None and not _consistent(row, row.tokenized):
                raise ValueError(f"evaluations[{e}].rows[{r}].tokenized has lists that do not fit together")


def _consistent(row: RowInfo, kept: Tokenized) -> bool:
    spans = [kept.byte_starts, kept.byte_ends] if kept.byte_starts is not None or kept.byte_ends is not None else []
    if len(kept.ids) != row.tokens or any(span is None or len(span) != row.tokens for span in spans):
        return False
    if not len(kept.first) == len(kept.size) == len(kept.context) or not sum(kept.size) == len(kept.nll) == row.scores:
        return False
    windows = zip(kept.first, kept.size, kept.context, strict=True)
    return all(
        first >= 0 and size >= 1 and first + size <= row.tokens and 1 <= context <= first + 1
        for first, size, context in windows
    )


def write_report(report: Report, path: str) -> None:
    """Write ``report`` as JSON; see :func:`evalgpt.report.files.write_bytes`."""
    write_bytes(to_json(report), path)
