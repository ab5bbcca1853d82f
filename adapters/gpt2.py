"""The model ``gpt2``: GPT-2's published weights in the GPT built from scratch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from evalgpt.core import EvaluationError, Model, UsageError
from evalgpt.core.hooks import Register, hookimpl

__all__ = ["SIZES", "make_gpt2"]


SIZES = {
    "small": "openai-community/gpt2",
    "medium": "openai-community/gpt2-medium",
    "large": "openai-community/gpt2-large",
    "xl": "openai-community/gpt2-xl",
}


def make_gpt2(argument: str | None, *, device: str = "auto", dtype: str = "float32") -> Model:
    """GPT-2's published weights in our own GPT: gpt2, gpt2:medium, gpt2:large, gpt2:xl, or gpt2:./FOLDER."""
    size = argument or "small"
    folder = Path(size)
    if size in SIZES:
        if importlib.util.find_spec("huggingface_hub") is None:
            raise EvaluationError(
                "model 'gpt2' gets its weights from the hub with huggingface_hub, which is not installed; install it "
                "with pip install 'evalgpt[hf]' ('.[hf]' in a clone), or give a folder that holds them: gpt2:./FOLDER"
            )
    elif not folder.is_dir():
        raise UsageError(f"model 'gpt2' knows {', '.join(SIZES)} or a folder, and there is no folder {size}")

    from evalgpt.adapters.gpt.gpt2 import build_gpt2, download  # torch: not needed to list models

    path = download(SIZES[size]) if size in SIZES else folder
    return build_gpt2(path, source=SIZES.get(size, size), device=device, dtype=dtype)


@hookimpl
def register_models(register: Register) -> None:
    register("gpt2", make_gpt2)
