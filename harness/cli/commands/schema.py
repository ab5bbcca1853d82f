"""``evalgpt schema``: the JSON Schema of every document."""

from __future__ import annotations

import click

from evalgpt.cli.options import common

__all__ = ["command"]


@click.command("schema")
@click.argument(
    "what",
    type=click.Choice(["report", "comparison", "difference", "check", "explanation", "generation", "training"]),
    default="report",
)
@common
def command(what: str) -> None:
    """Print the JSON Schema of a report, or of what another command writes with -o."""
    import json

    import msgspec

    from evalgpt.report.document import Report, json_schema
    from evalgpt.studies.compare.comparison import Comparisons
    from evalgpt.studies.compare.difference import Differences
    from evalgpt.studies.explanation import Explanation
    from evalgpt.studies.generation import Generation
    from evalgpt.studies.training.log import Training
    from evalgpt.testing.kit import Checked

    documents: dict[str, type[msgspec.Struct]] = {
        "report": Report,
        "comparison": Comparisons,
        "difference": Differences,
        "check": Checked,
        "explanation": Explanation,
        "generation": Generation,
        "training": Training,
    }
    click.echo(json.dumps(json_schema(documents[what]), indent=2))
