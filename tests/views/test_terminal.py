"""What the terminal is like: narrow, without Unicode, without colour, a pipe that closes, a shell that completes."""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from support.cli import COMMAND, error_line, evalgpt, process, succeeded

from evalgpt.core.plugins import load_plugins

pytestmark = pytest.mark.slow

PLUGIN = f"--plugin={Path(__file__).parent.parent / 'support' / 'numpy_plugin.py'}"
STORY = ("-t", "story", "--no-cache", "--context", "64", PLUGIN)
COMMANDS = {
    "run": ("run", "-m", "table", *STORY),
    "compare": ("compare", "-m", "table", "-m", "table:seed=7", *STORY),
    "explain": ("explain", "every effort", "Größe 😀 שלום", "-m", "table", PLUGIN),
    "generate": ("generate", "Größe 😀 שלום", "-m", "table", "--temperature", "3", "-n", "40", PLUGIN),
    "models": ("models",),
}
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


@pytest.fixture(autouse=True)
def helpers_are_found(monkeypatch):
    """The plugin imports models.py beside it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))


def on_terminal(*args, columns=80, env=None):
    """Run ``evalgpt`` on a terminal of so many columns; what it showed, standard error and all."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {"TERM": "xterm-256color", **{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}}
    variables |= env or {}
    with subprocess.Popen(
        [COMMAND, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=variables, start_new_session=True
    ) as child:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal ends
            while data := os.read(ours, 1 << 16):
                shown += data
    os.close(ours)
    assert child.returncode == 0, shown.decode()
    return shown.decode(errors="replace")


def screen(shown):
    """What is left on the screen, line by line, once bars and spinners are gone."""
    lines = [""]
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r\n|\r|\n)", shown):
        if part in ("\n", "\r\n"):
            lines.append("")
        elif part == "\x1b[2K":
            lines[-1] = ""
        elif part == "\x1b[1A":
            lines = lines[:-1] or [""]
        elif part == "\r" or ESCAPES.fullmatch(part):
            continue
        else:
            lines[-1] += part
    return lines


# encodings


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", ["run", "explain", "generate"])
def test_an_encoding_that_lacks_characters(command, encoding):
    result = subprocess.run(
        [COMMAND, *COMMANDS[command]],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        timeout=120,
    )
    out, err = result.stdout.decode(encoding), result.stderr.decode(encoding)
    assert result.returncode == 0, err
    assert "Traceback" not in err
    if command == "run":
        tables = [line for line in out.splitlines() if line.startswith(("|", "+-"))]
        assert len(tables) > 4
        assert len({len(line) for line in tables}) == 1, out  # the columns stand straight
        assert ("+/-" in out) == (encoding == "ascii")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", ["run", "explain"])
def test_a_terminal_that_lacks_characters(command, encoding):
    shown = on_terminal(*COMMANDS[command], env={"PYTHONIOENCODING": f"{encoding}:strict"}, columns=60)
    assert "Traceback" not in shown
    assert not re.search(r"\\u28[0-9a-f]{2}|\\u2026", shown), "a spinner or an ellipsis that is not there"


# widths


@pytest.mark.parametrize("command", ["run", "explain"])
def test_nothing_is_wider_than_the_terminal_or_cut(command):
    wide = re.sub(r"\s+", "", "".join(screen(on_terminal(*COMMANDS[command], columns=300))))
    for columns in (20, 40):
        lines = screen(on_terminal(*COMMANDS[command], columns=columns))
        assert "…" not in "".join(lines)
        assert max(len(line.rstrip()) for line in lines) <= columns
        for number in re.findall(r"\d+\.\d{4}\b", wide):
            assert number in re.sub(r"\s+", "", "".join(lines)), (columns, number)


@pytest.mark.parametrize("columns", [20, 40, 70, 130])
def test_progress_fits_and_says_how_far_and_how_good(columns):
    shown = on_terminal("run", "-m", "table:pause=0.002", *STORY, "--batch-tokens", "64", columns=columns)
    bars = [part for part in re.split(r"[\r\n]+", ESCAPES.sub("", shown)) if re.search(r"\d%( |$)(?!interval)", part)]
    assert bars
    assert max(map(len, bars)) <= columns
    told = [part for part in bars if re.search(r"[1-9]\d?%", part)]
    assert told
    assert all("perplex" in part for part in told)
    if columns >= 60:
        assert all(re.search(r"\d tokens/s perplexity [\d,]+\.\d\d .*left [-\d]", part) for part in told)


# colour


def test_colour_is_for_terminals_and_for_those_who_want_it():
    args = (*COMMANDS["run"], "--batch-tokens", "64")
    assert COLOUR.search(on_terminal(*args))
    assert not COLOUR.search(on_terminal(*args, env={"NO_COLOR": "1"}))
    for command in COMMANDS.values():
        result = succeeded(process(*command))
        assert "\x1b" not in result.stdout + result.stderr
    result = succeeded(process("run", "-m", "table", "-t", "pairs", "--json", PLUGIN, env={"FORCE_COLOR": "1"}))
    assert "\x1b" not in result.stdout
    json.loads(result.stdout)


