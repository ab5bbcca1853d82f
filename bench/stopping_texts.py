"""The texts of ``bench/stopping.py``: windows' losses in text order, their weights, and a covariate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TOKENS = 512
BASE, SPREAD = 1.0, 0.25


@dataclass(frozen=True)
class Text:
    """How a text's windows differ: most have mean ``BASE`` and standard deviation ``SPREAD`` nats per token.

    ``rare`` in every hundred windows are ``height`` nats above (or below) the others. ``known`` is the correlation of
    the covariate with the windows' losses.
    """

    name: str
    shape: str = "normal"
    rare: float = 0.0
    height: float = 0.0
    burst: bool = False
    unequal: bool = False
    known: float = 0.0


def shaped(rng: np.random.Generator, shape: str, count: int) -> Array:
    """``count`` values in text order, of standard deviation 1 where the law has one like that of its samples."""
    where = np.arange(count) / count
    if shape == "normal":
        return rng.standard_normal(count)
    if shape == "along":
        # A sum of squares of autoregressive sequences is gamma distributed: 8 squares, skewness 1.
        z = rng.standard_normal((count, 8))
        for t in range(1, count):
            z[t] = math.sqrt(0.9) * z[t - 1] + math.sqrt(0.1) * z[t]
        return np.asarray(((z**2).sum(1) - 8) / 4)
    if shape == "gamma":
        return np.asarray((rng.gamma(4, size=count) - 4) / 2)
    if shape == "lognormal":
        return np.asarray(rng.lognormal(0, 1, count) / 2.16)
    if shape == "t3":
        return np.asarray(rng.standard_t(3, count) / math.sqrt(3))
    if shape == "pareto3":
        return np.asarray(rng.pareto(3, count) / math.sqrt(0.75))
    if shape == "linear":
        return np.asarray(rng.standard_normal(count) + 4 * (where - 0.5))
    if shape == "last fifth":
        return np.asarray(rng.standard_normal(count) + 4 * (where >= 0.8))
    raise ValueError(shape)


def drawn(rng: np.random.Generator, text: Text, count: int) -> tuple[Array, Array, Array]:
    """Sums of losses, weights and covariates of the windows of one text."""
    loss = BASE + SPREAD * shaped(rng, text.shape, count)
    kind = math.ceil(text.rare / 100 * count - 1e-9)
    at = np.arange(kind) + rng.integers(count - kind + 1) if text.burst else rng.permutation(count)[:kind]
    loss[at] += text.height
    n = np.full(count, float(TOKENS))
    n[-1] = rng.integers(1, TOKENS)
    if text.unequal:
        n = np.asarray(np.maximum(1, np.round(TOKENS * rng.lognormal(0, 0.6, count))))
    noise = rng.standard_normal(count)
    told = (loss - loss.mean()) / max(float(loss.std()), 1e-12)
    return loss * n, n, np.asarray(text.known * told + math.sqrt(1 - text.known**2) * noise)


PLAIN = [
    Text("homogeneous"),
    Text("gamma, skewness 1", "gamma"),
    Text("autoregressive 0.9 along the text", "along"),
    Text("unequal weights", "gamma", unequal=True),
    Text("covariate tells half of the variance", "gamma", known=0.7),
]
TAILS = [
    Text("lognormal, sigma 1", "lognormal"),
    Text("t, 3 degrees of freedom", "t3"),
    Text("Pareto, shape 3", "pareto3"),
    Text("Pareto, shape 3, unequal weights", "pareto3", unequal=True),
]
TRENDS = [Text("linear trend", "linear"), Text("last fifth another kind", "last fifth")]


def rare(one_in: int, height: float, **options: bool | float) -> Text:
    told = "".join(
        [", in bursts" if options.get("burst") else "", ", unequal weights" if options.get("unequal") else ""]
    )
    told += ", covariate tells" if options.get("known") else ""
    return Text(f"1 in {one_in} {height:g} nats up{told}", rare=100 / one_in, height=height, **options)  # type: ignore[arg-type]


RARE = [rare(k, h) for k in (10, 20, 50, 100) for h in (2, 5, 15)] + [
    rare(20, 15, burst=True),
    rare(100, 5, burst=True),
    rare(100, 5, unequal=True),
    rare(100, 15, unequal=True),
    rare(50, 5, known=0.5),
    rare(100, 15, known=0.5),
]
BEYOND = [rare(k, h) for k in (300, 1000) for h in (5, 15)]
