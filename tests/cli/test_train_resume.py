"""A run that was killed, stopped, or out of disk goes on to the same bits."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from support.training_runs import (
    COMMAND,
    SMALL,
    evalgpt_,
    process,
    same_bits,
    succeeded,
    tensors_of,
    train,
    write_texts,
)

from evalgpt.studies.training.log import read_training

pytestmark = [pytest.mark.numeric, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

KILLER = """
import os, signal, sys
from evalgpt.adapters.gpt.training import TorchTrainer
from evalgpt.cli import main

when, count = sys.argv.pop(1), 0
write = TorchTrainer.save

def save(self, path, facts, *, resumable):
    global count
    count += resumable
    write(self, path, facts, resumable=resumable)
    if count == 3:
        data = open(path, "rb").read()
        open(path, "wb").write(data[: len(data) // 2])
        os.kill(os.getpid(), getattr(signal, when))

TorchTrainer.save = save
main()
"""

RUN = ["-m", SMALL, "-t", "text:book.txt", "--steps", "7", "--save-every", "2", "--sample", "", "-q"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of RUN that nothing stopped, on one thread as all of these: more round otherwise."""
    folder = tmp_path_factory.mktemp("whole")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with chdir(folder):
            write_texts()
            succeeded(evalgpt_("train", *RUN, "-o", "whole"))
    finally:
        torch.set_num_threads(before)
    return folder / "whole"


def test_a_run_that_was_killed_while_it_wrote_goes_on_to_the_same_bits(book_here, whole):
    killed = process(sys.executable, "-c", KILLER, "SIGKILL", "train", *RUN, "-o", "run")
    assert killed.returncode == -signal.SIGKILL
    assert len(list(Path("run").glob(".evalgpt-*"))) == 1, "half a file, which has no name of the run's"
    _, facts = tensors_of("run/last.safetensors")
    assert json.loads(facts["evalgpt.state"])["updates"] == 4
    succeeded(evalgpt_("train", "--resume", "run", "-q"))
    same_bits(whole / "last.safetensors", "run/last.safetensors")
    same_bits(whole / "best.safetensors", "run/best.safetensors")
    logs = [read_training(path) for path in (whole, Path("run"))]
    assert logs[0].updates.loss == logs[1].updates.loss
    assert [e.fingerprint for e in logs[0].evaluations] == [e.fingerprint for e in logs[1].evaluations]
    assert logs[0].memorised == logs[1].memorised
    assert list(Path("run").glob(".evalgpt-*")) == []


def test_a_run_that_was_killed_anywhere_goes_on_to_the_same_bits(book_here, whole):
    running = subprocess.Popen(
        [COMMAND, "train", *RUN, "-o", "run"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not Path("run/last.safetensors").exists() and running.poll() is None:
        time.sleep(0.02)
    running.kill()
    assert running.wait() == -signal.SIGKILL, "killed before it was done"
    succeeded(evalgpt_("train", "--resume", "run", "-q"))
    same_bits(whole / "last.safetensors", "run/last.safetensors")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(book_here):
    succeeded(train("--steps", "3"))
    before = tensors_of("run/last.safetensors")
    Path("run/last.safetensors").unlink()
    succeeded(evalgpt_("train", "--resume", "run"))
    after = tensors_of("run/last.safetensors")
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert len(read_training(Path("run")).updates.loss) == 3


def test_ctrl_c_stops_after_the_update_with_a_checkpoint(book_here):
    succeeded(train("--steps", "5", folder="whole"))
    script = KILLER.replace("if count == 3", "if self.model.trained and not os.path.exists('asked')")
    script = script.replace('open(path, "wb").write(data[: len(data) // 2])', "open('asked', 'w').close()")
    stopped = process(
        sys.executable, "-c", script, "SIGINT", "train", *RUN[:4], "--steps", "5", "--sample", "", "-q", "-o", "run"
    )
    assert stopped.returncode == 1
    assert "Traceback" not in stopped.stderr
    assert "stopped after 1 of 5 updates; go on with evalgpt train --resume run" in stopped.stderr
    succeeded(evalgpt_("train", "--resume", "run", "-q"))
    same_bits("whole/last.safetensors", "run/last.safetensors")


@pytest.mark.parametrize("kind", ["last.safetensors", "best.safetensors"])
def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(book_here, whole, kind):
    """Files may not grow beyond a limit: past the size of the weights, or of the optimiser's state with them."""
    best, last = ((whole / f"{name}.safetensors").stat().st_size for name in ("best", "last"))
    limit = (best + last) // 2 if kind == "last.safetensors" else best // 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        result = evalgpt_("train", *RUN, "-o", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 1
    assert line.startswith(f"evalgpt: error: cannot write run/{kind}: ")
    assert "(unexpected" not in line
    kept = "run/best.safetensors has the weights" if kind == "last.safetensors" else "there is no checkpoint yet"
    assert kept in line
    assert [p.name for p in Path("run").glob(".evalgpt-*")] == []
    succeeded(evalgpt_("train", "--resume", "run", "-q"))
    same_bits(whole / "last.safetensors", "run/last.safetensors")


def test_a_run_fine_tuned_from_weights_goes_on_to_the_same_bits(book_here):
    succeeded(train("--steps", "2", folder="first"))
    given = ["-m", "scratch:weights=first/last.safetensors", "-t", "text:book.txt", "--steps", "7", "--sample", ""]
    given += ["--save-every", "2", "--warmup", "3", "--decay", "cosine", "--clip", "0.5", "--accumulate", "2", "-q"]
    succeeded(evalgpt_("train", *given, "-o", "whole"))
    assert process(sys.executable, "-c", KILLER, "SIGKILL", "train", *given, "-o", "run").returncode < 0
    succeeded(evalgpt_("train", "--resume", "run", "-q"))
    same_bits("whole/last.safetensors", "run/last.safetensors")
