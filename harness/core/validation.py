"""Is what a plugin built a model, a task, a protocol? Asked once, where it enters: attributes of the right types, texts
that are texts. What a method answers is checked where it is asked (:mod:`evalgpt.core.answers`)."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from evalgpt.core.capabilities import CutsText, GivesLogits, SharesPrefixes, Trainable
from evalgpt.core.data import Document, Row
from evalgpt.core.errors import EvaluationError
from evalgpt.core.guard import calling, described, named
from evalgpt.core.model import Model
from evalgpt.core.task import Task

__all__ = [
    "DEEPEST",
    "check_model",
    "check_protocol",
    "check_task",
    "documents_of",
    "metrics_of",
    "notes_of",
    "plain",
    "too_deep",
]


DEEPEST = 100
"""Levels of nesting that metadata may have: far more than any has, and far less than what exhausts a reader."""

_ABSENT = object()


def check_model(model: Model) -> None:
    """Raise EvaluationError where an attribute is missing, of another type, or out of range.

    Sizes are whole numbers from 1 up; ``prefix_id`` and ``unused_ids`` are ids of the vocabulary; what goes into the
    report can be written as JSON.
    """
    for key in ("name", "fingerprint", "device", "dtype"):
        _text(model, key, empty=False)
    _text(model, "spec")
    _whole(model, "context_length", 1, 1 << 63)
    size = _whole(model, "vocab_size", 1, 1 << 63)
    warnings = _get(model, "warnings")
    if not isinstance(warnings, (list, tuple)) or not all(isinstance(line, str) for line in warnings):
        raise _wrong(model, "warnings", warnings, "a list of texts")
    if _get(model, "prefix_id") is not None:
        _whole(model, "prefix_id", 0, size)
    _ids(model, "eos_ids")  # a tokenizer may have more special tokens than the model has embeddings
    _ids(model, "unused_ids", size)
    for key, kinds in (("adds_bos", "true or false"), ("trained", "optional")):
        value = _get(model, key)
        if type(value).__name__ not in ("bool", "bool_") and not (kinds == "optional" and value is None):
            raise _wrong(model, key, value, "true or false" + ", or None" * (kinds == "optional"))
    cache_id = _get(model, "cache_id")
    if cache_id is not None and not isinstance(cache_id, str):
        raise _wrong(model, "cache_id", cache_id, "a text, or None")
    for key in ("config", "tokenizer", "runtime"):
        plain(model, key)
    if isinstance(model, SharesPrefixes):
        _whole(model, "shared_tokens", 0, 1 << 63)
    for key in ("encode", "decode", "score"):
        _method(model, key)
    methods: dict[type, str] = {CutsText: "cut", GivesLogits: "next_logits", Trainable: "trainer"}
    for capability, key in methods.items():
        if isinstance(model, capability):
            _method(model, key)


def check_task(task: Task) -> None:
    """Raise EvaluationError where an attribute is missing, of another type, or out of range."""
    for key in ("name", "default_protocol"):
        _text(task, key, empty=False)
    _text(task, "spec")
    _whole(task, "long", 0)
    for key in ("documents", "metrics"):
        _method(task, key)


def check_protocol(protocol: object) -> None:
    """Raise EvaluationError where an attribute is missing or of another type."""
    for key in ("name", "source"):
        _text(protocol, key, empty=False)
    for key in ("bind", "windows", "pieces", "settings", "default_context"):
        _method(protocol, key)


def documents_of(task: Task) -> Iterator[Document]:
    """The documents of ``task``, each a Document of texts that are UTF-8, with an id of its own; at least one.

    Raises:
        PluginError: the task raised. EvaluationError: it yields something else, or nothing.
    """
    with calling(task, "documents()"):
        given = task.documents()
        iterator = iter(given) if isinstance(given, Iterable) else None
    if iterator is None:
        raise EvaluationError(f"{named(task)}: documents() returned {described(given)}; it yields evalgpt.Document")
    ids: set[str] = set()
    while True:
        where = f"document {len(ids) + 1}"
        with calling(task, "documents()", where):
            document = next(iterator, _ABSENT)
        if document is _ABSENT:
            break
        yield _checked(task, document, where, ids)
    if not ids:
        raise EvaluationError(f"{named(task)} has no documents; there is nothing to measure")


def _checked(task: Task, document: object, where: str, ids: set[str]) -> Document:
    if not isinstance(document, Document):
        raise EvaluationError(f"{named(task)}: {where} is {described(document)}; evalgpt.Document is wanted")
    if isinstance(document.id, str) and document.id:
        where = f"document {document.id!r}"
    for field in dataclasses.fields(document):
        value = getattr(document, field.name)
        if field.name != "parts":
            _check_text(task, value, f"the {field.name} of {where}")
    if not document.id:
        raise EvaluationError(f"{named(task)}: {where} has no id; each document needs one of its own")
    if document.id in ids:
        raise EvaluationError(f"two documents are called {document.id!r}; each needs an id of its own")
    ids.add(document.id)
    if document.parts is None:
        return document
    if not callable(document.parts):
        raise EvaluationError(
            f"{named(task)}: the parts of {where} are {described(document.parts)}; a function is wanted"
        )
    return dataclasses.replace(document, parts=_Parts(task, document, where))


@dataclasses.dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a document, each of them checked when it is read."""

    task: Task
    document: Document
    where: str

    def __call__(self) -> Iterator[str]:
        assert self.document.parts is not None
        with calling(self.task, "the parts", self.where):
            iterator = iter(self.document.parts())
        while True:
            with calling(self.task, "the parts", self.where):
                part = next(iterator, _ABSENT)
            if part is _ABSENT:
                return
            _check_text(self.task, part, f"a part of {self.where}")
            assert isinstance(part, str)
            yield part


