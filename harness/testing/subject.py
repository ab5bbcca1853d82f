"""What the checks of an adapter stand on: the model under test, its scores, and how a check fails or is skipped.

A check is a function of a :class:`Subject`, named ``check_...``. It returns, or raises :class:`CheckFailed` with a
message that tells an adapter's author where to look, or :class:`CheckSkipped` with what it would need. Checks see the
public Model interface alone, so they judge a server behind HTTP as well as a torch module.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Detail, Encoding, Model, TokenScores, UsageError, Window
from evalgpt.core.rounding import tolerance_of

__all__ = ["Check", "CheckFailed", "CheckSkipped", "Subject", "check_sizes", "gap"]


Losses = NDArray[np.float64]

LARGEST = 1 << 31
"""A vocabulary of this size or more is a mistake."""

ENUMERATED = 4096
"""Vocabularies up to this size are scored token by token where a whole distribution is wanted."""


class CheckFailed(AssertionError):  # noqa: N818 - what pytest calls an outcome, not an error
    """The adapter is wrong; the message says how that showed and what to look at."""


class CheckSkipped(Exception):  # noqa: N818
    """The check cannot tell anything of this model; the message says why."""


Check = Callable[["Subject"], None]


def gap(a: Losses | float, b: Losses | float) -> float:
    """The largest difference, nats, of losses or arrays of them.

    Two equal infinities do not differ, NaN differs from everything.
    """
    with np.errstate(invalid="ignore"):
        apart = np.where(np.equal(a, b), 0.0, np.abs(np.subtract(a, b)))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def check_sizes(model: Model) -> None:
    """Raise CheckFailed where an attribute that every check reads is not of its type."""
    for key in ("name", "fingerprint", "device", "dtype"):
        value = getattr(model, key, None)
        if not isinstance(value, str) or not value.strip():
            raise CheckFailed(f"{key} must be a text that is not empty, not {value!r}")
    for key, least in (("context_length", 1), ("vocab_size", 2)):
        value = getattr(model, key, None)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise CheckFailed(f"{key} must be an integer of at least {least}, not {value!r}")
    if model.vocab_size >= LARGEST:
        raise CheckFailed(f"vocab_size must be below {LARGEST}, not {model.vocab_size}")
    prefix: Any = model.prefix_id
    if prefix is not None and not _whole_number(prefix):
        raise CheckFailed(f"prefix_id must be an integer or None, not {prefix!r}")
    if prefix is not None and not 0 <= prefix < model.vocab_size:
        raise CheckFailed(f"prefix_id {prefix} is outside the vocabulary, 0 to {model.vocab_size - 1}")


@dataclass
class Subject:
    """The model under test.

    Args:
        build: builds it; called once, and once more by the checks of the fingerprint.
        other: builds a model of the same kind with other weights, or None.
        seed: of everything that is drawn.
        tolerance: nats per token by which equal scores may differ; by default what rounding does to its dtype.
        longest: the longest window to try, in tokens fed.

    Raises:
        UsageError: a seed or a tolerance below zero.
    """

    build: Callable[[], Model]
    other: Callable[[], Model] | None = None
    seed: int = 0
    tolerance: float | None = None
    longest: int = 4096
    _distributions: dict[tuple[int, ...], Losses | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"a seed is a number from 0 up, not {self.seed}")
        if self.tolerance is not None and not 0 <= self.tolerance < np.inf:
            raise UsageError(f"a tolerance is in nats per token from 0 up, not {self.tolerance}")

    @cached_property
    def model(self) -> Model:
        return self.build()

    @property
    def allowed(self) -> float:
        """Nats per token by which equal scores may differ."""
        return tolerance_of(self.model.dtype) if self.tolerance is None else self.tolerance

    def draw(self, length: int, salt: object = "") -> list[int]:
        """``length`` random ids; the same for the same seed and ``salt``."""
        generator = np.random.default_rng([self.seed, length, *str(salt).encode()])
        return [int(i) for i in generator.integers(self.model.vocab_size, size=length)]

    def another(self, token: int) -> int:
        """A token other than ``token``, by a shift that is the same each time."""
        size = self.model.vocab_size
        return (token + 1 + (token + self.seed) % max(size - 1, 1)) % size if size > 1 else token

    def length(self, wanted: int) -> int:
        """How many ids a window may have: ``wanted``, or what the model can be fed and one target."""
        return min(wanted, self.model.context_length + 1)

    def scores(self, windows: Sequence[Window], detail: Detail | None = None) -> list[TokenScores]:
        """The model's answer to one batch, its shapes checked."""
        given: Any = self.model.score(windows, detail)
        if inspect.iscoroutine(given):
            given.close()  # else Python warns that it was never awaited
        if not isinstance(given, Iterable) or isinstance(given, Mapping | str):
            raise CheckFailed(f"score() returned {type(given).__name__}; a list of TokenScores is wanted, one a window")
        answer = list(given)
        if len(answer) != len(windows):
            raise CheckFailed(
                f"score() was given {len(windows)} windows and answered {len(answer)}; one each is wanted"
            )
        for window, scores in zip(windows, answer, strict=True):
            if not isinstance(scores, TokenScores):
                raise CheckFailed(f"score() returned {type(scores).__name__} for a window; TokenScores is wanted")
            if np.asarray(scores.nll).dtype.kind not in "fiu":
                raise CheckFailed(f"the losses (nll) of score() are {_kind(scores.nll)}; an array of float32 is wanted")
            shape, expected = np.shape(scores.nll), (len(window.ids) - window.start,)
            if shape != expected:
                raise CheckFailed(
                    f"score() returned losses of shape {shape} for a window of {len(window.ids)} ids scored from "
                    f"{window.start}; {expected} is wanted: one per id of ids[start:]"
                )
            if detail is not None:
                _check_shapes(scores, expected[0], detail)
                if detail.top and scores.top_ids is not None:
                    self._check_ids(np.asarray(scores.top_ids).reshape(-1).tolist(), "top_ids of the detail name")
        if answer and all(np.isnan(np.asarray(scores.nll)).all() for scores in answer):
            raise CheckFailed("all losses of a batch are NaN; is a softmax taken over a row that is masked whole?")
        return answer

    def encode(self, text: str) -> Encoding:
        """The tokens of ``text``, their types checked."""
        encoding: Any = self.model.encode(text)
        if not isinstance(encoding, Encoding):
            raise CheckFailed(
                f"encode({text[:40]!r}) returned {type(encoding).__name__}; an evalgpt.Encoding is wanted"
            )
        ids: Any = encoding.ids
        if not isinstance(ids, Sized) or not isinstance(ids, Iterable):
            raise CheckFailed(f"encode({text[:40]!r}) gives ids of type {type(ids).__name__}; a sequence is wanted")
        wrong = next((i for i in ids if not _whole_number(i)), None)
        if wrong is not None:
            found = f"{type(wrong).__name__} {repr(wrong)[:40]}"
            raise CheckFailed(f"encode({text[:40]!r}) gives {found} among its ids; whole numbers are wanted")
        self._check_ids([int(i) for i in encoding.ids], f"encode({text[:40]!r}) gives")
        return encoding

    def _check_ids(self, ids: Sequence[int], what: str) -> None:
        size = self.model.vocab_size
        wrong = next((i for i in ids if not 0 <= i < size), None)
        if wrong is not None:
            raise CheckFailed(
                f"{what} id {wrong}, outside the vocabulary 0 to {size - 1}: tokenizer and weights do not belong "
                f"together, or vocab_size leaves out added tokens"
            )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, its type checked."""
        text: Any = self.model.decode(ids)
        if not isinstance(text, str):
            few = f"{list(ids[:3])}"[:-1] + (", ...]" if len(ids) > 3 else "]")
            raise CheckFailed(f"decode({few}) returns {type(text).__name__}; a str is wanted")
        return text

    def nll(self, *windows: Window) -> list[Losses]:
        """The losses of ``windows`` as one batch."""
        return [np.asarray(scores.nll, dtype=np.float64) for scores in self.scores(windows)]

    def last(self, ids: Sequence[int]) -> float:
        """The loss of the last of ``ids``, alone in its batch."""
        return float(self.nll(Window(list(ids), len(ids) - 1))[0][0])

    def top(self, context: Sequence[int]) -> Losses | None:
        """NLL of every token after ``context`` by ``Detail(top=vocab_size)``, [V]; None without such a detail."""
        size = self.model.vocab_size
        (scores,) = self.scores([Window([*context, 0], len(context))], Detail(top=size))
        if scores.top_ids is None or scores.top_logprobs is None:
            return None
        ids, logs = np.asarray(scores.top_ids).reshape(-1), np.asarray(scores.top_logprobs).reshape(-1)
        if len(ids) != size or (np.sort(ids) != np.arange(size)).any():
            raise CheckFailed(
                f"Detail(top={size}) listed {len(set(ids.tolist()))} different tokens of the {size} that vocab_size "
                f"promises; is the vocabulary cut?"
            )
        nll = np.empty(size)
        nll[ids] = -logs.astype(np.float64)
        return nll

    def distribution(self, context: Sequence[int]) -> Losses | None:
        """NLL of every token after ``context``, [V]: each scored as a target where the vocabulary is small, else from
        the detail; None where neither can be had."""
        key = tuple(context)
        if key not in self._distributions:
            self._distributions[key] = self._whole(context)
        return self._distributions[key]

    def _whole(self, context: Sequence[int]) -> Losses | None:
        size = self.model.vocab_size
        if size > ENUMERATED:
            return self.top(context)
        windows = [Window([*context, i], len(context)) for i in range(size)]
        step = max(1024 // len(context), 1)
        parts = [self.nll(*windows[at : at + step]) for at in range(0, size, step)]
        return np.concatenate([losses for part in parts for losses in part])


def _kind(value: object) -> str:
    """What an array's numbers are, or what stands where an array is wanted."""
    return f"of type {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def _whole_number(value: Any) -> bool:
    """Whether ``value`` may stand for an id: an int, or an integer of numpy or torch."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


PARTS = {"rank": ("iu", 1), "entropy": ("f", 1), "top_ids": ("iu", 2), "top_logprobs": ("f", 2)}
"""Kind (numpy's letters) and number of dimensions of each part of a detail."""


def _check_shapes(scores: TokenScores, count: int, detail: Detail) -> None:
    """Raise CheckFailed where a part of the detail is not an array of its kind with one row per loss."""
    asked = {"rank": detail.rank, "entropy": detail.entropy}
    top = detail.top
    for name, (kinds, dimensions) in PARTS.items():
        value: Any = getattr(scores, name)
        if value is None or not asked.get(name, top):
            continue
        array = np.asarray(value)
        if array.dtype.kind not in kinds:
            wanted = "float32" if kinds == "f" else "int64"
            raise CheckFailed(f"{name} of the detail is {_kind(value)}; an array of {wanted} is wanted")
        if array.ndim != dimensions or array.shape[0] != count or (dimensions == 2 and array.shape[1] > top):
            expected = f"({count}, {top} or fewer)" if dimensions == 2 else f"({count},)"
            raise CheckFailed(
                f"{name} of the detail has the shape {array.shape} for {count} losses; {expected} is wanted"
            )
    ids, logs = (scores.top_ids, scores.top_logprobs) if top else (None, None)
    if (ids is None) != (logs is None) or (ids is not None and logs is not None and np.shape(ids) != np.shape(logs)):
        raise CheckFailed("top_ids and top_logprobs of the detail must both be there, and of one shape")
