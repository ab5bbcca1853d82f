"""evalgpt measures how well a language model predicts text.

>>> import evalgpt
>>> evaluation = evalgpt.evaluate("scratch", "pairs")  # doctest: +SKIP
>>> evaluation.metrics.loss  # doctest: +SKIP

Importing evalgpt is cheap: torch is loaded by the models that need it, when they are built.
"""

import sys

# python -m puts the current folder first on the path, so that a random.py in it would be imported in the place of
# Python's own. As long as Python looks for the module to run, sys.argv begins with -m.
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and sys.orig_argv[len(sys.orig_argv) - len(sys.argv)] in ("evalgpt", "evalgpt.__main__", "-mevalgpt")
):
    del sys.path[0]

import importlib
from typing import TYPE_CHECKING, Any

from evalgpt.core import (
    Detail,
    Document,
    Encoding,
    EvalgptError,
    EvaluationError,
    Model,
    Row,
    Scored,
    Task,
    TokenScores,
    UsageError,
    Window,
)
from evalgpt.hooks import hookimpl

if TYPE_CHECKING:
    from evalgpt.api import evaluate, make_report
    from evalgpt.explanation import Explanation, explain
    from evalgpt.generation import Generation, generate
    from evalgpt.plugins import load_plugins
    from evalgpt.report import Evaluation, Report, read_report, write_report

__all__ = [
    "Detail",
    "Document",
    "Encoding",
    "EvalgptError",
    "Evaluation",
    "EvaluationError",
    "Explanation",
    "Generation",
    "Model",
    "Report",
    "Row",
    "Scored",
    "Task",
    "TokenScores",
    "UsageError",
    "Window",
    "evaluate",
    "explain",
    "generate",
    "hookimpl",
    "load_plugins",
    "make_report",
    "read_report",
    "write_report",
]

_LAZY = {
    "evaluate": "evalgpt.api",
    "make_report": "evalgpt.api",
    "Explanation": "evalgpt.explanation",
    "explain": "evalgpt.explanation",
    "Generation": "evalgpt.generation",
    "generate": "evalgpt.generation",
    "load_plugins": "evalgpt.plugins",
    "Evaluation": "evalgpt.report",
    "Report": "evalgpt.report",
    "read_report": "evalgpt.report",
    "write_report": "evalgpt.report",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("evalgpt")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'evalgpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
