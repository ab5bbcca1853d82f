"""What ``--detail`` keeps of single tokens besides their losses, in a file beside the report."""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Row, UsageError
from evalgpt.core.guard import reason
from evalgpt.report.document import DetailFile, Report
from evalgpt.report.files import BOM, write_bytes

__all__ = ["Collected", "RowDetail", "check_format", "detail_named", "is_detail", "read_detail"]


class Decode(Protocol):
    """As :func:`evalgpt.core.answers.decode`, of one model."""

    def __call__(self, ids: Sequence[int], *, shown: bool = False) -> str: ...


SCORE_BYTES, TOP_BYTES = 4096, 1024
"""Bytes that a score, and each of its likeliest tokens, may take in a detail file: far more than any does."""

SMALL = 1 << 20

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class RowDetail:
    """More about a row's n scores, in the order of ``RowInfo.tokenized.nll``.

    ``token`` int64 [n] is each score's index in ``tokenized.ids``; ``rank`` int64 [n] counts the tokens that the model
    preferred (0 = its first choice); ``entropy`` float32 [n], nats; ``top_text`` [n][k] and ``top_logprobs`` float32
    [n, k] (nats) are the k likeliest tokens, likeliest first.
    """

    token: NDArray[np.int64]
    rank: NDArray[np.int64]
    entropy: NDArray[np.float32]
    top_text: Sequence[Sequence[str]]
    top_logprobs: NDArray[np.float32]


@dataclass(slots=True)
class Collected:
    """The columns of all evaluations so far, one entry per score; texts as UTF-8 with the bytes at which each ends.

    ``top`` is how many of the likeliest tokens are kept. :func:`evalgpt.evaluate` adds its rows.
    """

    top: int = 5
    evaluations: int = 0
    parts: list[Columns] = field(default_factory=list)

    def add(self, rows: Sequence[Row], decode: Decode) -> None:
        """Take in the rows of one evaluation, whose ``detail`` is set where anything was scored."""
        self.parts += [
            _columns(self.evaluations, number, row, decode, self.top) for number, row in enumerate(rows) if row.windows
        ]
        self.evaluations += 1

    def columns(self) -> Columns:
        """All columns, as the npz file has them."""
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]} | {
            f"{name}_ends": np.cumsum(np.concatenate([part[f"{name}_ends"] for part in self.parts]))
            for name in ("text", "top_text")
        }

    def write(self, path: str) -> DetailFile:
        """Write what was added to ``path``, Parquet or npz by its ending.

        Raises:
            EvaluationError: the file cannot be written.
        """
        data = _parquet(self.columns()) if path.endswith(".parquet") else _npz(self.columns())
        write_bytes(data, path)
        return DetailFile(file=Path(path).name, sha256=hashlib.sha256(data).hexdigest(), top=self.top)


def check_format(kind: str) -> None:
    """Raise UsageError where ``kind`` needs a package that is not installed."""
    if kind == "parquet":
        _pyarrow()


COLUMNS = {"evaluation", "row", "window", "token", "id", "nll", "rank", "entropy", "top_ids", "top_logprobs"}
"""What a detail file has in either format, and by which it is known."""


