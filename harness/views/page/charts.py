"""The page's charts: matplotlib's SVG, with classes in place of colours and fonts, so that the style sheet has them.

No text from a report is drawn: names stand in the page beside the charts. Equal data gives equal bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evalgpt.views.page.bins import Bin, Calibration

__all__ = ["along_chart", "calibration_chart", "context_chart", "distribution_chart", "learning_chart", "plain_chart"]


COLOURS = {
    name: f"#0{number:x}0{number:x}0{number:x}"
    for number, name in enumerate(("ink", "muted", "grid", "a", "b", "band-a", "band-b"), start=1)
}
"""Never seen: each stands for a class of the style sheet."""

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "evalgpt",
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "font.size": 11,
    "font.family": "sans-serif",
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 1,
    "xtick.color": COLOURS["ink"],
    "ytick.color": COLOURS["ink"],
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "figure.constrained_layout.use": True,
}

LINES = {1: "a", 2: "ba"}
"""Colours of the lines of a chart: of two models the candidate has the colour that marks where it is better."""

NARROW, WIDE = (5.6, 3.4), (14.5, 3.9)

MARKERS = 120
"""Evaluations up to which each is marked."""

_SVG = "{http://www.w3.org/2000/svg}"

_KEPT = ("text-anchor", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "font-size")


def context_chart(series: Sequence[Sequence[Bin]], title: str) -> Markup:
    """Mean loss by the number of tokens fed, on a doubling scale; a line with its 95 % band for each series."""

    def draw(ax: Axes) -> None:
        ax.set_xscale("log", base=2)
        for number, bins in enumerate(series):
            _line(ax, [(b.begin * b.end) ** 0.5 for b in bins], bins, LINES[len(series)][number])
        longest = max(b.end for bins in series for b in bins)
        ticks = [2**k for k in range(0, int(longest).bit_length() + 1, 2 if longest > 64 else 1)]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.set_xlabel("tokens before it in the window")
        ax.set_ylabel("loss, nats per token")

    return _svg(draw, NARROW, title)


def along_chart(series: Sequence[Sequence[Bin]], places: bool, starts: Sequence[float], title: str) -> Markup:
    """The loss along the text, one line for each series; ``starts`` are where chapters begin, numbered from 1."""

    def draw(ax: Axes) -> None:
        for number, bins in enumerate(series):
            _line(ax, [(b.begin + b.end) / 2 for b in bins], bins, LINES[len(series)][number])
        for number, at in enumerate(starts, start=1):
            ax.axvline(at, color=COLOURS["muted"], linewidth=1, dashes=(2, 3), clip_on=False)
            if len(starts) <= 40:
                ax.annotate(
                    str(number), (at, 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points"
                )
        ax.set_xlim(0, max(b.end for bins in series for b in bins))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        ax.set_xlabel("bytes from the beginning" if places else "tokens from the beginning")
        ax.set_ylabel("bits per byte" if places else "loss, nats per token")

    return _svg(draw, WIDE, title)


def distribution_chart(bins: Sequence[Bin], mean: float, title: str, labels: tuple[str, str]) -> Markup:
    """How many of the values lie where, and where their mean is; below zero in the colour of the candidate."""

    def draw(ax: Axes) -> None:
        signed = bins[0].begin < 0
        for bin_ in bins:
            colour = COLOURS["b" if signed and bin_.begin >= 0 else "a"]
            width = 0.86 * (bin_.end - bin_.begin)
            ax.bar([bin_.begin], [100 * bin_.value], width, align="edge", color=colour, linewidth=0, clip_on=False)
        ax.axvline(mean, color=COLOURS["ink"], linewidth=1.5, dashes=(4, 3), clip_on=False)
        ax.annotate(f"mean {mean:.2f}".replace("-", "−"), (mean, 1), (5, -4), xycoords=("data", "axes fraction"),
                    textcoords="offset points", va="top")  # fmt: skip
        ax.set_xlim(bins[0].begin, bins[-1].end)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])

    return _svg(draw, NARROW, title)


def calibration_chart(found: Calibration, title: str) -> Markup:
    """How often the likeliest token was right against the probability that the model gave it."""

    def draw(ax: Axes) -> None:
        ax.plot([0, 100], [0, 100], color=COLOURS["muted"], linewidth=1, dashes=(4, 3), clip_on=False)
        for bin_, x in zip(found.bins, found.predicted, strict=True):
            ax.plot([100 * x] * 2, [100 * (bin_.low or 0), 100 * (bin_.high or 0)], color=COLOURS["b"], linewidth=2)
        points = [100 * b.value for b in found.bins]
        ax.plot([100 * x for x in found.predicted], points, color=COLOURS["a"], linewidth=2, clip_on=False)
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 100)
        ax.set_xlabel("probability of the likeliest token, %")
        ax.set_ylabel("right, % of the time")

    return _svg(draw, NARROW, title)


def learning_chart(
    batches: tuple[Sequence[float], Sequence[float], Sequence[float]],
    evaluated: Sequence[Sequence[tuple[float, float]]],
    title: str,
) -> Markup:
    """Losses over updates: ``batches`` are updates, their batches' losses, and these smoothed (or nothing);
    ``evaluated`` are the points (updates, loss) of the train part, dots, and of the validation part, squares."""

    def draw(ax: Axes) -> None:
        at, raw, smooth = batches
        if raw:
            ax.plot(at, raw, color=COLOURS["muted"], linewidth=0.75, clip_on=False)
        if smooth:
            ax.plot(at, smooth, color=COLOURS["band-a"], linewidth=6, clip_on=False, solid_capstyle="butt")
        for points, name, cap in zip(evaluated, "ab", ("round", "projecting"), strict=True):
            if points:
                x, y = zip(*points, strict=True)
                ax.plot(
                    x,
                    y,
                    color=COLOURS[name],
                    linewidth=2,
                    dashes=(None, None) if name == "a" else (5, 1.5),
                    clip_on=False,
                )
                if len(points) <= MARKERS:
                    ax.plot([i for at in x for i in (at, at, math.nan)], [i for at in y for i in (at, at, math.nan)],
                            color=COLOURS[name], linewidth=7, solid_capstyle=cap, clip_on=False)  # fmt: skip
        _updates(ax)
        ax.set_ylabel("loss, nats per token")

    return _svg(draw, WIDE, title)


def plain_chart(at: Sequence[float], values: Sequence[float], label: str, title: str) -> Markup:
    """Values over updates, from zero."""

    def draw(ax: Axes) -> None:
        ax.plot(at, values, color=COLOURS["a"], linewidth=2, clip_on=False)
        if len(at) == 1:
            ax.plot(
                [at[0]] * 2, [values[0]] * 2, color=COLOURS["a"], linewidth=7, solid_capstyle="round", clip_on=False
            )
        _updates(ax)
        ax.set_ylim(bottom=min(0.0, *values), top=None if max(values) > 0 else 1)
        ax.ticklabel_format(axis="y", style="plain", useOffset=False)
        ax.set_ylabel(label)

    return _svg(draw, NARROW, title)


def _updates(ax: Axes) -> None:
    ax.set_xlim(0, max(ax.dataLim.x1, 1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.set_xlabel("updates")


def _line(ax: Axes, x: Sequence[float], bins: Sequence[Bin], name: str) -> None:
    known = [(at, b.low, b.high) for at, b in zip(x, bins, strict=True) if b.low is not None and b.high is not None]
    if len(known) > 1:
        outline = [(at, low) for at, low, _ in known] + [(at, high) for at, _, high in reversed(known)]
        ax.fill(*zip(*outline, strict=True), color=COLOURS[f"band-{name}"], linewidth=0, clip_on=False)
    dashes = (None, None) if name == "a" else (5, 1.5)
    ax.plot(x, [b.value for b in bins], color=COLOURS[name], linewidth=2, dashes=dashes, clip_on=False)
    if len(x) == 1:
        ax.plot([x[0] * 0.95, x[0] * 1.05], [bins[0].value] * 2, color=COLOURS[name], linewidth=4, clip_on=False)


def _svg(draw: Any, size: tuple[float, float], title: str) -> Markup:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not what this user's matplotlibrc says
        for key, value in SETTINGS.items():
            matplotlib.rcParams[key] = value
        figure = Figure(figsize=size)
        ax = figure.subplots()
        draw(ax)
        for line in [*ax.get_xgridlines(), *ax.get_ygridlines()]:
            line.set_clip_on(False)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _styled(out.getvalue(), title)


def _styled(data: bytes, title: str) -> Markup:
    """The drawing without style attributes, ids and backgrounds; colours become classes."""
    root = ElementTree.fromstring(data)  # noqa: S314 - matplotlib wrote it
    names = {colour: name for name, colour in COLOURS.items()}
    for parent in root.iter():
        parent.attrib.pop("id", None)
        for child in list(parent):
            style = _declarations(child)
            if child.tag in (f"{_SVG}defs", f"{_SVG}metadata") or style.get("fill") == "#ffffff":
                parent.remove(child)
                continue
            child.attrib.pop("style", None)
            child.attrib.pop("clip-path", None)
            child.attrib |= {key: value.removesuffix("px") for key, value in style.items() if key in _KEPT}
            classes = [f"{key}-{names[style[key]]}" for key in ("fill", "stroke") if style.get(key) in names]
            if style.get("fill") == "none":
                child.set("fill", "none")
            if classes:
                child.set("class", " ".join(classes))
            if "rotate(-0" in child.get("transform", ""):
                del child.attrib["transform"]
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": title}
    ElementTree.register_namespace("", _SVG[1:-1])
    text = ElementTree.tostring(root, encoding="unicode").replace(' xmlns="http://www.w3.org/2000/svg"', "")
    return Markup(re.sub(r"\s*\n\s*", " ", text))  # noqa: S704 - numbers, and words of this file


def _declarations(element: ElementTree.Element) -> dict[str, str]:
    pairs = (part.partition(":") for part in element.get("style", "").split(";"))
    return {key.strip(): value.strip() for key, _, value in pairs if value}
