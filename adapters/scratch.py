"""The model ``scratch``: a GPT built from scratch, with random weights or with the reader's own checkpoint."""

from __future__ import annotations

from evalgpt.core import Model, UsageError
from evalgpt.hooks import Register, hookimpl

__all__ = ["PRESETS", "make_scratch"]

PRESETS = {
    "124M": {"emb_dim": 768, "n_heads": 12, "n_layers": 12},
    "355M": {"emb_dim": 1024, "n_heads": 16, "n_layers": 24},
    "774M": {"emb_dim": 1280, "n_heads": 20, "n_layers": 36},
    "1558M": {"emb_dim": 1600, "n_heads": 25, "n_layers": 48},
}
"""GPT-2's four sizes. As in the course, a preset leaves the context at 256 and the biases off."""


def make_scratch(
    argument: str | None,
    *,
    seed: int = 123,
    weights: str | None = None,
    vocab_size: int = 50257,
    context_length: int = 256,
    emb_dim: int | None = None,
    n_heads: int | None = None,
    n_layers: int | None = None,
    drop_rate: float = 0.1,
    qkv_bias: bool = False,
    device: str = "auto",
    dtype: str = "float32",
) -> Model:
    """A GPT built from scratch: random weights, or your checkpoint with weights=FILE; scratch:355M for a size."""
    preset = argument or "124M"
    if preset not in PRESETS:
        raise UsageError(f"model 'scratch' has no preset {preset!r}; known: {', '.join(PRESETS)}")
    if weights is not None and emb_dim is not None and n_heads is None:
        n_heads = next((shape["n_heads"] for shape in PRESETS.values() if shape["emb_dim"] == emb_dim), None)
        if n_heads is None:  # a wrong number that divides emb_dim would load, and score wrongly
            raise UsageError("model 'scratch': give n_heads=..., which a checkpoint's shapes do not show")
    shape = {"emb_dim": emb_dim, "n_heads": n_heads, "n_layers": n_layers}
    fields: dict[str, int | float | bool] = {
        "vocab_size": vocab_size,
        "context_length": context_length,
        **{key: PRESETS[preset][key] if value is None else value for key, value in shape.items()},
        "drop_rate": drop_rate,
        "qkv_bias": qkv_bias,
    }
    _check(fields, seed)

    from evalgpt.adapters.scratch_weights import build_scratch  # torch: not needed to list models

    return build_scratch(fields, seed=seed, weights=weights, device=device, dtype=dtype)


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
