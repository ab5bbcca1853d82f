"""The model ``scratch``: a GPT built from scratch, with random weights or with the reader's own checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from evalgpt.core import Model, UsageError
from evalgpt.core.hooks import Register, hookimpl, reads
from evalgpt.core.specs import Spec

__all__ = ["PRESETS", "make_scratch"]


PRESETS = {
    "124M": {"emb_dim": 768, "n_heads": 12, "n_layers": 12},
    "355M": {"emb_dim": 1024, "n_heads": 16, "n_layers": 24},
    "774M": {"emb_dim": 1280, "n_heads": 20, "n_layers": 36},
    "1558M": {"emb_dim": 1600, "n_heads": 25, "n_layers": 48},
}
"""GPT-2's four sizes. As in the course, a preset leaves the context at 256 and the biases off."""

REST: dict[str, int | float | bool] = {
    "vocab_size": 50257,
    "context_length": 256,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
"""The fields that are the same for every preset."""


BEST = "best.safetensors"
"""The checkpoint that ``evalgpt train`` keeps in its folder for the lowest validation loss."""


def _spec_of(path: str) -> str | None:
    """The spec of a checkpoint, or of the best one in the folder of a training run; other tools' folders are theirs."""
    found = Path(path)
    if (found / BEST).is_file():
        found /= BEST
    elif not (found.is_file() and found.suffix.lower() in (".safetensors", ".pt", ".pth")):
        return None
    return None if (found.parent / "config.json").is_file() else str(Spec("scratch", options={"weights": str(found)}))


@reads(_spec_of)
def make_scratch(
    argument: str | None,
    *,
    seed: int = 123,
    weights: str | None = None,
    vocab_size: int | None = None,
    context_length: int | None = None,
    emb_dim: int | None = None,
    n_heads: int | None = None,
    n_layers: int | None = None,
    drop_rate: float | None = None,
    qkv_bias: bool | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> Model:
    """A GPT built from scratch: random weights, or your checkpoint with weights=FILE; scratch:355M for a size.

    Fields not given are those of the checkpoint where evalgpt train wrote it, else of the 124M: vocab_size=50257,
    context_length=256, emb_dim=768, n_heads=12, n_layers=12, drop_rate=0.1, qkv_bias=false.
    """
    if argument is not None and argument not in PRESETS:
        spec = _spec_of(argument)
        hint = "" if spec is None else f"; for a checkpoint write {spec}"
        raise UsageError(f"model 'scratch' has no preset {argument!r}{hint}; known: {', '.join(PRESETS)}")
    if weights is not None and (Path(weights) / BEST).is_file():
        best = Spec("scratch", argument, {"weights": str(Path(weights) / BEST)})
        raise UsageError(f"model 'scratch': {weights} is a folder; for its best checkpoint write {best}")
    size: dict[str, int | None] = {"emb_dim": emb_dim, "n_heads": n_heads, "n_layers": n_layers}
    if argument is not None:
        size = {key: PRESETS[argument][key] if value is None else value for key, value in size.items()}
    given = {"vocab_size": vocab_size, "context_length": context_length, **size, "qkv_bias": qkv_bias}
    found = None if weights is None else _recorded(weights)
    if found is None:
        found = {**REST, **PRESETS[argument or "124M"]}
        if weights is not None and emb_dim is not None and n_heads is None:
            found["n_heads"] = _heads(emb_dim)
    else:
        for key, value in given.items():
            if value is not None and value != found[key]:
                raise UsageError(f"model 'scratch': {weights} has {key}={found[key]}, not {value}; leave {key} out")
    known = {**given, "drop_rate": drop_rate}
    fields = {key: found[key] if value is None else value for key, value in known.items()}
    _check(fields, seed)

    from evalgpt.adapters.gpt.scratch import build_scratch  # torch: not needed to list models

    return build_scratch(fields, seed=seed, weights=weights, device=device, dtype=dtype)


def _recorded(weights: str) -> dict[str, int | float | bool] | None:
    """The fields that ``evalgpt train`` wrote into a checkpoint; None where the file has none, or is not one."""
    if not (Path(weights).is_file() and weights.lower().endswith(".safetensors")):
        return None
    import safetensors

    from evalgpt.adapters.checkpoint import CONFIG_KEY

    try:
        with safetensors.safe_open(weights, framework="pt") as file:
            found = json.loads((file.metadata() or {})[CONFIG_KEY])
            fields = {key: found[key] for key in ("emb_dim", "n_heads", "n_layers", *REST)}
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None  # what is wrong with the file is told when its weights are read
    return fields if all(isinstance(value, (int, float)) for value in fields.values()) else None


def _heads(emb_dim: int) -> int:
    """The heads of GPT-2's size of that width: a wrong number that divides it would load, and score wrongly."""
    for shape in PRESETS.values():
        if shape["emb_dim"] == emb_dim:
            return shape["n_heads"]
    raise UsageError("model 'scratch': give n_heads=..., which a checkpoint's shapes do not show")


def _check(fields: dict[str, int | float | bool], seed: int) -> None:
    for key, value in fields.items():
        if key not in ("drop_rate", "qkv_bias") and value < 1:
            raise UsageError(f"model 'scratch': {key} must be at least 1, not {value}")
    if fields["emb_dim"] % fields["n_heads"]:
        raise UsageError(
            f"model 'scratch': emb_dim {fields['emb_dim']} is not a multiple of n_heads {fields['n_heads']}"
        )
    if not 0 <= fields["drop_rate"] <= 1:
        raise UsageError(f"model 'scratch': drop_rate must be from 0 to 1, not {fields['drop_rate']}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"model 'scratch': seed must be from 0 to 2**63 - 1, not {seed}")


@hookimpl
def register_models(register: Register) -> None:
    register("scratch", make_scratch)
