"""Texts too long to hold: tokenized, scored and counted part by part, in memory that does not grow with them.

A text is tokenized between places where its tokenizer says it may be cut (:class:`evalgpt.core.CutsText`); the
protocol takes ids one after another; each loss is counted and forgotten. The interval's sequence is kept in a bounded
number of cells, each the sum over neighbouring tokens: the cosines it is projected on are far slower.
"""

from __future__ import annotations

import hashlib
import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import CutsText, Document, Encoding, EvaluationError, Model, UsageError, Window
from evalgpt.core.answers import encode
from evalgpt.core.guard import calling, described
from evalgpt.core.protocol import Protocol
from evalgpt.report.counts import word_starts
from evalgpt.report.faults import TextFaults
from evalgpt.report.metrics import Ledger, Metrics, Sums, context_lengths, metrics_of, token_bytes, uncertainty_of
from evalgpt.report.normalising import change_of
from evalgpt.scoring.batching import Scorer
from evalgpt.scoring.cells import Cells
from evalgpt.scoring.engine import Progress, check_tokens, score_batches

__all__ = ["Streamed", "encoded_parts", "score_stream"]


SLICE = 1 << 20
"""Characters of a text that are tokenized together where it does not come in parts."""

WAVE = 64
"""Batches that are drawn together: as many windows as they hold are in memory."""

SHORT = 4
"""Cells of a text, in the mean, from which on the interval is taken from cells. One over two texts counts as the first
one's, so with fewer the sums of whole texts are nearer to the truth, above all where texts repeat."""

NO_CONTEXT = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True)
class Streamed:
    """What is known of texts that were not kept. ``longest`` is the number of tokens of the longest."""

    metrics: Metrics
    ledger: Ledger
    longest: int
    documents: int
    characters: int
    bytes: int
    sha256: str
    faults: TextFaults
    encoding_seconds: float
    scoring_seconds: float


def score_stream(
    scorer: Scorer,
    documents: Iterable[Document],
    protocol: Protocol,
    size: int,
    progress: Callable[[Progress], None] | None = None,
) -> Streamed:
    """Score ``documents`` under ``protocol``, bound and able to stream, ``size`` bytes in all, for the progress.

    Raises:
        EvaluationError: as :func:`evalgpt.scoring.engine.score_documents`.
        UsageError: a document has a context or a group.
    """
    counts = _Counts(scorer.model)
    began = time.perf_counter()
    scoring = 0.0
    windows = _windows(counts, documents, protocol)
    while wave := list(_wave(windows, WAVE * scorer.size.tokens)):
        started = time.perf_counter()
        losses = iter(_losses(scorer, [(text, window) for text, window in wave if window is not None]))
        for text, window in wave:
            if window is None:
                text.close()
            else:
                text.scored(window, next(losses))
        scoring += time.perf_counter() - started
        if progress is not None and counts.scores:
            total = max(counts.scores, round(counts.scores * size / max(counts.bytes_read, 1)))
            progress(Progress(counts.scores, total, counts.nll / counts.scores))
    return counts.result(protocol, time.perf_counter() - began - scoring, scoring)


def encoded_parts(model: Model, document: Document) -> Iterator[tuple[str, Encoding]]:
    """The text of ``document`` in parts with their encodings; their ids are, one after another, those of the whole."""
    rest, where = "", f"document {document.id!r}"
    whole = document.text
    slices = (whole[i : i + SLICE] for i in range(0, len(whole), SLICE))
    for text in document.parts() if document.parts is not None else slices:
        rest += text
        if not isinstance(model, CutsText):
            continue
        with calling(model, "cut()", where):
            at = model.cut(rest)
        if isinstance(at, bool) or not isinstance(at, (int, np.integer)) or not 0 <= at <= len(rest):
            raise EvaluationError(
                f"model {model.name}: cut() returned {described(at)} in {where}; a place in the text is wanted, 0 to "
                f"{len(rest)}"
            )
        if at:
            yield rest[:at], encode(model, rest[:at], where)
            rest = rest[at:]
    if rest:
        yield rest, encode(model, rest, where)


