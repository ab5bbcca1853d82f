"""The documentation says what is so: its commands exist, its examples run, its reference is current."""

import importlib.util
import inspect
import re
from importlib import resources
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from evalgpt.cli import cli
from evalgpt.core import hooks
from evalgpt.core.plugins import load_plugins
from evalgpt.report import read_report

ROOT = Path(__file__).parent.parent.parent
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
    commands = {name: cli.get_command(click.Context(cli), name) for name in cli.list_commands(click.Context(cli))}
    options = {opt for command in commands.values() for p in command.params for opt in (*p.opts, *p.secondary_opts)}
    for line in "\n".join(blocks(page.read_text(encoding="utf-8"), "bash")).splitlines():
        for command, rest in re.findall(r"\bevalgpt ([\w-]+)([^|&#]*)", line):
            assert command in commands, line
            assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest)) <= options, line


def test_every_registered_protocol_is_in_the_readme():
    for name in load_plugins().entries["protocol"]:
        assert f"`{name}`" in README, f"add a row for {name} to the table of protocols in README.md"


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


def test_the_example_of_a_protocol_is_explained_as_ours_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("last.py").write_text(blocks(PLUGINS, "python")[2])
    model = Path(__file__).parent.parent / "support/numpy_plugin.py"
    for name, protocol in (("a.json", "exact"), ("b.json", "last")):
        args = ["run", "--plugin", "last.py", "--plugin", str(model), "-m", "table", "-t", "story", "-p", protocol]
        result = CliRunner().invoke(cli, [*args, "-o", name])
        assert result.exit_code == 0, result.output
    assert read_report("b.json").evaluations[0].ledger.scored == 1
    result = CliRunner().invoke(cli, ["explain-difference", "--plugin", "last.py", "a.json", "b.json"])
    assert result.exit_code == 0, result.output
    assert "last_loss" in result.stdout


def test_the_conformance_page_says_what_is_tested():
    from support.catalogue import BROKEN, INVISIBLE, SOUND

    from evalgpt.testing import CHECKS

    page = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
    assert f"{len(BROKEN) - len(INVISIBLE)} adapters with one bug each" in page
    assert f"{len(SOUND)} sound ones" in page
    for name in CHECKS:
        assert f"`{name}`" in page
    assert f"{len(CHECKS)} checks" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_conformance_example_passes():
    (code,) = blocks((ROOT / "docs/testing.md").read_text(encoding="utf-8"), "python")
    names = {}
    exec(compile(code, "testing.md", "exec"), names)
    (mark,) = names["test_my_model"].pytestmark
    for case in mark.args[1]:
        names["test_my_model"](*case.values)


def test_the_page_of_differences_has_every_protocol_and_number():
    page = (ROOT / "docs/why.md").read_text(encoding="utf-8")
    for name in load_plugins().entries["protocol"]:
        assert f"`{name}:" in page, f"add {name} to ROWS in docs/make_why.py and make docs/why.md again with it"
    for number in (
        "perplexity v1",
        "perplexity v2",
        "perplexity v3",
        "word perplexity",
        "byte perplexity",
        "train loss",
    ):
        assert f"| {number} |" in page


@pytest.mark.slow
def test_the_script_of_that_page_runs(book_here):
    spec = importlib.util.spec_from_file_location("make_why", ROOT / "docs/make_why.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROWS = [(p, n, o) for p, n, o in module.ROWS if "2048" not in p and "stride=64" not in p]
    story = (resources.files("evalgpt.tasks") / "story.txt").read_text(encoding="utf-8")
    Path("part.txt").write_text(story[:13000], encoding="utf-8")
    page = module.page("scratch:emb_dim=8,n_heads=1,n_layers=1,context_length=512", "text:part.txt")
    assert page.count("\n| `") == 17 - 1


@pytest.mark.slow
def test_the_readmes_python_runs(capsys):
    code, _ = blocks(README, "python")
    exec(compile(code, "README.md", "exec"), {})
    loss, scored, difference, largest = capsys.readouterr().out.split()
    assert 10 < float(loss) < 12
    assert scored == "6"
    assert 0 < abs(float(difference)) < 0.1
    assert float(largest) < 1e-4


@pytest.mark.slow
def test_the_readmes_python_with_a_model_of_ones_own_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my_plugin.py").write_text(blocks(PLUGINS, "python")[1])
    _, code = blocks(README, "python")
    exec(compile(code, "README.md", "exec"), {})
    difference, largest = map(float, capsys.readouterr().out.split())
    a, b = read_report("report.json").evaluations
    assert difference != 0
    assert largest < 1e-4
    assert b.protocol.settings["context"] == 64
    assert a.model.spec == "bigram"


def printed(text):
    """The blocks of output in a page, or output itself, without the spaces at the ends of lines; how far two float32
    ways are apart is left out, as it depends on the machine."""
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"more than \S+ from", "more than", text)


@pytest.mark.slow_model
def test_the_walk_in_the_docs_is_what_is_printed(capsys):
    page, readme = printed((ROOT / "docs/explain.md").read_text(encoding="utf-8")), printed(README)
    args = ["explain", "every effort moves you", "I really like chocolate", "-m", "scratch"]
    out = printed(CliRunner().invoke(cli, args).stdout)
    shown = [block for name, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if not name]
    *steps, last, likeliest, written = shown
    assert len(steps) == 8
    for block in (*steps[:7], last, likeliest):
        assert block in out, block
    (code,) = blocks(page, "python")
    exec(compile(code, "explain.md", "exec"), {})
    assert capsys.readouterr().out == steps[7]
    assert re.search(r"```\n(3\. Target.*?)```", readme, re.DOTALL)[1] in out
    assert (
        CliRunner().invoke(cli, ["generate", "Every effort moves you", "-m", "scratch", "-n", "10"]).stdout == written
    )


def test_the_changelog_knows_the_version():
    from importlib.metadata import version

    assert f"## {version('evalgpt')}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
