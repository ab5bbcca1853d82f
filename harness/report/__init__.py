"""The numbers of an evaluation, and the typed document that holds them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalgpt.report.detail import read_detail
    from evalgpt.report.document import Evaluation, Report, json_schema, read_report, write_report

__all__ = ["Evaluation", "Report", "json_schema", "read_detail", "read_report", "write_report"]


def __getattr__(name: str) -> Any:
    """Names are looked up when they are used, so that ``evalgpt.report.files`` loads neither numpy nor msgspec."""
    if name not in __all__:
        raise AttributeError(f"module 'evalgpt.report' has no attribute {name!r}")
    module = "detail" if name == "read_detail" else "document"
    return getattr(importlib.import_module(f"evalgpt.report.{module}"), name)