def _check_text(task: Task, value: object, what: str) -> None:
    if not isinstance(value, str):
        raise EvaluationError(f"{named(task)}: {what} is {described(value)}; a text (str) is wanted")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise EvaluationError(
            f"{named(task)}: {what} is not UTF-8: character {error.start} is {value[error.start]!a}, half of a "
            f"surrogate pair"
        ) from None


def metrics_of(task: Task, rows: Iterable[Row]) -> dict[str, float]:
    """The task's own numbers.

    Raises:
        PluginError: the task raised. EvaluationError: it returned something else than numbers by name.
    """
    with calling(task, "metrics()"):
        found: Any = task.metrics(rows)
        items = list(found.items()) if isinstance(found, Mapping) else None
    if items is None:
        raise EvaluationError(
            f"{named(task)}: metrics() returned {described(found)}; a mapping of names to numbers is wanted"
        )
    return numbers(task, "metrics()", items)


def notes_of(task: Task) -> list[str]:
    """What the task says of its texts, once they are read.

    Raises:
        EvaluationError: it is no sequence of texts.
    """
    notes = _get(task, "notes")
    if isinstance(notes, str) or not isinstance(notes, Sequence) or not all(isinstance(note, str) for note in notes):
        raise _wrong(task, "notes", notes, "a sequence of texts")
    for note in notes:
        _check_text(task, note, "a note")
    return list(notes)


def numbers(who: object, what: str, items: Sequence[tuple[Any, Any]]) -> dict[str, float]:
    """``items`` as names and floats; EvaluationError for anything else."""
    out: dict[str, float] = {}
    for name, value in items:
        if not isinstance(name, str):
            raise EvaluationError(f"{named(who)}: {what} has {described(name)} for a name; a text is wanted")
        try:
            if isinstance(value, (str, bytes, bool)) or value is None:
                raise TypeError
            out[name] = float(value)
        except KeyboardInterrupt:
            raise
        except BaseException:
            raise EvaluationError(
                f"{named(who)}: {what} gives {described(value)} for {name!r}; a number is wanted"
            ) from None
    return out


