"""One HTML file from what evalgpt wrote: it opens offline, runs no script but its own, and shows texts as text."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evalgpt.core import UsageError
from evalgpt.report.detail import RowDetail
from evalgpt.report.document import Evaluation, Report
from evalgpt.report.targets import Existing, Kind
from evalgpt.studies.compare.comparison import pairs_of
from evalgpt.studies.explanation import Explanation
from evalgpt.studies.training.log import Training
from evalgpt.views.page.bins import Track
from evalgpt.views.page.cells import shown
from evalgpt.views.page.comparison import ComparisonView, comparison_view
from evalgpt.views.page.evaluation import EvaluationView, evaluation_view
from evalgpt.views.page.explanation import walk_view
from evalgpt.views.page.training import training_view

__all__ = ["BEGINS", "build_page", "page_kind"]


BEGINS = b"<!doctype html>\n<!-- a page of evalgpt -->\n"
"""How every page begins, and none but a page."""

SOURCES = b"<!-- made from "
"""How the next line begins where the page says which files it was made from."""


def build_page(
    reports: Sequence[Report],
    details: Sequence[Mapping[tuple[int, int], RowDetail]] = (),
    title: str | None = None,
    *,
    explanations: Sequence[Explanation] = (),
    trainings: Sequence[Training] = (),
    sources: Sequence[str] = (),
) -> bytes:
    """The page of ``reports``, ``explanations`` and ``trainings``, UTF-8. The same documents give the same bytes.

    ``details`` has, for each report, what is known of single tokens, by (number of the evaluation, number of the row).
    Evaluations of the same text under the same protocol are compared with the first. ``sources`` names the files of the
    documents, for :func:`page_kind`.

    Raises:
        UsageError: there is nothing to show, or a report does not fit together.
    """
    evaluations = [evaluation for report in reports for evaluation in report.evaluations]
    if not evaluations and not explanations and not trainings:
        raise UsageError("there is no evaluation in the report, so there is nothing to show")
    views: list[EvaluationView] = []
    for report, found in zip(reports, details or [{}] * len(reports), strict=True):
        for number, evaluation in enumerate(report.evaluations):
            rows = {r: detail for (e, r), detail in found.items() if e == number}
            views.append(evaluation_view(evaluation, rows, f"e{len(views) + 1}"))
    comparisons, left_out = _comparisons(evaluations, views)
    style, script = _file("page.css"), _file("page.js")
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=title or _title(evaluations, explanations, trainings),
            policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "base-uri 'none'; form-action 'none'",
            style=Markup(style),  # noqa: S704 - files of this package
            script=Markup(script),  # noqa: S704
            reports=len(reports),
            runs=[report.run for report in reports] + [log.run for log in trainings],
            views=views,
            comparisons=comparisons,
            left_out=left_out,
            walks=[walk_view(found, f"w{number}") for number, found in enumerate(explanations, 1)],
            trainings=[training_view(found, f"t{number}") for number, found in enumerate(trainings, 1)],
        )
    )
    return BEGINS + _line_of(sources) + page.encode()


def page_kind(sources: Sequence[str]) -> Kind:
    """The kind of a page. One that was made from the files ``sources`` is made again, so no flag is needed to replace
    it; one of other files, or that does not say of which, is another page."""

    def find(path: str) -> Existing | None:
        try:
            with Path(path).open("rb") as file:
                if file.read(len(BEGINS)) != BEGINS:
                    return None
                line = file.readline()
        except OSError:
            return None
        made_from = _sources_in(line)
        command = None if made_from is None else ("evalgpt", "html", *made_from)
        return Existing("a page", command, replaceable=bool(sources) and line == _line_of(sources))

    return Kind("a page", find)


def _line_of(sources: Sequence[str]) -> bytes:
    """A comment with ``sources`` as JSON, in ASCII; ``-`` and ``>`` are spelled out, as they could end a comment."""
    if not sources:
        return b""
    named = json.dumps(list(sources)).replace("-", "\\u002d").replace(">", "\\u003e")
    return SOURCES + named.encode() + b" -->\n"


def _sources_in(line: bytes) -> list[str] | None:
    try:
        found = json.loads(line.removeprefix(SOURCES).removesuffix(b" -->\n"))
    except (ValueError, RecursionError):
        return None
    return [str(path) for path in found] if line.startswith(SOURCES) and isinstance(found, list) else None


def _comparisons(
    evaluations: Sequence[Evaluation], views: Sequence[EvaluationView]
) -> tuple[list[ComparisonView], list[str]]:
    """Every candidate against the first model, and what could not be compared, in words."""
    if len(evaluations) < 2:
        return [], []
    try:
        pairs, left_out = pairs_of(evaluations)
    except UsageError as error:
        return [], [str(error)]
    found: list[ComparisonView] = []
    for a, b in pairs:
        try:
            found.append(comparison_view(a, b, [_track(views, a), _track(views, b)], f"d{len(found) + 1}"))
        except UsageError as error:
            left_out.append(f"{b.model.spec} on {b.task.spec}: {error}")
    return found, left_out


def _track(views: Sequence[EvaluationView], evaluation: Evaluation) -> Track | None:
    return next(view.track for view in views if view.evaluation is evaluation)


def _title(
    evaluations: Sequence[Evaluation], explanations: Sequence[Explanation], trainings: Sequence[Training]
) -> str:
    """What was measured; where nothing was, what was trained; else what is explained."""
    of = [(e.model.spec, e.task.spec) for e in evaluations] or [(log.model.spec, log.task.spec) for log in trainings]
    if of:
        named = f"{_named([m for m, _ in of], 'models', ' and ')} on {_named([t for _, t in of], 'texts', ', ')}"
        return named if evaluations else f"Training of {named}"
    return f"From logits to perplexity: {_named([e.model.spec for e in explanations], 'models', ' and ')}"


def _named(names: Sequence[str], plural: str, between: str) -> str:
    distinct = list(dict.fromkeys(names))
    return f"{len(distinct)} {plural}" if len(distinct) > 3 else between.join(distinct)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evalgpt.views.page", "files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _plain
    environment.filters["shown"] = _apart
    environment.filters["command"] = shlex.join
    return environment


def _plain(value: Any) -> str:
    """Text from a report on one line, without anything invisible."""
    return " ".join(shown(str(value)).split("\n"))


def _apart(value: Any) -> Markup:
    """The same, escaped, and set apart from the direction of what is around."""
    return Markup("<bdi>{}</bdi>").format(_plain(value))


def _file(name: str) -> str:
    return files("evalgpt.views.page").joinpath("files", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
