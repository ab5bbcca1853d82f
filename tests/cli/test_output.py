"""Where commands write, and how they get their options: one object each."""

import importlib
import json
from dataclasses import FrozenInstanceError, dataclass, fields

import click
import pytest
from click.testing import CliRunner

from evalgpt.cli.app import COMMANDS, cli
from evalgpt.cli.commands.export import FORMATS
from evalgpt.cli.options import ModelOptions, ScoringOptions, common, option, takes
from evalgpt.cli.output import Output, check_outputs, output
from evalgpt.cli.shell import Cli
from evalgpt.core import UsageError
from evalgpt.report.targets import Targets, document_kind
from evalgpt.views.export import formats

DOCUMENT = b'{"schema": "evalgpt.report/1", "run": {"command": ["evalgpt", "run"]}}'


def output_to(path, *command, **targets):
    return Output(path=path, targets=Targets(command=command, **targets), kind=document_kind("report"))


@pytest.mark.parametrize("path", [None, "-", "/dev/stdout", "report.json"])
def test_a_target_is_standard_output_a_file_or_none(tmp_path, monkeypatch, capfdbinary, path):
    monkeypatch.chdir(tmp_path)
    made = output_to(path)
    made.check()
    made.save(b"half")
    assert capfdbinary.readouterr().out == b""  # what is not complete never goes where it cannot be replaced
    made.write(b"whole")
    out, err = capfdbinary.readouterr()
    assert made.to_stdout == (path in ("-", "/dev/stdout"))
    assert made.to_file == (path == "report.json")
    assert out == (b"whole" if made.to_stdout else b"")
    assert err == (b"Report: report.json\n" if made.to_file else b"")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"whole"] * made.to_file


def test_a_file_is_written_again_and_announced_once(tmp_path, capsys):
    made = output_to(str(tmp_path / "report.json"))
    made.save(b"1")
    made.save(b"2")
    made.complete(b"not written: it was saved")
    assert (tmp_path / "report.json").read_bytes() == b"2"
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_file_is_replaced_only_by_its_own_kind_and_command(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(DOCUMENT)
    output_to(str(path), "evalgpt", "run").check()
    output_to(str(path), "evalgpt", "other", overwrite=True).check()
    for made in (
        output_to(str(path), "evalgpt", "other"),
        output_to(str(path), "evalgpt", "run").reading(files=[str(path)]),
        output_to(str(path), "evalgpt", "run").at(str(path), document_kind("check")),
        Output(path=str(path), targets=Targets(command=["evalgpt", "run"], overwrite=True)),  # of no kind yet
    ):
        with pytest.raises(UsageError, match=r"report\.json"):
            made.check()


def test_two_outputs_are_two_files(tmp_path):
    made = output_to(str(tmp_path / "a.json"))
    check_outputs(made, made.at(None, document_kind("check")), made.at("-", document_kind("check")))
    with pytest.raises(UsageError, match="two names"):
        check_outputs(made, made.at(str(tmp_path / "." / "a.json"), document_kind("check")))


@dataclass(frozen=True, kw_only=True)
class Own(ScoringOptions):
    number: int = option("--number", type=int, default=3)


@pytest.fixture
def new_command():
    """A command that takes models, tasks and scoring by one line, and a list of what it was called with."""
    calls = []

    @click.group(cls=Cli)
    @common
    def group():
        pass

    @group.command("new")
    @takes(Own)
    @output("report", "the report")
    @common
    def new(options, output):
        calls.append((options, output))

    def call(*args):
        result = CliRunner().invoke(group, ["new", *args])
        assert result.exit_code == 0, result.output
        return calls.pop()

    return call


def test_a_command_gets_its_options_as_one_object(new_command):
    options, made = new_command("-m", "a", "-m", "b", "-t", "c", "-p", "exact", "--no-cache", "--json")
    assert (list(options.models), options.specs, options.number) == (["a", "b"], ["a", "b", "c", "exact"], 3)
    assert (options.cache, options.device, options.quiet, made.path) == (False, None, False, "-")
    with pytest.raises(FrozenInstanceError):
        options.number = 4
    options, made = new_command("-m", "a", "-t", "b", "--number", "5", "-o", "x.json", "--overwrite")
    assert (options.number, made.path, made.targets.overwrite) == (5, "x.json", True)
    assert made.command[-1] == "x.json"  # without --overwrite, which says nothing of the document


def test_an_option_of_one_name_is_one_option():
    """``--device`` is the same wherever it is: name, default and words."""
    shared = {name for item in fields(ModelOptions) for name in item.metadata["option"][0]} | {
        "--output",
        "--overwrite",
    }
    seen = {}
    for module, attribute, _ in COMMANDS.values():
        command = getattr(importlib.import_module(f"evalgpt.cli.commands.{module}"), attribute)
        for param in command.params:
            for name in shared.intersection(param.opts):
                seen.setdefault(name, []).append((param.opts, param.metavar, param.default, param.multiple))
    assert seen.keys() == shared
    for name, found in seen.items():
        assert len(found) > 3, name
        assert all(one[0] == found[0][0] and one[2:] == found[0][2:] for one in found), name


def test_every_option_has_a_help():
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == [], name


def test_the_command_knows_every_format():
    assert set(FORMATS) == set(formats.FORMATS)


@pytest.mark.slow
def test_help_loads_nothing_heavy():
    from support.cli import process, succeeded

    script = (
        "import json, sys\nfrom click.testing import CliRunner\nfrom evalgpt.cli.app import COMMANDS, cli\n"
        "for name in COMMANDS:\n"
        "    result = CliRunner().invoke(cli, [name, '--help'])\n    assert result.exit_code == 0, result.output\n"
        "heavy = {'numpy', 'rich', 'scipy', 'torch', 'jinja2', 'evalgpt.report.document'}\n"
        "print(json.dumps(sorted(heavy & sys.modules.keys())))"
    )
    assert json.loads(succeeded(process(script=script)).stdout) == []
