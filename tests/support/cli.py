"""Running the command line in tests, in this process or in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from evalgpt.cli import cli

SMALL = "scratch:n_layers=1,emb_dim=32,n_heads=2,context_length=64"


COMMAND = Path(sys.executable).parent / "evalgpt"


def evalgpt(*args, **options):
    return CliRunner().invoke(cli, args, prog_name="evalgpt", **options)


def process(*args, script=None, **options):
    """Run ``evalgpt``, or a script in its place, in a process of its own; ``env`` changes variables, None unsets."""
    env = {key: value for key, value in {**os.environ, **options.pop("env", {})}.items() if value is not None}
    command = [COMMAND] if script is None else [sys.executable, "-c", script]
    return subprocess.run([*command, *args], capture_output=True, text=True, env=env, timeout=120, **options)


def succeeded(result):
    code = result.exit_code if hasattr(result, "exit_code") else result.returncode
    assert code == 0, result.stderr
    return result


def error_line(stderr, *says):
    """The one line on standard error, which says what is wrong without a traceback."""
    assert "Traceback" not in stderr
    (line,) = stderr.splitlines()
    assert line.startswith("evalgpt: error: ")
    assert "(unexpected; --debug" not in line, line  # how evalgpt marks what it did not foresee: a bug
    assert [part for part in says if part not in line] == [], line
