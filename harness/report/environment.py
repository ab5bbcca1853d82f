"""What a run ran on: versions and hardware, for the report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

__all__ = ["hardware", "software"]


_PACKAGES = ("evalgpt", "numpy", "safetensors", "tiktoken", "tokenizers", "torch", "transformers")


def software() -> dict[str, str]:
    """Versions of Python, the platform, and the installed packages that a score depends on."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str | int | float | None]:
    """The processor, how many cores this process may use, and the memory in GiB (None where unknown)."""
    return {"cpu": _cpu(), "cores": _cores(), "memory_gib": _memory()}


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
