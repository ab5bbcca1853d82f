"""The documentation says what is so: its commands exist, its examples run, its reference is current."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from evalgpt import hooks
from evalgpt.cli import cli
from evalgpt.plugins import load_plugins

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLUGINS = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readme_begins_with_its_two_commands():
    commands = [line for block in blocks(README, "bash")[:2] for line in block.strip().splitlines()]
    assert commands == [
        "pip install -c constraints.txt '.[offline]' && evalgpt run --model scratch --task pairs --task story",
        "pip install -c constraints.txt '.[test]' && pytest",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_named_in_the_docs_exist(page):
    options = {opt for command in cli.commands.values() for p in command.params for opt in (*p.opts, *p.secondary_opts)}
    for line in "\n".join(blocks(page.read_text(encoding="utf-8"), "bash")).splitlines():
        for command, rest in re.findall(r"\bevalgpt (\w+)([^|&#]*)", line):
            assert command in cli.commands, line
            assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest)) <= options, line


def test_every_registered_protocol_is_in_the_readme():
    for name in load_plugins().entries["protocol"]:
        assert f"`{name}`" in README


def test_every_hook_is_documented_with_its_arguments():
    for name, function in vars(hooks).items():
        if name.startswith("register_"):
            arguments = ", ".join(inspect.signature(function).parameters)
            assert f"`{name}({arguments})`" in PLUGINS


def test_the_command_line_reference_is_current():
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs/make_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.render(), "run python docs/make_cli.py"


@pytest.mark.parametrize(("number", "model", "task"), [(0, "unigram", "haiku"), (1, "bigram", "story")])
def test_the_plugin_examples_run(tmp_path, number, model, task):
    plugin = tmp_path / f"example_{number}.py"
    plugin.write_text(blocks(PLUGINS, "python")[number])
    result = CliRunner().invoke(cli, ["run", "--plugin", str(plugin), "-m", model, "-t", task, "-p", "exact"])
    assert result.exit_code == 0, result.output
    assert f"{model} on {task}" in result.stdout


def test_the_readmes_python_runs(capsys):
    (code,) = blocks(README, "python")
    exec(compile(code, "README.md", "exec"), {})
    loss, scored = capsys.readouterr().out.split()
    assert 10 < float(loss) < 12
    assert scored == "6"


def test_the_changelog_knows_the_version():
    from importlib.metadata import version

    assert f"## {version('evalgpt')}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
