"""Kinds of file: what the first bytes say, and texts out of JSON, CSV, TSV and Parquet."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import IO, Any

from evalgpt.core import EvaluationError, UsageError

__all__ = [
    "CARRIAGE_RETURNS",
    "DAMAGED",
    "RECORDS",
    "Absent",
    "Record",
    "is_compressed",
    "is_json_object",
    "is_parquet",
    "kind_of",
    "load_json",
    "no_text",
    "open_text",
    "records_of_csv",
    "records_of_json",
    "records_of_parquet",
    "suffix_of",
    "text_of",
]


COMPRESSED = {"gzip": b"\x1f\x8b", "bzip2": b"BZh91AY", "xz": b"\xfd7zXZ\0"}

SUFFIXES = (".gz", ".bz2", ".xz")

RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Files that hold records, of which a field is the text."""

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
"""What the decompressors raise for data that is cut or changed; bz2 raises OSError without an errno."""

ADVICE = {
    "UTF-32 text": "convert it with iconv -f UTF-32 -t UTF-8",
    "UTF-16 text": "convert it with iconv -f UTF-16 -t UTF-8",
    "PDF document": "convert it to text, for example with pdftotext",
    "zip archive (also docx, xlsx, epub, npz and torch's checkpoints)": "unpack it and give the text in it",
    "tar archive": "unpack it and give the text in it",
    "gzip, bzip2 or xz file within one": "unpack it once",
    "zstd file": "unpack it with zstd -d",
    "Parquet file": "give it by its path: it is not read from standard input or within a compressed file",
}
"""What to do about files that are not texts; most need a text in their place."""

HEAD = 512
"""Bytes that tell what a file is; tar's mark is the last to come."""

MAGIC = (
    ("UTF-32 text", rb"\xff\xfe\0\0|\0\0\xfe\xff"),
    ("UTF-16 text", rb"\xff\xfe|\xfe\xff"),
    ("Parquet file", rb"PAR1\x15"),
    ("PDF document", rb"%PDF-"),
    ("zip archive (also docx, xlsx, epub, npz and torch's checkpoints)", rb"PK(\x03\x04|\x05\x06)"),
    ("gzip, bzip2 or xz file within one", rb"\x1f\x8b\x08|BZh[1-9]1AY&SY|\xfd7zXZ\0"),
    ("zstd file", rb"\x28\xb5\x2f\xfd"),
    ("7z archive", rb"7z\xbc\xaf\x27\x1c"),
    ("SQLite database", rb"SQLite format 3\0"),
    ("safetensors file", rb".{5}\0{3}\{"),
    ("GGUF file", rb"GGUF[\x01-\x09]\0"),
    ("pickle", rb"\x80[\x02-\x05]"),
    ("NumPy array", rb"\x93NUMPY"),
    ("HDF5 file", rb"\x89HDF"),
    ("Arrow file", rb"ARROW1\0\0|\xff{4}.{2}\0\0\x10\0"),
    ("tar archive", rb".{257}ustar"),
    ("PNG image", rb"\x89PNG"),
    ("JPEG image", rb"\xff\xd8\xff"),
    ("GIF image", rb"GIF8[79]a.{4}[\0\x80-\xff]"),
    ("TIFF image", rb"II\*\0|MM\0\*"),
    ("RIFF file (WebP image, WAV or AVI)", rb"RIFF.{4}(WEBP|WAVE|AVI )"),
    ("program (ELF)", rb"\x7fELF"),
    ("old Office document", rb"\xd0\xcf\x11\xe0"),
)


def kind_of(head: bytes) -> str | None:
    """What a file that begins with ``head`` is, None for what may be a text in UTF-8."""
    return next((name for name, magic in MAGIC if re.match(magic, head, re.DOTALL)), None)


def suffix_of(path: str) -> str:
    """The suffix that says what is in ``path``: ``.jsonl`` of rows.jsonl and of rows.jsonl.gz."""
    name = Path(path)
    return (Path(name.stem) if name.suffix.lower() in SUFFIXES else name).suffix.lower()


def is_compressed(path: str) -> bool:
    """Whether the file is one that :func:`open_text` decompresses."""
    return _begins(path, tuple(COMPRESSED.values()))


def is_parquet(path: str) -> bool:
    """Whether the file is Parquet, whatever its name."""
    return _begins(path, (b"PAR1\x15",))


def is_json_object(path: str) -> bool:
    """Whether the file, by its name and its first line, is one JSON object over several lines, such as a report of
    evalgpt: it holds no records."""
    if suffix_of(path) != ".json" or is_compressed(path):
        return False
    try:
        with Path(path).open("rb") as file:
            return file.readline(64).strip() == b"{"
    except OSError:
        return False


def _begins(path: str, magic: tuple[bytes, ...]) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(8).startswith(magic)
    except OSError:
        return False


def open_text(file: Any, name: str) -> IO[bytes]:
    """``file``, decompressed where its first bytes say that it is gzip, bzip2 or xz.

    Raises:
        EvaluationError: it is not a text in UTF-8 but something else, which the message names.
    """
    reader = io.BufferedReader(file)
    head = reader.peek(HEAD)
    for compressor, magic in COMPRESSED.items():
        if head.startswith(magic):
            opened: Any = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}[compressor]
            reader = io.BufferedReader(opened(fileobj=reader) if compressor == "gzip" else opened(reader))
            head = reader.peek(HEAD)
            break
    kind = kind_of(head[:HEAD])
    if kind is not None:
        article = "an" if kind[0] in "Ao" or kind.startswith("HDF5") else "a"
        raise EvaluationError(f"{name} is not UTF-8: it is {article} {kind}; {ADVICE.get(kind, 'a text is wanted')}")
    return reader


