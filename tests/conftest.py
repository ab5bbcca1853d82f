"""Fixtures for data that is not part of the repository."""

import os
import platform
from pathlib import Path

import pytest
from support.reports import reports  # noqa: F401 - a fixture

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded, and for what tests start
    # Two processes of two threads each would wait for one another: the stated machine has two cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

EMULATION = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "EVALGPT_PRODUCTS")
"""The variables that choose the kernels, and with them the last digits."""


def pytest_report_header():
    """Which processor the numbers are of."""
    import torch

    from evalgpt import UsageError
    from evalgpt.adapters.kernels.products import matmul_backend

    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    try:
        backend = matmul_backend()
    except UsageError as error:
        backend = str(error)
    chosen = " ".join(f"{key}={os.environ[key]}" for key in EMULATION if key in os.environ)
    capability = torch.backends.cpu.get_cpu_capability()
    name = names[0] if names else platform.processor() or platform.machine()
    return f"processor: {name}, torch {torch.__version__} {capability}, matmul backend {backend} {chosen}".rstrip()


HEAVY = {"peer", "simulation", "slow_model"}
"""Markers of what a plain ``pytest`` leaves out (addopts in setup.cfg). An ``-m`` of one's own replaces those addopts,
so all of it is ``slow`` too, and ``-m "not slow"`` is what an edit needs."""


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items):
    for item in items:
        if "peers" in item.path.parts:
            item.add_marker("peer")
        if any(mark.name in HEAVY for mark in item.iter_markers()):
            item.add_marker("slow")


@pytest.fixture
def verdict():
    """The path of The Verdict's text, which tests do not download."""
    folder = os.environ.get("EVALGPT_DATA")
    path = Path(folder or ".") / "the-verdict.txt"
    if folder is None or not path.is_file():
        pytest.skip("needs EVALGPT_DATA, a folder that holds the-verdict.txt")
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test finds another's scores, or the user's."""
    monkeypatch.setenv("EVALGPT_CACHE", str(tmp_path / "own-cache"))


@pytest.fixture
def one_thread():
    """Threads only slow models of a few thousand weights down."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def book_here(tmp_path, monkeypatch):
    """A folder with texts: one to train on, and one of a few words."""
    from support.training_runs import write_texts

    monkeypatch.chdir(tmp_path)
    write_texts()
    return tmp_path
