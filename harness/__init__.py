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
    CutsText,
    Detail,
    Diverges,
    Document,
    Encoding,
    EvalgptError,
    EvaluationError,
    GivesLogits,
    Model,
    Row,
    Scored,
    SharesPrefixes,
    Task,
    TokenScores,
    Trainable,
    UsageError,
    Window,
)
from evalgpt.core.hooks import hookimpl

if TYPE_CHECKING:
    from evalgpt.core.plugins import load_plugins
    from evalgpt.core.protocol import Protocol
    from evalgpt.report import Evaluation, Report, read_detail, read_report, write_report
    from evalgpt.report.describe import make_report
    from evalgpt.report.detail import Collected
    from evalgpt.report.statistics import ratio_estimate
    from evalgpt.scoring.cache import ScoreCache
    from evalgpt.scoring.engine import Progress
    from evalgpt.scoring.evaluate import evaluate
    from evalgpt.scoring.options import Options
    from evalgpt.studies.compare.comparison import Comparison
    from evalgpt.studies.compare.models import ComparisonOptions, compare
    from evalgpt.studies.explanation import Explanation, explain
    from evalgpt.studies.generation import Generation, GenerationOptions, Sampling, generate
    from evalgpt.studies.verify.checks import Verified
    from evalgpt.studies.verify.verification import VerificationOptions, verify

__all__ = [
    "Collected",
    "Comparison",
    "ComparisonOptions",
    "CutsText",
    "Detail",
    "Diverges",
    "Document",
    "Encoding",
    "EvalgptError",
    "Evaluation",
    "EvaluationError",
    "Explanation",
    "Generation",
    "GenerationOptions",
    "GivesLogits",
    "Model",
    "Options",
    "Progress",
    "Protocol",
    "Report",
    "Row",
    "Sampling",
    "ScoreCache",
    "Scored",
    "SharesPrefixes",
    "Task",
    "TokenScores",
    "Trainable",
    "UsageError",
    "VerificationOptions",
    "Verified",
    "Window",
    "compare",
    "evaluate",
    "explain",
    "generate",
    "hookimpl",
    "load_plugins",
    "make_report",
    "ratio_estimate",
    "read_detail",
    "read_report",
    "verify",
    "write_report",
]

_LAZY = {
    "evaluate": "evalgpt.scoring.evaluate",
    "make_report": "evalgpt.report.describe",
    "Comparison": "evalgpt.studies.compare.comparison",
    "ComparisonOptions": "evalgpt.studies.compare.models",
    "compare": "evalgpt.studies.compare.models",
    "Verified": "evalgpt.studies.verify.checks",
    "VerificationOptions": "evalgpt.studies.verify.verification",
    "verify": "evalgpt.studies.verify.verification",
    "Explanation": "evalgpt.studies.explanation",
    "explain": "evalgpt.studies.explanation",
    "Generation": "evalgpt.studies.generation",
    "GenerationOptions": "evalgpt.studies.generation",
    "Sampling": "evalgpt.studies.generation",
    "generate": "evalgpt.studies.generation",
    "load_plugins": "evalgpt.core.plugins",
    "Evaluation": "evalgpt.report",
    "Report": "evalgpt.report",
    "read_report": "evalgpt.report",
    "write_report": "evalgpt.report",
    "read_detail": "evalgpt.report",
    "Collected": "evalgpt.report.detail",
    "Progress": "evalgpt.scoring.engine",
    "Options": "evalgpt.scoring.options",
    "Protocol": "evalgpt.core.protocol",
    "ScoreCache": "evalgpt.scoring.cache",
    "ratio_estimate": "evalgpt.report.statistics",
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
