"""The task ``pairs``: short sentences, of which everything after the first token is predicted.

A pair in the lecture is an input and a target, which is the input moved one token to the left: "every effort
moves" and " effort moves you". Together they are one sentence, whose first word is given and whose rest is scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from evalgpt.core import Document, EvaluationError, Task, UsageError
from evalgpt.core.hooks import Register, hookimpl
from evalgpt.tasks.formats import Absent, text_of
from evalgpt.tasks.reading import Unchanged, jsonl, looking_at, read_once, read_text

__all__ = ["Pairs", "make_pairs"]


LECTURE = (("every", " effort moves you"), ("I", " really like chocolate"))

FORMS = (
    'JSONL with "context" and "continuation", or "input" and "target", or "text"; or TSV of context and continuation'
)


class Pairs(Task):
    """Documents whose context is given and whose text is scored, without a BOS token before them."""

    name = "pairs"
    default_protocol = "exact:prefix=none"

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._kept = None if path is None else read_once(path)
        self._unchanged = Unchanged()

    def documents(self) -> Iterator[Document]:
        if self.path is None:
            for number, (context, text) in enumerate(LECTURE, 1):
                yield Document(f"pair-{number}", text, context)
            return
        if self._kept is None:
            self._unchanged.check(self.path)
        found = False
        for document in _from_file(self.path, self._kept or read_text(self.path)):
            found = True
            yield document
        if self._kept is None:
            self._unchanged.check(self.path)
        if not found:
            raise EvaluationError(f"{self.path} holds no pairs; expected {FORMS}")


def _from_file(path: str, text: str) -> Iterator[Document]:
    if Path(path).suffix in (".jsonl", ".ndjson", ".json"):
        for number, record in jsonl(text.split("\n"), path):
            yield _from_record(record, f"{path}, line {number}", f"line-{number}")
        return
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        cells = line.removesuffix("\r").split("\t")
        if len(cells) != 2 or not all(cells):
            raise EvaluationError(
                f"{path}, line {number} has {sum(map(bool, cells))} filled tab-separated cells, expected 2: a context "
                f"and its continuation, or an input and a target (a .jsonl file is read as JSONL)"
            )
        given, target = cells
        context = _before(given, target)
        yield Document(f"line-{number}", target, given if context is None else context)


def _from_record(record: Mapping[str, object], where: str, name: str) -> Document:
    def field(key: str) -> str:
        value = text_of(record, key, where)
        if isinstance(value, Absent):
            raise EvaluationError(f"{where}: {key} is {value.value}, and a text is wanted")
        return value

    name = str(record.get("id", name))
    if "continuation" in record and "context" in record:
        return Document(name, field("continuation"), field("context"))
    if "input" in record and "target" in record:
        return _shifted(field("input"), field("target"), where, name)
    if "text" in record:
        return Document(name, field("text"))
    raise EvaluationError(f"{where} has the fields {', '.join(record) or '(none)'}; expected {FORMS}")


def _shifted(given: str, target: str, where: str, name: str) -> Document:
    context = _before(given, target)
    if context is None:
        raise EvaluationError(
            f"{where}: the target {target!r} is not the input {given!r} moved on by a word; for a prompt and its "
            f'continuation use "context" and "continuation"'
        )
    return Document(name, target, context)


def _before(given: str, target: str) -> str | None:
    """What the input has before the target, if the two are the lecture's: all of the input but its first word begins
    the target. None otherwise."""
    head = re.match(r"\s*\S+", given)
    rest = given[head.end() :] if head else ""
    return given[: len(given) - len(rest)] if rest and target.startswith(rest) and len(target) > len(rest) else None


def make_pairs(argument: str | None) -> Task:
    """The lecture's two sentence pairs, six predicted tokens; or your own with pairs:FILE (JSONL or TSV)."""
    with looking_at(argument):
        if argument is not None and argument != "-" and (not Path(argument).exists() or Path(argument).is_dir()):
            raise UsageError(f"task 'pairs': there is no file {argument}")
        return Pairs(argument)


@hookimpl
def register_tasks(register: Register) -> None:
    register("pairs", make_pairs)
