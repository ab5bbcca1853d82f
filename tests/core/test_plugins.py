"""Plugins: the built-in ones, installed ones, and files and modules named on the command line."""

import importlib.metadata
import math
import re
from importlib.metadata import EntryPoint

import pytest
from click.testing import CliRunner

from evalgpt import UsageError, read_report
from evalgpt.cli import cli
from evalgpt.core.plugins import load_plugins

HOOKS = ("register_models", "register_tasks", "register_protocols", "register_commands")

PLUGIN = '''
import math

import click
import numpy as np

from evalgpt import Document, Encoding, Model, Task, TokenScores, hookimpl


class Uniform(Model):
    name = "uniform"
    fingerprint = "uniform"
    context_length = 16

    def __init__(self, size):
        self.vocab_size = size

    def encode(self, text):
        ids = list(text.encode())
        return Encoding(ids, [(i, i + 1) for i in range(len(ids))])

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")

    def score(self, windows, detail=None):
        return [TokenScores(np.full(len(w.ids) - w.start, math.log(self.vocab_size), np.float32)) for w in windows]


class Greeting(Task):
    name = "greeting"

    def __init__(self, whom):
        self.whom = whom

    def documents(self):
        yield Document("greeting", f"Hello {self.whom}, how do you do?")

    def metrics(self, rows):
        return {"questions": sum(row.text.count("?") for row in rows)}


def make_uniform(argument: str | None, *, size: int = 256) -> Model:
    """Every token as likely as any other."""
    return Uniform(size)


def make_greeting(argument: str | None) -> Task:
    """A greeting."""
    return Greeting(argument or "world")


@hookimpl
def register_models(register):
    register("uniform", make_uniform)


@hookimpl
def register_tasks(register):
    register("greeting", make_greeting)


@hookimpl
def register_commands(cli):
    @cli.command()
    @click.argument("whom")
    def greet(whom):
        """Say hello."""
        click.echo(f"Hello {whom}")
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "uniform.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Write modules and have importlib.metadata say that they are installed plugins."""
    real = importlib.metadata.entry_points
    monkeypatch.syspath_prepend(tmp_path)

    def install(**modules):
        for name, source in modules.items():
            if source is not None:
                (tmp_path / f"{name}.py").write_text(source)
        found = [EntryPoint(f"the-{name}", name, "evalgpt") for name in modules]
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda **kw: found if kw == {"group": "evalgpt"} else real(**kw)
        )

    return install


HOOK = "import evalgpt\n@evalgpt.hookimpl\ndef register_models(register):\n    pass\n"


def evalgpt(*args):
    return CliRunner().invoke(cli, args, prog_name="evalgpt")


def refused(result, *says):
    """Exit 2, nothing on stdout, one line on stderr that contains ``says``."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("evalgpt: error: ")
    assert all(part in line for part in says), line


def test_built_in_names_are_registered():
    entries = load_plugins().entries
    assert entries["model"]["scratch"].plugin == "evalgpt.adapters.scratch"
    assert {"pairs", "verdict", "story", "text"} <= entries["task"].keys()
    assert {"exact", "lm-eval", "hf-strided", "llama.cpp", "book"} <= entries["protocol"].keys()


def test_every_built_in_says_what_it_is():
    entries = load_plugins().entries
    assert [e.name for kind in entries.values() for e in kind.values() if not e.summary.strip()] == []


def test_the_entry_lists_the_keys_with_their_defaults():
    options = load_plugins().entries["protocol"]["exact"].options
    assert options == {"context": None, "stride": None, "prefix": "auto"}


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown task 'verdikt'; did you mean 'verdict'\? known: .*pairs.*story"):
        load_plugins().find("task", "verdikt")


@pytest.mark.parametrize("kind", ["model", "task", "protocol"])
def test_a_name_taken_twice_names_both_plugins(kind, tmp_path):
    paths = [tmp_path / "one.py", tmp_path / "two.py"]
    for path in paths:
        path.write_text(
            f"import evalgpt\n@evalgpt.hookimpl\ndef register_{kind}s(register):\n    register('mine', print)\n"
        )
    with pytest.raises(UsageError) as raised:
        load_plugins(map(str, paths))
    assert all(part in str(raised.value) for part in (*map(str, paths), f"the {kind} 'mine'"))


def test_a_built_in_name_cannot_be_taken(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import evalgpt\n@evalgpt.hookimpl\ndef register_tasks(register):\n    register('pairs', print)\n")
    with pytest.raises(UsageError) as raised:
        load_plugins([str(path)])
    assert all(part in str(raised.value) for part in (str(path), "task 'pairs'", "evalgpt.tasks.pairs"))


def test_one_name_may_be_a_model_and_a_task(installed):
    source = "import evalgpt\n" + "".join(
        f"@evalgpt.hookimpl\ndef register_{kind}s(register):\n    register('both', print)\n"
        for kind in ("model", "task")
    )
    installed(plugin_both=source)
    entries = load_plugins().entries
    assert entries["model"]["both"].plugin == entries["task"]["both"].plugin == "the-plugin_both"


def test_a_misspelt_hook_is_an_error_that_lists_the_hooks(tmp_path):
    path = tmp_path / "misspelt.py"
    path.write_text("import evalgpt\n@evalgpt.hookimpl\ndef register_model(register):\n    pass\n")
    with pytest.raises(UsageError) as raised:
        load_plugins([str(path)])
    assert all(part in str(raised.value) for part in ("'register_model'", str(path), *HOOKS))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (None, "ModuleNotFoundError"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
    ids=["not there", "raises", "syntax", "exits"],
)
def test_an_installed_plugin_that_fails_takes_no_other_down(installed, source, why, request):
    broken = f"plugin_broken_{request.node.callspec.indices['source']}"
    installed(**{broken: source, f"{broken}_good": PLUGIN})
    plugins = load_plugins()
    assert list(plugins.failures) == [f"the-{broken}"]
    assert why in plugins.failures[f"the-{broken}"]
    assert plugins.entries["model"]["uniform"].plugin == f"the-{broken}_good"
    assert "scratch" in plugins.entries["model"]


def test_commands_go_on_and_tell_of_an_installed_plugin_that_fails(installed):
    installed(plugin_absent=None)
    listed = evalgpt("tasks")
    assert (listed.exit_code, listed.stdout.count("\npairs  ")) == (0, 1)
    (line,) = listed.stderr.splitlines()
    assert line.startswith("evalgpt: warning: plugin the-plugin_absent failed to load and is left out: ModuleNotFound")
    told = evalgpt("plugins")
    assert told.exit_code == 0
    assert "the-plugin_absent: failed to load: ModuleNotFoundError" in told.stdout
    assert "evalgpt.tasks.pairs: task pairs\n" in told.stdout


def test_a_file_adds_a_model_and_a_task(plugin, tmp_path):
    out = str(tmp_path / "out.json")
    result = evalgpt("run", "--plugin", plugin, "-m", "uniform:size=300", "-t", "greeting:there", "-o", out)
    assert result.exit_code == 0, result.stderr
    (evaluation,) = read_report(out).evaluations
    assert evaluation.model.spec == "uniform:size=300"
    assert evaluation.task.spec == "greeting:there"
    assert evaluation.metrics.loss == pytest.approx(math.log(300), rel=1e-6)
    assert evaluation.metrics.scores == len("Hello there, how do you do?") - 1  # no prefix: the first is unscored
    assert evaluation.task_metrics == {"questions": 1}
    assert "questions: 1" in result.stdout


def test_the_plugin_option_may_stand_before_the_command(plugin):
    result = evalgpt("--plugin", plugin, "models")
    assert result.exit_code == 0
    assert "uniform  Every token as likely as any other.\n    keys: size=256\n" in result.stdout


def test_a_file_adds_a_command(plugin):
    assert evalgpt("--plugin", plugin, "greet", "you").stdout == "Hello you\n"
    assert re.search(r"greet +Say hello\.\n", evalgpt("--plugin", plugin, "--help").stdout)


def test_a_command_of_a_plugin_that_is_not_loaded_is_unknown():
    refused(evalgpt("greet", "you"), "No such command 'greet'")


def test_a_module_is_loaded_by_its_dotted_name(tmp_path, monkeypatch):
    (tmp_path / "acme_for_evalgpt").mkdir()
    (tmp_path / "acme_for_evalgpt" / "__init__.py").touch()
    (tmp_path / "acme_for_evalgpt" / "uniform.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    result = evalgpt("run", "--plugin", "acme_for_evalgpt.uniform", "-m", "uniform", "-t", "pairs")
    assert result.exit_code == 0, result.stderr
    assert " 256.00 " in result.stdout


@pytest.mark.parametrize("args", ["--plugin FILE models", "models --plugin FILE", "--plugin FILE --help"])
def test_a_file_that_raises_is_one_line(args, tmp_path):
    path = tmp_path / "raises.py"
    path.write_text("raise RuntimeError('first line\\nsecond line')")
    result = evalgpt(*(str(path) if arg == "FILE" else arg for arg in args.split()))
    refused(result, str(path), "RuntimeError: first line second line")


@pytest.mark.parametrize("name", ["nothere.py", "no_such_module_of_evalgpt", "no.such.module"])
def test_a_plugin_that_is_not_there_is_refused(name):
    refused(evalgpt("--plugin", name, "models"), name)


def test_a_command_that_evalgpt_has_cannot_be_added(tmp_path):
    path = tmp_path / "clash.py"
    path.write_text(
        "import click, evalgpt\n"
        "@evalgpt.hookimpl\n"
        "def register_commands(cli):\n"
        "    cli.add_command(click.Command('run'))\n"
    )
    refused(evalgpt("--plugin", str(path), "--help"), "adds the command 'run', which is there already")


BAD_FILES = {
    "syntax": (b"def f(:\n", "SyntaxError"),
    "not UTF-8": (b"x = '\xff\xfe'\n", "SyntaxError"),
    "a NUL": (b"x = 1\0\n", "null bytes"),
    "exits": (b"import sys; sys.exit(0)", "SystemExit: 0"),
    "no Exception": (b"class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
    "calls itself": (b"def f(): f()\nf()", "RecursionError"),
    "no hooks": (b"x = 1", "none of evalgpt's hooks"),
    "a hook with another argument": (HOOK.replace("(register)", "(wrong)").encode(), "wrong"),
    "a hook under a second name": (f"{HOOK}\nother = register_models\n".encode(), "other"),
    "a hook that raises": (f"{HOOK}    1 / 0\n".encode(), "ZeroDivisionError"),
    "a hook that exits": (f"{HOOK}    raise SystemExit(0)\n".encode(), "SystemExit"),
    "a name that is a number": (f"{HOOK}    register(3, print)\n".encode(), "a name is a text"),
    "a name with a colon": (f"{HOOK}    register('a:b', print)\n".encode(), "a name is a text"),
    "a factory that is none": (f"{HOOK}    register('mine', 3)\n".encode(), "a factory is wanted"),
    "a factory without a signature": (f"{HOOK}    register('mine', dict)\n".encode(), "a factory is wanted"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_line(kind, tmp_path):
    data, why = BAD_FILES[kind]
    path = tmp_path / "bad_file.py"
    path.write_bytes(data)
    refused(evalgpt("models", "--plugin", str(path)), str(path), why)


def test_two_files_of_one_name_are_two_plugins(tmp_path):
    paths = [tmp_path / folder / "same.py" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(f"{HOOK}    register('model-{path.parent.name}', print)\n")
    assert {"model-a", "model-b"} <= load_plugins(map(str, paths)).entries["model"].keys()


def test_a_module_that_is_loaded_already_is_loaded_once():
    assert load_plugins(["evalgpt.tasks.pairs"]).entries["task"]["pairs"].plugin == "evalgpt.tasks.pairs"


def test_two_distributions_with_one_entry_point_are_both_named(tmp_path, monkeypatch):
    for number, module in enumerate(("clash_one", "clash_two"), 1):
        (tmp_path / f"{module}.py").write_text(f"{HOOK}    register('{module}', print)\n")
        info = tmp_path / f"dist{number}-1.{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist{number}\nVersion: 1.{number}\n")
        (info / "entry_points.txt").write_text(f"[evalgpt]\nclash = {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = evalgpt("models")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert "dist1 1.1" in line
    assert "dist2 1.2" in line
    assert ("clash_one" in result.stdout) != ("clash_two" in result.stdout)


def test_a_plugin_that_fails_is_named_with_its_distribution(tmp_path, monkeypatch):
    info = tmp_path / "broken_dist-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-dist\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[evalgpt]\nbroken = nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "broken-dist 2.0" in load_plugins().failures["broken"]


def test_a_command_that_cannot_be_added_costs_no_other(tmp_path):
    path = tmp_path / "exits.py"
    path.write_text("import evalgpt\n@evalgpt.hookimpl\ndef register_commands(cli):\n    raise SystemExit(0)\n")
    result = evalgpt("--plugin", str(path), "--help")
    assert result.exit_code == 0
    assert "cannot add its commands: SystemExit" in result.stderr


def test_a_factory_whose_documentation_is_no_text_is_listed(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(
        f"class Make:\n    __doc__ = 3\n    def __call__(self, argument): ...\n{HOOK}    register('odd', Make())\n"
    )
    assert evalgpt("models", "odd", "--plugin", str(path)).exit_code == 0
