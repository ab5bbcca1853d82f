"""Batches of windows: how large, what to do when one does not fit, and what need not be computed at all."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from evalgpt.core import (
    Detail,
    EvaluationError,
    Model,
    SharesPrefixes,
    TokenScores,
    UsageError,
    Window,
    common_prefix_length,
)
from evalgpt.core.answers import Where, ask, picked
from evalgpt.core.guard import PluginError
from evalgpt.scoring.cache import Memory

__all__ = ["AUTO", "DEFAULT_BATCH_TOKENS", "BatchSize", "Scorer", "Work", "batches", "make_batches"]


AUTO = 0
"""``batch_tokens`` for a size that is found while scoring."""

DEFAULT_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384, "mps": 4096}
"""Tokens fed at once, padding included, by kind of device. On two CPU cores 512 and 2048 are equally fast and 4096 is
4 % slower (bench/batch.py); few keep memory low and progress visible. CUDA's and MPS's are guesses, not measured."""

FIRST, LARGEST = 256, 1 << 18
"""Where a size that is found begins, and where it ends even if speed still grows."""

ALIKE = 0.25
"""The share of its ids that a window must have in common with another to be scored in a tree with it."""

ENOUGH = 256
"""Tokens from which on a tree does not take in another that begins otherwise: each sees the other's, in vain."""

WORTH = 1.05
"""By how much a doubled batch must be faster to be kept: it costs memory, and shows progress half as often."""

FULL = 0.75
"""The share of its tokens that a batch must hold for its speed to tell about its size."""


