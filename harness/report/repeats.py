"""Documents that repeat others: they tell nothing new, so an interval takes all copies of a text as one document."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Row

__all__ = ["contents_of", "fold_repeats", "originals_of"]


def contents_of(rows: Sequence[Row]) -> list[tuple[str, Hashable]]:
    """Of each row, what it is a part of (its group, or its document) and what it holds: split, context and text."""
    return [(row.document.group or row.document.id, (row.split, row.document.context, row.text)) for row in rows]


def originals_of(parts: Iterable[tuple[str, Hashable]]) -> list[int]:
    """Of each part, the number of the part that it repeats; its own where it repeats none.

    ``parts`` have the name of what they belong to, and their contents. What they belong to (a document, or a group such
    as a minimal pair) is a repeat as a whole: if all its contents are those of an earlier one, in the same order.
    """
    members: dict[str, list[int]] = {}
    contents = []
    for number, (name, content) in enumerate(parts):
        members.setdefault(name, []).append(number)
        contents.append(content)
    originals = list(range(len(contents)))
    first: dict[tuple[Hashable, ...], list[int]] = {}
    for numbers in members.values():
        original = first.setdefault(tuple(contents[n] for n in numbers), numbers)
        for number, same in zip(numbers, original, strict=True):
            originals[number] = same
    return originals


def fold_repeats(
    columns: Sequence[NDArray[np.float64]],
    document: NDArray[np.int64],
    place: tuple[NDArray[np.int64], NDArray[np.int64]],
    originals: Sequence[int],
) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
    """Add the entries of each repeated row to those of its original: a text then counts once, with the weight of all.

    Args:
        columns: float [n] each: numerators and denominators, an entry per token or span.
        document: int [n], not decreasing: the number of each entry's document.
        place: int [n] each: the row of each entry, and where in the row it lies.
        originals: for each row, from :func:`originals_of`.

    Returns:
        The columns and the documents, in the same order; the very same arrays where no row is a repeat.
    """
    row, at = place
    same = np.asarray(originals, dtype=np.int64)
    if np.array_equal(same, np.arange(len(same))):
        return list(columns), document
    documents = np.full(len(same), -1, dtype=np.int64)
    documents[row] = document
    alone = documents[same[row]] < 0  # nothing of the original is here, as in a sample of windows: a copy stands for it
    documents[same[row[alone]]] = document[alone]
    keys = np.stack([documents[same[row]], same[row], at])
    unique, inverse = np.unique(keys, axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    folded = [np.bincount(inverse, weights=c, minlength=unique.shape[1]).astype(np.float64) for c in columns]
    return folded, unique[0]