def test_what_a_model_writes_cannot_steer_a_terminal(tmp_path):
    plugin = tmp_path / "rude.py"
    plugin.write_text(
        "import evalgpt, numpy\nfrom support.models import Writer\n\n"
        "@evalgpt.hookimpl\ndef register_models(register):\n"
        "    register('rude', lambda argument: Writer(b'\\x1b[2Jx\\n\\x07y'))\n"
    )
    args = ("generate", "a", "-m", "rude", "--plugin", str(plugin), "-n", "8", "-q")
    assert "\n".join(screen(on_terminal(*args))).rstrip() == "a\\x1b[2Jx\n\\x07y"
    assert succeeded(process(*args)).stdout == "a\x1b[2Jx\n\x07y\n"  # a file gets what it wrote


# pipes


@pytest.mark.parametrize("command", ["run", "models", "generate", "run --json", "explain --json"])
def test_a_closed_pipe_is_no_traceback(command):
    name, *more = command.split()
    ours, theirs = os.pipe()
    os.close(ours)  # as head has gone
    with open(theirs, "wb") as out:
        result = subprocess.run([COMMAND, *COMMANDS[name], *more], stdout=out, stderr=subprocess.PIPE, timeout=120)
    assert b"Traceback" not in result.stderr, result.stderr
    assert b"Exception" not in result.stderr
    assert b"error" not in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["explain", "generate", "explain --json"])
def test_a_full_disk_is_one_line(command):
    name, *more = command.split()
    with open("/dev/full", "wb") as out:
        result = subprocess.run(
            [COMMAND, *COMMANDS[name], *more, "-q"], stdout=out, stderr=subprocess.PIPE, timeout=120
        )
    assert result.returncode == 1
    error_line(result.stderr.decode().splitlines()[-1], "cannot write", "space left")


# --json


@pytest.mark.parametrize("command", ["run", "compare"])
def test_json_is_the_document_on_standard_output(command):
    short, long = (succeeded(process(*COMMANDS[command], *how)) for how in (("--json",), ("-o", "-")))
    a, b = json.loads(short.stdout), json.loads(long.stdout)
    for found in (a, b):
        found.pop("run", None)
        found.pop("command", None)
        for evaluation in found.get("evaluations", []):
            evaluation.pop("timing")
    assert a == b
    assert "loss" in short.stderr
    result = evalgpt(*COMMANDS[command], "--json", "-o", "x.json")
    assert result.exit_code == 2
    error_line(result.stderr, "--json writes to standard output and -o to a file; give one of them")


# completion


def completed(shell, words):
    """What the shell would offer behind ``words``, the last of which is unfinished."""
    if shell == "fish":
        given = {"COMP_WORDS": " ".join(words), "COMP_CWORD": words[-1]}
    else:
        given = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    result = process(env={**given, "_EVALGPT_COMPLETE": f"{shell}_complete"})
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize(
    ("shell", "words", "kind"),
    [
        ("bash", ["run", "-m", ""], "model"),
        ("zsh", ["run", "-m", "scratch", "-t", ""], "task"),
        ("fish", ["compare", "-p", ""], "protocol"),
        ("bash", ["explain", "--model", ""], "model"),
        ("bash", ["check", ""], "model"),
    ],
)
def test_names_are_completed(shell, words, kind):
    names = set(load_plugins().entries[kind])
    offered = set(re.findall(r"[\w.-]+", re.sub(r"plain,|,", "\n", completed(shell, ["evalgpt", *words]))))
    assert names <= offered


def test_what_begins_otherwise_is_not_offered(tmp_path):
    assert completed("bash", ["evalgpt", "run", "-m", "scr"]) == "plain,scratch\n"
    assert completed("bash", ["evalgpt", "gen"]) == "plain,generate\n"
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "import evalgpt\n\n@evalgpt.hookimpl\ndef register_models(register):\n    register('my', print)\n"
    )
    assert completed("bash", ["evalgpt", "run", "--plugin", str(plugin), "-m", "my"]) == "plain,my\n"
    assert completed("bash", ["evalgpt", "run", "--plugin", "nothere.py", "-m", "s"]).strip() == ""


def test_completion_loads_no_torch():
    script = (
        "import os, sys\nfrom click.shell_completion import BashComplete\nfrom evalgpt.cli import cli\n"
        "os.environ.update(COMP_WORDS='evalgpt run -m s', COMP_CWORD='3')\n"
        "found = BashComplete(cli, {}, 'evalgpt', '_EVALGPT_COMPLETE').complete()\nassert 'scratch' in found, found\n"
        "print(*({'torch', 'transformers', 'tiktoken', 'numpy', 'rich'} & sys.modules.keys()))"
    )
    assert succeeded(process(script=script)).stdout.strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell_is_printed(shell):
    result = process(env={"_EVALGPT_COMPLETE": f"{shell}_source"})
    assert "_EVALGPT_COMPLETE" in succeeded(result).stdout