def _windows(
    counts: _Counts, documents: Iterable[Document], protocol: Protocol
) -> Iterator[tuple[_Text, Window | None]]:
    """Each text's windows, then None."""
    for document in documents:
        if document.context or document.group:
            raise UsageError(f"document {document.id!r} has a context or a group, which long texts cannot have")
        text = _Text(counts, document)
        windows = protocol.stream(text.ids(), counts.model.prefix_id)
        if windows is None:
            raise RuntimeError(f"protocol {protocol.name} cannot stream")
        for window in windows:
            yield text, window
        yield text, None


def _losses(scorer: Scorer, asked: Sequence[tuple[_Text, Window]]) -> list[NDArray[np.float32]]:
    """The losses of each window, which stands beside its text."""

    def where(number: int) -> str:
        return _place(*asked[number])

    found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(asked)
    for i, scores in score_batches(scorer, [window for _, window in asked], where):
        found[i] = scores.nll
    return found


def _place(text: _Text, window: Window) -> str:
    first = window.begin + window.start
    return f"document {text.document.id!r}, window of tokens {first} to {window.begin + len(window.ids) - 1}"


def _wave(windows: Iterator[tuple[_Text, Window | None]], tokens: int) -> Iterator[tuple[_Text, Window | None]]:
    """The next windows, of about ``tokens`` tokens."""
    for text, window in windows:
        yield text, window
        tokens -= 1 if window is None else len(window.ids)
        if tokens <= 0:
            return


