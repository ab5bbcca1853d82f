"""A curve in text: losses over updates, as a terminal shows them while a model is trained."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["curve"]


Points = Sequence[tuple[float, float]]


def curve(series: Sequence[tuple[str, Points]], last: float, width: int, height: int) -> list[str]:
    """Lines of text that plot ``series``, each a mark of one character with its points (x, y), x from 0 to ``last``.

    Later series are drawn over earlier ones. The y axis holds the lowest and the highest value; lines are at most
    ``width`` wide, and there are ``height`` + 1 of them.
    """
    values = [y for _, points in series for _, y in points]
    if not values:
        return []
    low, high = min(values), max(values)
    labels = [f"{high - (high - low) * row / (height - 1):.2f}" for row in range(height)]
    margin = max(map(len, labels))
    columns = max(width - margin - 2, 8)
    grid = [[" "] * columns for _ in range(height)]
    for mark, points in series:
        for x, y in points:
            column = min(int(x / max(last, 1) * (columns - 1) + 0.5), columns - 1)
            row = 0 if high == low else int((high - y) / (high - low) * (height - 1) + 0.5)
            grid[row][column] = mark
    lines = [f"{label:>{margin}} ┤{''.join(cells)}".rstrip() for label, cells in zip(labels, grid, strict=True)]
    end = f"{last:g} updates"
    return [*lines, f"{'':>{margin}} └{'0':─<{max(columns - len(end), 1)}}{end}"]
