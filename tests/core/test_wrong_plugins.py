"""Every wrong plugin ends in one line that names it, with an exit code that scripts see, and no raw Python error."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.wrong_plugins import MODELS, PROTOCOLS, TASKS, Bytes, Words

import evalgpt
from evalgpt import EvaluationError, load_plugins
from evalgpt.cli import cli
from evalgpt.report import environment

PLUGIN = str(Path(__file__).parent.parent / "support" / "wrong_plugins.py")
RUN = ("run", "--no-cache", "-q", "--plugin", PLUGIN)


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Plugins and versions are looked up once: each look takes longer than the run."""
    plugins, software = load_plugins([PLUGIN]), environment.software()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evalgpt.cli.shell.load_plugins", lambda extra: plugins)
        patch.setattr(environment, "software", lambda: software)
        yield


def one_line(*args):
    """The line on standard error of a command that fails as it must."""
    result = CliRunner().invoke(cli, [*args], prog_name="evalgpt")
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("evalgpt: error: ")
    assert "Traceback" not in line
    assert "(unexpected" not in line
    assert len(line) < 900
    return line


@pytest.mark.parametrize("fault", MODELS)
def test_a_wrong_model(fault):
    line = one_line(*RUN, "-m", f"wrong-model:fault={fault}", "-t", "wrong-task")
    assert "model" in line
    assert "wrong-model" in line or "'one'" in line


@pytest.mark.parametrize("fault", TASKS)
def test_a_wrong_task(fault):
    line = one_line(*RUN, "-m", "wrong-model", "-t", f"wrong-task:fault={fault}")
    assert any(part in line for part in ("wrong-task", "'one'", "'exakt'")), line


@pytest.mark.parametrize("fault", PROTOCOLS)
def test_a_wrong_protocol(fault):
    assert "wrong-protocol" in one_line(
        *RUN, "-m", "wrong-model", "-t", "wrong-task", "-p", f"wrong-protocol:fault={fault}"
    )


COMMANDS = {
    "compare": ["compare", "--no-cache", "-q", "-m", "wrong-model", "-m", "MODEL", "-t", "wrong-task"],
    "decide": [
        "compare",
        "--no-cache",
        "-q",
        "-m",
        "MODEL",
        "-m",
        "wrong-model",
        "-t",
        "wrong-task",
        "--until-decided",
    ],
    "kl": ["compare", "--no-cache", "-q", "-m", "MODEL", "-m", "wrong-model", "-t", "wrong-task", "--kl"],
    "precision": ["run", "--no-cache", "-q", "-m", "MODEL", "-t", "wrong-task", "--precision", "1%"],
    "explain": ["explain", "-q", "-m", "MODEL", "every effort"],
    "generate": ["generate", "-q", "-m", "MODEL", "every effort"],
    "train": ["train", "-q", "-m", "MODEL", "-t", "wrong-task", "-o", "FOLDER", "--context", "4"],
}


@pytest.mark.parametrize("fault", ["factory exits", "fingerprint raises", "encode exits", "score returns None"])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_other_commands_say_so_too(command, fault, tmp_path):
    places = {"MODEL": f"wrong-model:fault={fault}", "FOLDER": str(tmp_path / "run")}
    one_line(*(places.get(part, part) for part in COMMANDS[command]))


def test_there_are_as_many_as_the_issue_asks_for():
    assert len(MODELS) + len(TASKS) + len(PROTOCOLS) >= 47


def test_what_is_wrong_with_nothing_is_right():
    result = CliRunner().invoke(cli, [*RUN, "-m", "wrong-model", "-t", "wrong-task"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("fault", ["losses are below zero", "score raises", "losses are NaN"])
def test_the_document_and_the_window_are_named(fault):
    line = one_line(*RUN, "-m", f"wrong-model:fault={fault}", "-t", "wrong-task")
    assert "document 'one', window 1 of " in line


def test_python_callers_get_the_cause():
    model = MODELS["score raises"]()
    with pytest.raises(
        EvaluationError, match="model wrong-model: score\\(\\) raised RuntimeError: kernel panic"
    ) as raised:
        evalgpt.evaluate(model, Words())
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_ctrl_c_stays_ctrl_c():
    class Interrupted(Bytes):
        def score(self, windows, detail=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evalgpt.evaluate(Interrupted(), Words())


@pytest.mark.parametrize(("least", "dtype"), [(-9e-5, "float32"), (-0.2, "bfloat16"), (-9e-7, "float64")])
def test_losses_below_zero_by_rounding_are_kept_as_they_are(least, dtype):
    class Sure(Bytes):
        def answer(self, window, nll, detail):
            return evalgpt.TokenScores(nll * 0 + least)

    model = Sure()
    model.dtype = dtype
    assert evalgpt.evaluate(model, Words()).metrics.loss == pytest.approx(least)


@pytest.mark.parametrize(
    "fault", ["score raises", "score exits", "name missing", "losses are a matrix", "encode raises"]
)
def test_the_kit_finds_it(fault):
    result = CliRunner().invoke(cli, ["check", "-q", "--plugin", PLUGIN, f"wrong-model:fault={fault}", "-o", "-"])
    assert result.exit_code == 1
    outcomes = json.loads(result.stdout)["outcomes"]
    assert any(outcome["status"] == "failed" for outcome in outcomes)
    assert "Traceback" not in result.stderr


def test_losses_beyond_a_float_are_no_perplexity():
    class Hopeless(Bytes):
        def answer(self, window, nll, detail):
            return evalgpt.TokenScores(nll * 1000)

    assert evalgpt.evaluate(Hopeless(), Words()).metrics.perplexity is None
