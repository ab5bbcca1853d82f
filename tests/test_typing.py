"""What a user of evalgpt gets from a type checker: tests/typing/consumer.py is right in strict mode, as installed."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONSUMER = ROOT / "tests" / "typing" / "consumer.py"

WRONG = """
import evalgpt
from evalgpt import testing

evaluation = evalgpt.evaluate(3, "pairs")
bits: str = evaluation.metrics.bits_per_byte
report: evalgpt.Report = evaluation
evalgpt.explain(["text"], "scratch")
evalgpt.hookimpl(4)
testing.parametrize("scratch")
evalgpt.evaluate("scratch", "pairs", devise="cpu")
evalgpt.evaluate("scratch", "pairs", batch_tokens="512")
evalgpt.generate("scratch", "Every", token=5)
evalgpt.compare("scratch", "smollm2", "pairs", until_decide=True)
evalgpt.verify("report.json")
"""


def mypy(file):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("needs mypy: pip install '.[dev]'")
    # The cache and the settings of `make types`, so that torch is read once. Not from ROOT: what counts is installed.
    settings = ["--config-file", str(ROOT / "setup.cfg"), "--cache-dir", str(ROOT / ".mypy_cache")]
    return checked([sys.executable, "-m", "mypy", *settings, str(file)], file.parent)


def checked(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def test_mypy_accepts_a_consumer():
    result = mypy(CONSUMER)
    assert result.returncode == 0, result.stdout + result.stderr


def test_mypy_sees_a_consumers_mistakes(tmp_path):
    """The types are there to be checked: were they all Any, no line would be wrong."""
    file = tmp_path / "wrong.py"
    file.write_text(WRONG)
    wrong = {int(line.split(":")[1]) for line in mypy(file).stdout.splitlines() if ": error: " in line}
    assert wrong == set(range(5, 16))


def test_pyright_accepts_a_consumer(tmp_path):
    pyright = shutil.which("pyright") or shutil.which("basedpyright")
    if pyright is None:
        pytest.skip("needs pyright, which constraints.txt does not pin: npm install --global pyright")
    (tmp_path / "consumer.py").write_bytes(CONSUMER.read_bytes())
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    result = checked([pyright, "--pythonpath", sys.executable, "--project", str(tmp_path)], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
