"""How many bytes and words of a text were scored."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Row

__all__ = ["bytes_and_words", "word_starts"]


def bytes_and_words(row: Row, scored: NDArray[np.bool_]) -> tuple[int | None, int | None]:
    """UTF-8 bytes of the ``scored`` tokens, bool [tokens], each byte once, and words whose first byte is among them, of
    the text alone; None where the tokenizer cannot tell."""
    if not row.windows:
        return 0, 0
    text = row.text.encode()
    if row.byte_spans is None:
        known = bool(scored[row.context_tokens :].all())
        return (len(text), len(row.text.split())) if known else (None, None)
    edge = len(row.document.context.encode())
    mask = np.zeros(edge + len(text) + 1, dtype=np.int64)
    spans = np.asarray(row.byte_spans, dtype=np.int64)[scored]
    np.add.at(mask, spans[:, 0], 1)
    np.add.at(mask, spans[:, 1], -1)
    covered = np.cumsum(mask[:-1])[edge:] > 0
    return int(covered.sum()), int(covered[word_starts(row.text)].sum())


def word_starts(text: str) -> NDArray[np.int64]:
    """The bytes at which runs of characters that are not white space begin."""
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = np.ones(len(characters), np.int64)
    for bound in (0x80, 0x800, 0x10000):
        widths += characters >= bound
    begins = np.fromiter((match.start() for match in re.finditer(r"\S+", text)), np.int64)
    return np.asarray((np.cumsum(widths) - widths)[begins], dtype=np.int64)