def plain(who: object, key: str) -> dict[str, Any]:
    """The mapping ``key`` of ``who`` as JSON has it: scalars of libraries as numbers, dtypes and the like as text.

    Raises:
        EvaluationError: it is no mapping, or JSON cannot hold it: it contains itself, or is nested too deep.
    """
    value = _get(who, key)
    if not isinstance(value, Mapping):
        raise _wrong(who, key, value, "a mapping that JSON can hold")
    with calling(who, f"{key}, read as JSON,"):
        if too_deep(value):
            raise EvaluationError(
                f"{named(who)}: {key} is nested more than {DEEPEST} levels deep, or contains itself; JSON must hold it"
            )
        found: dict[str, Any] = msgspec.to_builtins(dict(value), enc_hook=_plain)
        msgspec.json.encode(found)
    return found


def _plain(value: object) -> object:
    """What JSON holds in place of ``value``: a numpy or torch scalar as a number, a dtype and the like as text."""
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)


def too_deep(value: object) -> bool:
    """Whether mappings and lists in ``value`` are nested more than :data:`DEEPEST` levels, or without end."""
    level: list[object] = [value]
    seen = 0
    for _ in range(DEEPEST):
        inner: list[object] = []
        for one in level:
            if isinstance(one, Mapping):
                inner += one.values()
            elif isinstance(one, (list, tuple, set, frozenset)):
                inner += one
        level = [one for one in inner if isinstance(one, (Mapping, list, tuple, set, frozenset))]
        seen += len(inner)
        if not level:
            return False
        if seen > 50_000_000:  # a small cycle that branches grows with every level
            return True
    return True


def _get(who: object, key: str) -> Any:
    with calling(who, f"its attribute {key}"):
        try:
            return getattr(who, key)
        except AttributeError as error:
            if hasattr(type(who), key):  # a property, whose own code is at fault
                raise
            raise EvaluationError(f"{named(who)} has no {key}, which every {named(who).split()[0]} needs") from error


def _text(who: object, key: str, *, empty: bool = True) -> None:
    value = _get(who, key)
    if type(value) is not str or not (empty or value.strip()):  # a subclass may be no text to JSON
        raise _wrong(who, key, value, "a str" + " that is not empty" * (not empty))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(who, key, value, "a text that is UTF-8") from None


def _whole(who: object, key: str, least: int, below: int | None = None) -> int:
    value = _get(who, key)
    wanted = f"a whole number from {least} up" if below is None else f"a whole number from {least} to {below - 1}"
    try:
        if isinstance(value, (bool, float)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise _wrong(who, key, value, wanted) from None
    if number < least or (below is not None and number >= below):
        raise _wrong(who, key, value, wanted)
    return number


def _ids(who: object, key: str, size: int | None = None) -> None:
    value = _get(who, key)
    wanted = "a sequence of ids from 0 up" if size is None else f"a sequence of ids from 0 to {size - 1}"
    below = 1 << 63 if size is None else size
    if isinstance(value, range):
        inside = not value or (min(value) >= 0 and max(value) < below)
    elif isinstance(value, (str, bytes)) or not hasattr(type(value), "__iter__") or not hasattr(type(value), "__len__"):
        inside = False
    else:
        with calling(who, f"its attribute {key}"):
            try:
                inside = all(0 <= operator.index(i) < below for i in value)
            except TypeError:
                inside = False
    if not inside:
        raise _wrong(who, key, value, wanted)


def _method(who: object, key: str) -> None:
    value = _get(who, key)
    if not callable(value):
        raise _wrong(who, key, value, "a method")


def _wrong(who: object, key: str, value: object, wanted: str) -> EvaluationError:
    return EvaluationError(f"{named(who)}: {key} must be {wanted}, not {described(value)}")
