"""``evalgpt check``: one line a check, advice where one fails, and an exit code for CI."""

import json

import pytest
from click.testing import CliRunner

from evalgpt.cli import cli
from evalgpt.testing import CHECKS

TINY = "scratch:emb_dim=32,n_heads=2,n_layers=1,context_length=24"

PLUGIN = """
import evalgpt
from support.sound_models import Sound
from support.broken_models import BROKEN

def make(argument, *, seed: int = 0):
    "One of the broken."
    return BROKEN[argument](seed) if argument else Sound(seed)

@evalgpt.hookimpl
def register_models(register):
    register("odd", make)
"""


def run(*args):
    result = CliRunner().invoke(cli, list(map(str, args)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def plugin(tmp_path, one_thread):
    (tmp_path / "odd.py").write_text(PLUGIN)
    return f"--plugin={tmp_path / 'odd.py'}"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_sound_model_passes_and_another_seed_is_found_by_itself():
    result = run("check", TINY)
    assert result.exit_code == 0, result.output
    assert f"{TINY}: {len(CHECKS)} passed, 0 failed" in result.stdout


def test_a_broken_one_is_told_what_to_look_at(plugin):
    result = run("check", plugin, "odd:no-causal-mask")
    assert result.exit_code == 1
    assert "FAILED   causality" in result.stdout
    assert "Is the attention mask missing or off by one" in result.stdout
    assert "odd:no-causal-mask: " in result.stdout


def test_what_a_cause_breaks_is_told_once(plugin):
    result = run("check", plugin, "odd:vocabulary-overstated")
    assert "the same as " in result.stdout
    assert run("check", plugin, "odd:dropout-left-on").stdout.index("fix this first") < 400


def test_only_chooses_and_expect_excuses_with_a_reason(plugin):
    assert run("check", plugin, "odd:encode-lower-cases", "--only", "round_trip").exit_code == 1
    result = run("check", plugin, "odd:encode-lower-cases", "--only", "round_trip", "--expect", "round_trip=by design")
    assert result.exit_code == 0
    assert "expected round_trip\n         by design (" in result.stdout
    result = run("check", plugin, "odd", "--only", "round_trip", "--expect", "round_trip=by design")
    assert result.exit_code == 1
    assert "expected to fail (by design), and passed" in result.stdout


def test_the_outcomes_as_json(plugin, tmp_path):
    path = tmp_path / "checks.json"
    assert run("check", plugin, "odd:log-base-2", "--only", "normalised", "--only", "shift", "-o", path).exit_code == 1
    found = json.loads(path.read_text())
    assert found["schema"] == "evalgpt.check/1"
    assert [(o["check"], o["status"]) for o in found["outcomes"]] == [("normalised", "failed"), ("shift", "passed")]
    result = run("check", plugin, "odd", "--only", "shift", "-o", "-")
    assert json.loads(result.stdout)["model"] == "odd"
    assert "ok       shift" in result.stderr


def test_the_list_of_checks_needs_no_model():
    result = run("check", "--list")
    assert result.exit_code == 0
    for name in CHECKS:
        assert f"{name}\n    " in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Missing argument 'SPEC'"),
        (["nothing"], "unknown model 'nothing'"),
        ([TINY, "--only", "shfit"], "there is no check 'shfit'; did you mean 'shift'? known: "),
        ([TINY, "--tolerance", "-1"], "a tolerance is in nats per token from 0 up"),
        ([TINY, "--expect", "shift"], "--expect takes NAME=REASON"),
        ([TINY, "--expect", "shift=x", "--only", "padding"], "--expect shift names a check that --only leaves out"),
        ([TINY, "--other", "scratch:sed=1"], "does not know the key 'sed'"),
        (["scratch:seed=x"], "seed must be int"),
        ([TINY, "-o", "no/such/folder.json"], "cannot write"),
    ],
)
def test_bad_requests_get_one_line(args, message):
    result = run("check", *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_model_that_cannot_be_built_is_no_finding(tmp_path):
    result = run("check", f"scratch:weights={tmp_path / 'none.pth'}")
    assert result.exit_code in (1, 2)
    assert "ok " not in result.stdout
    assert len(result.stderr.strip().splitlines()) == 1