@dataclass(slots=True)
class BatchSize:
    """How many tokens, padding included, to feed at once.

    Args:
        tokens: the size; where it is found (``growing``), where to begin.
        growing: double while that makes it faster.
    """

    tokens: int
    growing: bool = False
    failed: int | None = None
    _speeds: list[float] = field(default_factory=list)
    _best: float = 0.0

    @classmethod
    def of(cls, model: Model, wanted: int | None) -> BatchSize:
        """``wanted``, :data:`AUTO`, or what suits the model's device.

        Raises:
            UsageError: ``wanted`` is less than 1 and not AUTO.
        """
        if wanted is None:
            return cls(DEFAULT_BATCH_TOKENS.get(model.device.split(":")[0], DEFAULT_BATCH_TOKENS["cpu"]))
        if wanted == AUTO:
            return cls(FIRST, growing=True)
        if wanted < 1:
            raise UsageError(f"batch_tokens must be at least 1, not {wanted}")
        return cls(wanted)

    def took(self, tokens: int, seconds: float) -> None:
        """Learn from a batch of ``tokens``. Two of each size are timed, and the faster counts: the first warms up."""
        if not self.growing or tokens < FULL * self.tokens:
            return
        self._speeds.append(tokens / max(seconds, 1e-9))
        if len(self._speeds) < 2:
            return
        speed = max(self._speeds)
        self._speeds.clear()
        if self._best and speed < WORTH * self._best:
            self.tokens //= 2
            self.growing = False
        elif self.tokens >= LARGEST:
            self.growing = False
        else:
            self._best = speed
            self.tokens *= 2

    def shrink(self, tokens: int) -> None:
        """``tokens`` did not fit the memory: half of them from now on."""
        self.failed = tokens if self.failed is None else min(self.failed, tokens)
        self.tokens = max(min(self.tokens, tokens // 2), 1)
        self.growing = False


def batches(lengths: Sequence[int], size: BatchSize, equal: bool = False) -> Iterator[list[int]]:
    """Indices of windows to score together: longest first, so that the padded batch stays within ``size``.

    A window longer than that is a batch by itself. Equal lengths keep their order; with ``equal``, a batch has one
    length alone. ``size`` is asked before each batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    at = 0
    while at < len(order):
        longest = lengths[order[at]]
        batch = order[at : at + max(size.tokens // longest, 1)]
        if equal:
            batch = [i for i in batch if lengths[i] == longest]
        yield batch
        at += len(batch)


def make_batches(windows: Sequence[Window], size: BatchSize, model: Model) -> Iterator[list[int]]:
    """Indices of windows to score together by ``model``.

    For a model that shares prefixes, those with a common prefix come first, neighbours by their ids, as many as have
    ``size`` tokens with each prefix counted once. The others are batched as :func:`batches` does.
    """
    room = 0 if model.equal_lengths else shared_tokens(model)
    fed = [list(window.ids[:-1]) for window in windows] if room else []
    order = sorted(range(len(fed)), key=fed.__getitem__)
    common = [0, *(common_prefix_length(fed[a], fed[b]) for a, b in itertools.pairwise(order)), 0]
    sharing = {i for k, i in enumerate(order) if max(common[k : k + 2]) >= ALIKE * len(fed[i])}
    yield from _trees([i for i in order if i in sharing], fed, size, room)
    rest = [i for i in range(len(windows)) if i not in sharing]
    for batch in batches([len(windows[i].ids) - 1 for i in rest], size, model.equal_lengths):
        yield [rest[i] for i in batch]


def shared_tokens(model: Model) -> int:
    """The most tokens of a batch of windows with common beginnings; 0 for a model that computes each by itself."""
    return model.shared_tokens if isinstance(model, SharesPrefixes) else 0


def _trees(order: Sequence[int], fed: Sequence[Sequence[int]], size: BatchSize, room: int) -> Iterator[list[int]]:
    """Batches of the texts ``fed`` in ``order``, within ``size`` and ``room``, and no larger than they need to be."""
    batch: list[int] = []
    nodes = 0
    for i in order:
        common = common_prefix_length(fed[batch[-1]], fed[i]) if batch else 0
        full = nodes + len(fed[i]) - common > min(size.tokens, room)
        if batch and (full or (nodes >= ENOUGH and common < ALIKE * len(fed[i]))):
            yield batch
            batch, nodes, common = [], 0, 0
        batch.append(i)
        nodes += len(fed[i]) - common
    if batch:
        yield batch


@dataclass(slots=True)
class Work:
    """Scores that were computed, the tokens fed for them, and scores recalled from an earlier run."""

    scores: int = 0
    fed_tokens: int = 0
    recalled: int = 0


@dataclass(slots=True)
class Scorer:
    """A model with what it needs to score batch after batch: a size that shrinks when memory ends, and a memory of
    scores from earlier runs.

    With ``detail``, every window is computed, since the memory holds losses alone.
    """

    model: Model
    size: BatchSize
    memory: Memory | None = None
    work: Work = field(default_factory=Work)
    detail: Detail | None = None

    def score(self, windows: Sequence[Window], where: Where | None = None) -> list[TokenScores]:
        """The scores of each window, recalled or computed; ``where`` says of a window, by its number here, where it
        is.

        Raises:
            EvaluationError: as :func:`evalgpt.core.answers.ask`, or one window alone does not fit the memory.
        """
        recalls = self.memory is not None and self.detail is None
        found = self.memory.recall(windows) if self.memory and recalls else [None] * len(windows)
        absent = [i for i, nll in enumerate(found) if nll is None]
        missing = [windows[i] for i in absent]
        answers = self._computed(missing, picked(where or (lambda _: ""), absent)) if missing else []
        if self.memory and missing:
            self.memory.keep(missing, [answer.nll for answer in answers])
        self.work.scores += sum(len(answer.nll) for answer in answers)
        self.work.recalled += sum(len(nll) for nll in found if nll is not None)
        self.work.fed_tokens += sum(len(window.ids) - 1 for window in missing)
        new = iter(answers)
        return [next(new) if nll is None else TokenScores(nll) for nll in found]

    def _computed(self, windows: Sequence[Window], where: Where) -> list[TokenScores]:
        if self.model.equal_lengths and len({len(window.ids) for window in windows}) > 1:
            return self._in_parts(windows, where)  # a caller's own batch, as of windows in random order
        tokens = _fed(windows, shared_tokens(self.model) > 0)
        began = time.perf_counter()
        try:
            scored = ask(self.model, windows, self.detail, where)
        except PluginError as error:
            if not _out_of_memory(error.__cause__):
                raise
            if len(windows) == 1:
                raise EvaluationError(
                    f"model {self.model.name}: a single window of {tokens} tokens does not fit the memory of "
                    f"{self.model.device}{_behind(where(0))}; give a "
                    f"smaller --context, a narrower --dtype or another --device"
                ) from error
        else:
            self.size.took(tokens, time.perf_counter() - began)
            return scored
        self.size.shrink(tokens)
        gc.collect()  # what the failed batch left in cycles
        return self._in_parts(windows, where)

    def _in_parts(self, windows: Sequence[Window], where: Where) -> list[TokenScores]:
        scored = [TokenScores(np.empty(0, np.float32))] * len(windows)
        for part in make_batches(windows, self.size, self.model):
            for i, answer in zip(part, self._computed([windows[i] for i in part], picked(where, part)), strict=True):
                scored[i] = answer
        return scored


def _behind(place: str) -> str:
    return f", in {place}" if place else ""


def _fed(windows: Sequence[Window], shares: bool) -> int:
    """Tokens fed for ``windows``: padded rows, or for a model that ``shares`` a tree of them, where that is less."""
    padded = len(windows) * max(len(window.ids) - 1 for window in windows)
    if not shares:
        return padded
    fed = sorted(list(window.ids[:-1]) for window in windows)
    nodes = sum(map(len, fed)) - sum(common_prefix_length(a, b) for a, b in itertools.pairwise(fed))
    return min(padded, nodes)


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether the machine or the device ran out: torch has a class for CUDA, and sentences for the CPU and MPS."""
    if not isinstance(error, (RuntimeError, MemoryError)):
        return False
    text = str(error).lower()
    told = ("out of memory", "can't allocate memory", "not enough memory", "defaultcpuallocator")
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(t in text for t in told)
