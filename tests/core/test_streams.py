"""Standard output is the document's, whatever a plugin prints, and by whatever way."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

import evalgpt
from evalgpt.cli import cli

NOISY = """
import os
import subprocess
import sys
import threading

import click
import numpy as np

import evalgpt


def noise(where):
    print("NOISE print", where)
    sys.stdout.write(f"NOISE sys.stdout {where}\\n")
    sys.__stdout__.write(f"NOISE sys.__stdout__ {where}\\n")
    sys.stdout.buffer.write(f"NOISE buffer {where}\\n".encode())
    os.write(1, f"NOISE descriptor {where}\\n".encode())
    click.echo(f"NOISE click {where}")


noise("import")
OUT = sys.stdout


class Noisy(evalgpt.Model):
    name, fingerprint, context_length, vocab_size, device, dtype = "noisy", "1", 16, 256, "cpu", "float32"

    def encode(self, text):
        noise("encode")
        return evalgpt.Encoding(list(text.encode()), None)

    def decode(self, ids):
        noise("decode")
        return bytes(ids).decode(errors="replace")

    def score(self, windows, detail=None):
        noise("score")
        OUT.write("NOISE kept\\n")
        thread = threading.Thread(target=noise, args=("thread",))
        thread.start()
        thread.join()
        return [evalgpt.TokenScores(np.full(len(w.ids) - w.start, 5.5, np.float32)) for w in windows]

    def next_logits(self, ids, count=1):
        noise("next_logits")
        return np.zeros((count, 256), np.float32)


class Loud(evalgpt.Task):
    name = "loud"

    def documents(self):
        noise("documents")
        yield evalgpt.Document("one", "every effort moves you")

    def metrics(self, rows):
        noise("metrics")
        return {"one": 1.0}


def make_model(argument):
    \"\"\"A model that prints.\"\"\"
    noise("factory")
    subprocess.run(["echo", "NOISE subprocess"], check=True)
    return Noisy()


@evalgpt.hookimpl
def register_models(register):
    noise("hook")
    register("noisy", make_model)


@evalgpt.hookimpl
def register_tasks(register):
    register("loud", lambda argument: Loud())


@evalgpt.hookimpl
def register_commands(cli):
    noise("commands")

    @cli.command()
    def shout():
        print("said on purpose")
        sys.stdout.flush()
        subprocess.run(["echo", "said by a subprocess"], check=True)
"""


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    path = tmp_path_factory.mktemp("noisy") / "noisy.py"
    path.write_text(NOISY)
    return str(path)


def evalgpt_process(*args, **options):
    command = [sys.executable, "-c", "from evalgpt.cli import main; main()", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


LATE = """
import threading

import evalgpt


def late():
    threading.main_thread().join()
    print("NOISE after the end")


@evalgpt.hookimpl
def register_models(register):
    threading.Thread(target=late).start()
"""


def test_threads_that_outlive_the_command_print_to_standard_error(tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    result = evalgpt_process("--plugin", str(tmp_path / "late.py"), "models")
    assert "NOISE after the end" in result.stderr
    assert "scratch" in result.stdout
    assert "NOISE" not in result.stdout


RUNS = {
    "run": ("run", "--no-cache", "-q", "-m", "noisy", "-t", "loud", "--json"),
    "compare": ("compare", "--no-cache", "-q", "-m", "noisy", "-m", "noisy", "-t", "loud", "--json"),
    "explain": ("explain", "-m", "noisy", "every effort", "--json"),
    "generate": ("generate", "-m", "noisy", "every effort", "-n", "3", "--json"),
    "check": ("check", "-q", "noisy", "--only", "shift", "--json"),
}


@pytest.mark.parametrize("command", RUNS)
def test_the_document_stands_alone(command, noisy):
    result = CliRunner().invoke(cli, ["--plugin", noisy, *RUNS[command]])
    assert result.exit_code in (0, 1), result.stderr
    assert json.loads(result.stdout)["schema"].startswith("evalgpt.")
    assert "NOISE print" in result.stderr


@pytest.mark.parametrize("command", ["run", "generate"])
def test_no_descriptor_and_no_subprocess_writes_into_it(command, noisy):
    result = evalgpt_process("--plugin", noisy, *RUNS[command])
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["schema"].startswith("evalgpt.")
    for how in ("print", "sys.stdout", "sys.__stdout__", "buffer", "descriptor", "click", "subprocess"):
        assert f"NOISE {how}" in result.stderr


@pytest.mark.parametrize("listing", ["models", "plugins"])
def test_listings_are_what_they_list(listing, noisy):
    result = CliRunner().invoke(cli, ["--plugin", noisy, listing])
    assert result.exit_code == 0
    assert "noisy" in result.stdout
    assert "NOISE" not in result.stdout


def test_a_command_of_a_plugin_prints_on_purpose(noisy):
    result = evalgpt_process("--plugin", noisy, "shout")
    assert (result.returncode, result.stdout) == (0, "said on purpose\nsaid by a subprocess\n")


@pytest.mark.skipif(os.name == "nt", reason="closes descriptors as a POSIX shell does")
@pytest.mark.parametrize("closed", ["<&-", "2>&-"])
def test_closed_descriptors_cost_nothing(closed, noisy):
    script = f'"{sys.executable}" -c "from evalgpt.cli import main; main()" "$@" {closed}'
    command = ["sh", "-c", script, "sh", "--plugin", noisy, *RUNS["run"]]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(result.stdout)["schema"] == "evalgpt.report/1"


def test_from_python_a_print_stays_where_it_was(capsys):
    class Prints(evalgpt.Task):
        name = "prints"

        def documents(self):
            print("seen")
            yield evalgpt.Document("one", "every effort moves you")

    from support.wrong_plugins import Bytes

    evalgpt.evaluate(Bytes(), Prints())
    assert capsys.readouterr().out == "seen\n"
