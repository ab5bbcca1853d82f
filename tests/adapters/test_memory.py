"""Peak memory of scoring, measured by bench/memory.py in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench" / "memory.py"


@pytest.mark.slow_model
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc/self/clear_refs")
def test_one_window_of_1024_tokens_with_124m_needs_less_than_128_mib():
    command = [sys.executable, str(BENCH), "--way", "tiled"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 1 < found["mib"] < 128
