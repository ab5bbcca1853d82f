"""Write docs/cli.md from the commands' own help; tests/docs/test_docs.py checks that it is current."""

from __future__ import annotations

from pathlib import Path

import click

from evalgpt.cli import cli

PAGE = Path(__file__).parent / "cli.md"


def render() -> str:
    """The reference of the command line as Markdown."""
    parts = ["# Command line\n\nMade by `python docs/make_cli.py` from the commands' help.\n"]
    root = click.Context(cli, info_name="evalgpt", terminal_width=100, **cli.context_settings)
    parts.append(_section("evalgpt", cli.get_help(root)))
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root, terminal_width=100)
        parts.append(_section(f"evalgpt {name}", command.get_help(context)))
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```\n{text}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
