"""Loading through transformers: quietly, and with one line when it fails."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["quiet", "replace_activations"]


def replace_activations(module: Any) -> dict[str, object]:
    """Replace transformers' NewGELUActivation by torch's tanh GELU: the same formula in one step instead of eight.

    In GPT-2 the temporaries of those steps are most of the memory that a window needs above the weights. Returns what
    was replaced, for the report; nothing where the model has no such activation.
    """
    from torch import nn

    replaced = 0
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(parent, name, nn.GELU(approximate="tanh"))
                replaced += 1
    if not replaced:
        return {}
    return {"module": "NewGELUActivation", "computed_by": "torch.nn.GELU(approximate='tanh')", "modules": replaced}


@contextlib.contextmanager
def quiet(path: str) -> Iterator[None]:
    """Keep transformers' warnings and progress bars from standard error, where ours are.

    A download keeps its bar; of a local ``path``, nothing is shown (the GGUF reader's bar obeys no setting).
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()) if Path(path).is_dir() else contextlib.nullcontext():
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