Record = tuple[str, object]
"""Where a record is, as "line 3" or "row 3", and what it is."""

REPEATED = object()
"""The value of a field that a record has more than once: readers disagree on which counts."""

CARRIAGE_RETURNS = "its lines end in carriage returns alone; convert it with tr '\\r' '\\n'"

DIGITS = 4300
"""Digits of an integer that Python reads; JSON has no limit, and such a number is no text anyway."""


def load_json(text: str) -> object:
    """The value that ``text`` holds, as :func:`json.loads`; a key that an object has twice is :data:`REPEATED`.

    Raises:
        ValueError: it is not JSON. RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_object, parse_int=_integer)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        found |= {key: REPEATED for key in found if times[key] > 1}
    return found


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= DIGITS else math.inf


def records_of_json(parts: Iterable[str], path: str) -> Iterator[Record]:
    """The elements of a JSON array, or the lines of what is JSON Lines by another name.

    Raises:
        EvaluationError: it is neither.
    """
    text = "".join(parts).removeprefix("\ufeff")
    try:
        found = load_json(text)
    except RecursionError:
        raise EvaluationError(f"{path} is nested too deep to be read as JSON") from None
    except ValueError as error:
        try:
            lines = [(f"line {n}", load_json(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        except (ValueError, RecursionError):
            raise EvaluationError(
                f"{path} is not JSON: {error}; any file is read as it is with text:- < FILE"
            ) from None
        yield from lines
        return
    if not isinstance(found, list):
        raise EvaluationError(f"{path} holds {_kind(found)}; an array of texts or of objects is wanted, or JSON Lines")
    yield from ((f"row {number}", record) for number, record in enumerate(found, 1))


def records_of_csv(lines: Iterable[str], path: str) -> Iterator[Record]:
    """The rows of CSV, or of TSV by the name of ``path``, by the names in the first row; ``lines`` have no line feeds.

    Raises:
        EvaluationError: a row cannot be read, or has more cells than there are names.
    """
    csv.field_size_limit(1 << 30)
    feed = (f"{line.removeprefix(chr(0xFEFF)) if n == 0 else line}\n" for n, line in enumerate(lines))
    delimiter = "\t" if suffix_of(path) == ".tsv" else ","
    rows = csv.DictReader(feed, delimiter=delimiter, strict=True)
    before = 0
    try:
        names = next((row for row in rows.reader if any(cell.strip() for cell in row)), [])
        rows.fieldnames = names
        repeated = {name: REPEATED for name in names if names.count(name) > 1}
        before = rows.reader.line_num
        for record in rows:
            where = f"line {before + 1}"
            if None in record:
                raise EvaluationError(f"{path}, {where} has more cells than the {len(names)} of line 1")
            yield where, {name: cell for name, cell in record.items() if cell is not None} | repeated
            before = rows.reader.line_num
    except csv.Error as error:
        raise EvaluationError(
            f"{path}: the row at line {before + 1} cannot be read as CSV: {_csv_reason(error)}"
        ) from None


def _csv_reason(error: csv.Error) -> str:
    reason = str(error)
    if reason.startswith("new-line character"):
        return CARRIAGE_RETURNS
    return "a quote is opened and never closed" if reason == "unexpected end of data" else reason


def records_of_parquet(path: str, field: str) -> Iterator[Record]:
    """The rows of a Parquet file, of which ``field`` alone is read.

    Raises:
        UsageError: pyarrow is not installed. EvaluationError: the file is damaged, or has no such field.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(f"{path} is a Parquet file, which needs pyarrow: pip install 'evalgpt[parquet]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise EvaluationError(
                    f"{path} has no field {field!r}; it has {', '.join(names)}: name one with field=NAME"
                )
            if names.count(field) > 1:
                raise EvaluationError(f"{path} has the field {field!r} more than once; one is wanted")
            for batch in file.iter_batches(columns=[field]):
                for value in batch.column(0):
                    number += 1
                    yield f"row {number}", {field: value.as_py()}
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(f"{path} cannot be read as Parquet: {reason}") from None


class Absent(Enum):
    """Why a record has no text."""

    MISSING = "missing"
    NULL = "null"
    EMPTY = "empty"
    NAN = "NaN"


def text_of(record: object, field: str, where: str) -> str | Absent:
    """The text of ``record``, which is a text itself or has one in ``field``; or why it has none.

    Raises:
        EvaluationError: it has something else than a text there, such as a number or a list.
    """
    if isinstance(record, Mapping):
        if field not in record:
            return Absent.MISSING
        value, what = record[field], field
    else:
        value, what = record, "it"
    if isinstance(value, str):
        if not value:
            return Absent.EMPTY
        try:
            value.encode()
        except UnicodeEncodeError:
            raise EvaluationError(f"{where}: {what} holds half of a surrogate pair, which is no text") from None
        return value
    if value is None:
        return Absent.NULL
    if value is REPEATED:
        raise EvaluationError(f"{where} has the field {what!r} more than once; one is wanted")
    if isinstance(value, float) and math.isnan(value):
        return Absent.NAN
    advice = " (a number that is a text stands in quotes)" if isinstance(value, (int, float)) else ""
    raise EvaluationError(f"{where}: {what} is {_kind(value)}, and a text is wanted{advice}")


def no_text(record: object, field: str, where: str, why: Absent) -> str:
    """The message that ``record`` has no text."""
    rest = "; skip=true leaves such rows out"
    if why is Absent.MISSING and isinstance(record, Mapping):
        names = ", ".join(map(str, record)) or "none"
        return f"{where} has no field {field!r} (missing); it has {names}: name one with field=NAME{rest}"
    what = field if isinstance(record, Mapping) else "it"
    return f"{where}: {what} is {why.value}, and a text is wanted{rest}"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
