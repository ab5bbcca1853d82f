"""What the tests of training share: runs of a small model on a short text, and what is compared of them."""

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import torch
from click.testing import CliRunner
from safetensors import safe_open

from evalgpt.cli import cli

SMALL = "scratch:n_layers=1,emb_dim=16,n_heads=2,context_length=32"
COMMAND = Path(sys.executable).parent / "evalgpt"


def write_texts():
    """In this folder, a text to train on, and one of a few words."""
    story = (resources.files("evalgpt.tasks") / "story.txt").read_bytes().decode()
    Path("book.txt").write_text(story[:3600], encoding="utf-8")
    Path("short.txt").write_text("Every effort moves you. " * 12, encoding="utf-8")


def evalgpt_(*args):
    return CliRunner().invoke(cli, args, prog_name="evalgpt")


def train(*args, folder="run", text="book.txt"):
    return evalgpt_("train", "-m", SMALL, "-t", f"text:{text}", "-o", folder, "--sample", "", *args)


def succeeded(result):
    assert result.exit_code == 0, result.stderr
    return result


def error_line(result, code, *says):
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines)) == (code, 1), result.stderr
    assert lines[0].startswith("evalgpt: error: ")
    assert "(unexpected" not in lines[0]
    assert [part for part in says if part not in lines[0]] == [], lines[0]


def tensors_of(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def same_bits(one, other):
    """Weights, the optimiser's state, the random state and the place in the data."""
    (a, facts_a), (b, facts_b) = tensors_of(one), tensors_of(other)
    assert a.keys() == b.keys()
    assert facts_a == facts_b
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def process(*args, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*args], capture_output=True, text=True, timeout=120, env=environment, **options)