class _Counts:
    """Sums over all texts."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.cells = Cells()
        self.scores = self.words = self.documents = self.characters = self.bytes_read = self.words_read = 0
        self.bytes = 0.0
        self.tokens = self.head = self.tail = self.unscored = self.longest = 0
        self.nll = self.perplexities = 0.0
        self.known = True
        self.lengths = np.zeros(model.context_length + 2, np.int64)
        self.lines = hashlib.sha256()
        self.only = ""
        self.faults = TextFaults()
        self.first: dict[str, tuple[int, str]] = {}  # number and id by the hash of the text, which is not kept
        self.originals = array("q")  # of each text, the number of the one that it repeats, or its own
        self.sums = array("d")  # of each text, its loss, tokens and bytes, as far as they were scored

    def result(self, protocol: Protocol, encoding: float, scoring: float) -> Streamed:
        if not self.scores:
            check_tokens(self.tokens)
            raise EvaluationError(f"nothing to score: protocol {protocol.name} finds no window in {self.tokens} tokens")
        size: tuple[int | None, int | None] = (round(self.bytes), self.words) if self.known else (None, None)
        if self.scores == self.tokens:
            size = (self.bytes_read, self.words_read)
        sums = Sums(self.scores, self.nll, self.nll, *size)
        (total, count, sizes), document, tokens = self._entries()
        texts = self.documents - self.unscored
        return Streamed(
            metrics=metrics_of(
                sums,
                self.perplexities / texts if texts > 1 and math.isfinite(self.perplexities) else None,
                uncertainty_of((total, count), (total, sizes), document, sums, tokens),
            ),
            ledger=Ledger(
                tokens=self.tokens,
                given=0,
                scored=self.scores,
                head=self.head,
                inside=0,
                tail=self.tail,
                twice=0,
                scores=self.scores,
                pieces=self.documents,
                unscored_pieces=self.unscored,
                context=context_lengths(np.cumsum(self.lengths)),
            ),
            longest=self.longest,
            documents=self.documents,
            characters=self.characters,
            bytes=self.bytes_read,
            sha256=self.only if self.documents == 1 else self.lines.hexdigest(),
            faults=self.faults,
            encoding_seconds=encoding,
            scoring_seconds=scoring,
        )

    def see(self, text: _Text) -> None:
        """Take in that ``text`` is read, whose hash is ``only``."""
        number, name = self.first.setdefault(self.only, (text.number, text.document.id))
        self.originals.append(number)
        self.sums.extend((text.nll, text.scores, text.bytes))
        self.faults.documents = self.faults.units = self.documents
        if number != text.number:
            self.faults.repeated(text.document.id, name)

    def _entries(self) -> tuple[list[NDArray[np.float64]], NDArray[np.int64], float]:
        """What the interval is taken from: loss, tokens and bytes of entries, their documents, and tokens of an entry.

        Entries are cells, or whole texts where these are too short for cells of their own. Those of a repeated text are
        there once, with the weight of all copies, which have the same losses.
        """
        originals = np.frombuffer(self.originals, np.int64)
        copies = np.bincount(originals, minlength=len(originals)).astype(np.float64)
        if self.cells.each > 1 and self.scores < SHORT * self.cells.each * self.documents:
            columns = list(np.frombuffer(self.sums).reshape(-1, 3).T)
            document, tokens = np.arange(len(originals)), self.scores / self.documents
        else:
            *columns, document = self.cells.columns()
            tokens = self.cells.mean_tokens()
        weight = copies[document]
        kept = (weight > 0) & (columns[1] > 0)
        return [column[kept] * weight[kept] for column in columns], document[kept], tokens


class _Text:
    """One text on its way: what was tokenized and is not yet scored."""

    def __init__(self, counts: _Counts, document: Document) -> None:
        self.counts, self.document = counts, document
        self.number = counts.documents
        counts.documents += 1
        self.digest = hashlib.sha256()
        self.tokens = self.at = self.scores = self.characters = 0
        self.nll = self.bytes = 0.0
        self.inside = self.changed = False
        self.waiting = np.empty((0, 2))

    def ids(self) -> Iterator[int]:
        """The ids one after another; of each token its bytes and the words that begin in it are kept until scored."""
        for text, encoding in encoded_parts(self.counts.model, self.document):
            data = text.encode()
            self.digest.update(data)
            self.counts.faults.see(self.document.id, text, self.characters)
            if not self.changed and (change := change_of(self.counts.model, text, encoding.ids)):
                self.counts.faults.see_change(self.document.id, change)
                self.changed = True
            self.characters += len(text)
            self.counts.characters += len(text)
            self.counts.bytes_read += len(data)
            self.waiting = np.concatenate([self.waiting, self._sizes(text, len(data), encoding)])
            self.tokens += len(encoding.ids)
            yield from encoding.ids

    def _sizes(self, text: str, size: int, encoding: Encoding) -> NDArray[np.float64]:
        """Per token its bytes of the text and how many words begin in them, float64 [tokens, 2]."""
        spans, starts = None, word_starts(text)
        if self.inside and not text[:1].isspace():  # the last part's word goes on
            starts = starts[1:]
        self.inside = not text[-1:].isspace()
        self.counts.words_read += len(starts)
        if not encoding.ids:
            return np.empty((0, 2))
        words = np.zeros(len(encoding.ids))
        if encoding.byte_spans is None:
            self.counts.known = False
            words[:1] = len(starts)
        else:
            both = np.asarray(encoding.byte_spans, np.int64).reshape(-1, 2)
            spans = (both[:, 0], both[:, 1])
            ends = np.maximum.accumulate(both[:, 1])
            np.add.at(words, np.searchsorted(ends, starts, side="right").clip(max=max(len(words) - 1, 0)), 1)
        return np.stack([token_bytes(len(encoding.ids), spans, 0, size), words], 1)

    def scored(self, window: Window, nll: NDArray[np.float32]) -> None:
        counts = self.counts
        first = window.begin + window.start
        if not self.scores:
            counts.head += first
        self.waiting = self.waiting[first - self.at :]
        own, self.waiting = self.waiting[: len(nll)], self.waiting[len(nll) :]
        self.at = first + len(nll)
        losses = nll.astype(np.float64)
        total = float(losses.sum())
        self.scores += len(nll)
        self.nll += total
        counts.scores += len(nll)
        counts.nll += total
        size = float(own[:, 0].sum())
        self.bytes += size
        counts.bytes += size
        counts.words += int(own[:, 1].sum())
        counts.lengths[window.start] += 1
        counts.lengths[window.start + len(nll)] -= 1
        counts.cells.add(losses, own[:, 0], self.number)

    def close(self) -> None:
        counts = self.counts
        counts.tokens += self.tokens
        counts.tail += self.tokens - self.at
        counts.longest = max(counts.longest, self.tokens)
        counts.unscored += not self.scores
        if self.scores:
            loss = self.nll / self.scores
            counts.perplexities += math.exp(loss) if loss < 709 else math.inf
        counts.only = self.digest.hexdigest()
        counts.see(self)
        counts.lines.update(f"{NO_CONTEXT}\t{counts.only}\n".encode())