def is_detail(path: str) -> bool:
    """Whether the file ``path`` is a detail file: an archive or a table that has its columns."""
    try:
        if path.endswith(".parquet"):
            names = set(_pyarrow()[1].read_schema(path).names)
        else:
            with zipfile.ZipFile(path) as file:
                names = {name.removesuffix(".npy") for name in file.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
    return names >= COLUMNS


def detail_named(report: str) -> str | None:
    """The name of the detail file that the report in the file ``report`` names, if it is one."""
    try:
        data = Path(report).read_bytes().removeprefix(BOM)
        found = msgspec.json.decode(data, type=_Names).detail
    except (OSError, ValueError, RecursionError):
        return None
    return None if found is None else found.file


class _Names(msgspec.Struct):
    schema: Literal["evalgpt.report/1"]
    detail: DetailFile | None = None


def read_detail(report: Report, path: str) -> dict[tuple[int, int], RowDetail]:
    """The details that ``report``, read from ``path``, names, by evaluation index and row index; empty without any.

    Raises:
        UsageError: the file is missing, is another than the report names, or needs the extra ``parquet``.
    """
    if report.detail is None:
        return {}
    if Path(report.detail.file).name != report.detail.file:
        raise UsageError(f"the report names {report.detail.file!r} as its detail file; it must stand beside the report")
    target = Path(path).parent / report.detail.file
    try:
        data = target.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the detail file {target}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != report.detail.sha256:
        raise UsageError(f"{target} is not the detail file of this report: its SHA-256 differs")
    scores = _scores(report)
    most = SMALL + sum(scores.values()) * (SCORE_BYTES + TOP_BYTES * report.detail.top)
    try:
        columns = _from_parquet(data, most) if target.suffix == ".parquet" else _from_npz(data, most)
        return _rows(_columns_checked(columns), scores)
    except UsageError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and pyarrow each have their own
        why = f"it lacks {error}" if isinstance(error, KeyError) else reason(error)
        raise UsageError(f"{target} is no detail file of this report: {why}") from None


def _scores(report: Report) -> dict[tuple[int, int], int]:
    """How many scores each row of the report has, by evaluation index and row index; rows without any are left out."""
    return {
        (e, r): row.scores
        for e, evaluation in enumerate(report.evaluations)
        for r, row in enumerate(evaluation.rows)
        if row.scores
    }


def _columns_checked(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns that are read, if they are numbers of one length.

    Raises:
        ValueError, KeyError: a column is missing, or is of another type or length.
    """
    count = len(columns["evaluation"])
    for name, kinds in (("evaluation", "iu"), ("row", "iu"), ("token", "iu"), ("rank", "iu"), ("entropy", "f")):
        column = columns[name]
        if column.shape != (count,) or column.dtype.kind not in kinds:
            raise ValueError(f"its column {name} has the type {column.dtype} and the shape {column.shape}")
    logprobs = columns["top_logprobs"]
    if logprobs.ndim != 2 or len(logprobs) != count or logprobs.dtype.kind != "f":
        raise ValueError(f"its column top_logprobs has the type {logprobs.dtype} and the shape {logprobs.shape}")
    if len(columns["top_text"]) != logprobs.size:
        raise ValueError(f"it has {len(columns['top_text'])} texts of likeliest tokens for {logprobs.size}")
    return columns


def _columns(evaluation: int, number: int, row: Row, decode: Decode, top: int) -> Columns:
    found = row.detail
    if found is None or found.top_ids is None or found.top_logprobs is None:
        raise ValueError("the row was scored without detail")
    n = len(row.nll)
    token = np.concatenate([np.arange(w.first, w.first + w.size) for w in row.windows])
    window = np.repeat(np.arange(len(row.windows)), [w.size for w in row.windows])
    fed = np.concatenate([np.arange(w.context, w.context + w.size) for w in row.windows])
    spans = np.full((len(row.ids), 2), -1) if row.byte_spans is None else np.asarray(row.byte_spans).reshape(-1, 2)
    texts = [decode([int(i)]) for i in row.ids] if row.byte_spans is None else _texts(row, spans)
    pad = ((0, 0), (0, top - found.top_ids.shape[1]))  # a vocabulary may be smaller than k
    top_ids = np.pad(found.top_ids, pad, constant_values=-1)
    unique, inverse = np.unique(top_ids, return_inverse=True)
    names = ["" if i < 0 else decode([int(i)], shown=True) for i in unique]
    columns: Columns = {
        "evaluation": np.full(n, evaluation, np.int32),
        "row": np.full(n, number, np.int32),
        "window": window.astype(np.int32),
        "token": token.astype(np.int64),
        "id": np.asarray(row.ids, np.int64)[token],
        "start": spans[token, 0].astype(np.int64),
        "end": spans[token, 1].astype(np.int64),
        "context": fed.astype(np.int64),
        "nll": row.nll,
        "rank": np.asarray(found.rank),
        "entropy": np.asarray(found.entropy),
        "top_ids": top_ids,
        "top_logprobs": np.pad(found.top_logprobs, pad, constant_values=np.nan),
    }
    return columns | _packed("text", texts, token) | _packed("top_text", names, inverse.reshape(-1))


def _texts(row: Row, spans: NDArray[np.int64]) -> list[str]:
    """Each token's text, so that the texts of all make the whole: a character goes to the first token that ends it."""
    text = row.document.context + row.text
    ends = np.cumsum([len(c.encode()) for c in text])
    first, last = (np.searchsorted(ends, spans[:, side], side="right") for side in (0, 1))
    taken = np.maximum.accumulate(np.concatenate([[0], last]))[:-1]
    return [text[a:b] for a, b in zip(np.maximum(first, taken), last, strict=True)]


def _packed(name: str, texts: Sequence[str], which: NDArray[Any]) -> Columns:
    """``texts[which]`` as bytes and the length of each; numpy's own strings lose NULs at their end."""
    encoded = [text.encode(errors="replace") for text in texts]
    lengths = np.array([len(part) for part in encoded], np.int64)[which]
    return {
        f"{name}_utf8": np.frombuffer(b"".join(encoded[i] for i in which), np.uint8),
        f"{name}_ends": lengths,
    }


def _unpacked(columns: Mapping[str, NDArray[Any]], name: str) -> list[str]:
    texts, last = columns[f"{name}_utf8"], columns[f"{name}_ends"]
    if texts.dtype != np.uint8 or last.dtype.kind not in "iu" or texts.ndim != 1 or last.ndim != 1:
        raise ValueError(f"its column {name} is no text")
    if (np.diff(last, prepend=0) < 0).any() or (last[-1] if len(last) else 0) != len(texts):
        raise ValueError(f"the ends of its column {name} are not those of its texts")
    data, ends = texts.tobytes(), last.tolist()
    return [data[a:b].decode() for a, b in itertools.pairwise([0, *ends])]


def _npz(columns: Columns) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **cast(Any, columns))  # columns are no flags
    return file.getvalue()


def _from_npz(data: bytes, most: int) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > most:  # a small file may unpack to more than any memory
        raise ValueError(f"it unpacks to {size} bytes, more than {most}, the most for so many scores")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        columns: dict[str, Any] = {name: file[name] for name in file.files}
    return columns | {"top_text": _unpacked(columns, "top_text")}


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install 'evalgpt[parquet]'; npz needs nothing more") from None
    return pyarrow, pyarrow.parquet


def _parquet(columns: Columns) -> bytes:
    arrow, parquet = _pyarrow()
    n, k = columns["top_ids"].shape
    there = columns["top_ids"].reshape(-1) >= 0
    offsets = np.concatenate([[0], np.cumsum(there.reshape(n, k).sum(1))]).astype(np.int32)
    lists = {name: arrow.array(columns[name].reshape(-1)[there]) for name in ("top_ids", "top_logprobs")}
    lists["top_text"] = arrow.array(_unpacked(columns, "top_text"), arrow.string()).filter(arrow.array(there))
    data: dict[str, Any] = {}
    for name, column in columns.items():
        if name == "text_utf8":
            data["text"] = arrow.array(_unpacked(columns, "text"), arrow.string())
        elif not name.startswith(("top_", "text_")):
            data[name] = arrow.array(column, mask=column < 0 if name in ("start", "end") else None)
    for name in ("top_ids", "top_text", "top_logprobs"):
        data[name] = arrow.ListArray.from_arrays(arrow.array(offsets), lists[name])
    file = io.BytesIO()
    parquet.write_table(arrow.table(data), file)
    return file.getvalue()


def _from_parquet(data: bytes, most: int) -> dict[str, Any]:
    arrow, parquet = _pyarrow()
    facts = parquet.ParquetFile(arrow.BufferReader(data)).metadata
    size = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
    if size > most:
        raise ValueError(f"it unpacks to {size} bytes, more than {most}, the most for so many scores")
    table = parquet.read_table(arrow.BufferReader(data)).combine_chunks()
    plain = ("evaluation", "row", "token", "rank", "entropy")
    columns: dict[str, Any] = {name: table[name].to_numpy() for name in plain}
    tops = {name: table[name].to_pylist() for name in ("top_text", "top_logprobs")}
    width = max(map(len, tops["top_text"]), default=0)
    columns["top_text"] = [text for row in tops["top_text"] for text in [*row, *[""] * (width - len(row))]]
    columns["top_logprobs"] = np.array(
        [[*row, *[np.nan] * (width - len(row))] for row in tops["top_logprobs"]], np.float32
    ).reshape(-1, width)
    return columns


def _rows(columns: Mapping[str, Any], scores: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], RowDetail]:
    """The columns cut where a row ends; likeliest tokens that a vocabulary does not have are left out.

    Raises:
        ValueError: the rows are not those with these ``scores``.
    """
    keys = np.stack([columns["evaluation"], columns["row"]], 1)
    edges = [0, *(np.flatnonzero((keys[1:] != keys[:-1]).any(1)) + 1).tolist(), len(keys)]
    k = columns["top_logprobs"].shape[1]
    found = {}
    cut = [((int(keys[a, 0]), int(keys[a, 1])), b - a) for a, b in itertools.pairwise(edges) if b > a]
    if cut != list(scores.items()):
        raise ValueError("its rows are not those of the report")
    for a, b in itertools.pairwise(edges if len(keys) else [0]):
        width = int((~np.isnan(columns["top_logprobs"][a])).sum())
        found[int(keys[a, 0]), int(keys[a, 1])] = RowDetail(
            token=columns["token"][a:b],
            rank=columns["rank"][a:b],
            entropy=columns["entropy"][a:b],
            top_text=[columns["top_text"][i * k : i * k + width] for i in range(a, b)],
            top_logprobs=columns["top_logprobs"][a:b, :width],
        )
    return found
