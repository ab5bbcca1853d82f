"""What is wrong with the texts: byte-order marks, NULs, UTF-16 read as UTF-8, repeats, changes by the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from evalgpt.core import Model, Row
from evalgpt.report.normalising import change_of
from evalgpt.report.repeats import contents_of, originals_of

__all__ = ["TextFaults", "faults_of"]


MARK, NUL = "\ufeff", "\0"

WIDE = 0.3
"""Share of NULs from which on a text is UTF-16 read as UTF-8: half of UTF-16's bytes are NUL where a text is English,
and no text has so many of its own."""

WIDEST = 0.6
"""Share of NULs from which on it is UTF-32: three quarters of its bytes are NUL."""


@dataclass(slots=True)
class Holders:
    """The documents that hold a character: how many, how often in all, the first one, and where in it."""

    documents: int = 0
    times: int = 0
    first: str = ""
    at: int = 0
    last: str = field(default="", repr=False)

    def see(self, name: str, text: str, character: str, before: int) -> None:
        """Count ``character`` in ``text``, a part of the document ``name`` behind ``before`` characters."""
        times = text.count(character)
        if times and self.last != name:
            if not self.documents:
                self.first, self.at = name, before + text.index(character)
            self.documents, self.last = self.documents + 1, name
        self.times += times


@dataclass(slots=True)
class TextFaults:
    """Counted while documents are read; ``repeats`` of ``units`` (documents, or groups of them) are copies, as ``copy``
    is of ``original``. ``changed`` documents are others to the model, as ``change`` says of the first."""

    documents: int = 0
    units: int = 0
    characters: int = 0
    marks: Holders = field(default_factory=Holders)
    nuls: Holders = field(default_factory=Holders)
    repeats: int = 0
    copy: str = ""
    original: str = ""
    changed: int = 0
    change: str = ""

    def see(self, name: str, text: str, before: int = 0) -> None:
        """Take in ``text``, a part of the document ``name`` behind ``before`` characters."""
        self.marks.see(name, text, MARK, before)
        self.nuls.see(name, text, NUL, before)
        self.characters += len(text)

    def repeated(self, copy: str, original: str) -> None:
        """Take in that the document ``copy`` repeats ``original``."""
        if not self.repeats:
            self.copy, self.original = copy, original
        self.repeats += 1

    def see_change(self, name: str, change: tuple[str, str]) -> None:
        """Take in that the document ``name`` has the first excerpt, in whose place the model reads the second."""
        if not self.changed:
            self.change = f"{name}: {change[0]} is read as {change[1]}"
        self.changed += 1

    def messages(self) -> Iterator[tuple[str, str]]:
        """Name and message of each fault."""
        if self.nuls.times > WIDE * self.characters:
            bits = 32 if self.nuls.times > WIDEST * self.characters else 16
            order = "LE" if self.nuls.at % 2 else "BE"
            yield (
                f"utf{bits}",
                f"{self.nuls.times} of {self.characters} characters are NUL, first in {self._where(self.nuls)}: "
                f"UTF-{bits} without a byte-order mark, read as UTF-8; convert it with "
                f"iconv -f UTF-{bits}{order} -t UTF-8",
            )
        elif self.nuls.times:
            yield "nul", f"{self._held(self.nuls)} NUL characters, which are scored: is it text, and is it whole?"
        if self.marks.times:
            yield (
                "byte_order_mark",
                f"{self._held(self.marks)} U+FEFF, the byte-order mark, which is scored as a character of the text; "
                f"remove it, for example with sed $'s/\\xEF\\xBB\\xBF//g'",
            )
        if self.changed:
            yield (
                "changed_text",
                f"the tokenizer changes {self.changed} of {self.documents} documents before they are scored, first "
                f"{self.change}; bits per byte and perplexity per word count the text as it was",
            )
        if self.repeats:
            kind = "documents" if self.units == self.documents else "groups of documents"
            yield (
                "repeated_documents",
                f"{self.repeats} of {self.units} {kind} repeat an earlier one, as {self.copy} repeats "
                f"{self.original}; they weigh in the loss, and the interval takes all copies as one",
            )

    def _held(self, holders: Holders) -> str:
        hold = "holds" if holders.documents == 1 else "hold"
        return f"{holders.documents} of {self.documents} documents, first {self._where(holders)}, {hold}"

    @staticmethod
    def _where(holders: Holders) -> str:
        return f"{holders.first} at character {holders.at}"


def faults_of(model: Model, rows: Sequence[Row]) -> TextFaults:
    """The faults of the documents of ``rows``, tokenized by ``model``; a group of documents, such as a minimal pair, is
    a repeat as a whole."""
    found = TextFaults()
    documents = {row.document.id: row.document for row in rows}
    for document in documents.values():
        found.see(document.id, document.context + document.text)
    changed: set[str] = set()
    for row in rows:
        name = row.document.id
        if name not in changed and (change := change_of(model, row.document.context + row.text, row.ids)):
            found.see_change(name, change)
            changed.add(name)
    contents = contents_of(rows)
    found.documents, found.units = len(documents), len({name for name, _ in contents})
    seen: set[str] = set()
    for (name, _), original in zip(contents, originals_of(contents), strict=True):
        if name not in seen and contents[original][0] != name:
            found.repeated(name, contents[original][0])
        seen.add(name)
    return found
