"""Whether what an author's ``logits``, ``hidden`` and ``unembedding`` return has the shape that scoring wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from evalgpt.adapters.kernels.tiled import Head
from evalgpt.core import EvaluationError

if TYPE_CHECKING:
    from evalgpt.adapters.base import TorchModel

__all__ = ["head_of", "logits_of", "states_of", "tree_states"]


def logits_of(model: TorchModel, ids: Tensor) -> Tensor:
    """The model's logits [B, T, V] for ``ids`` int64 [B, T]; only shapes are looked at, so that no device waits.

    Raises:
        EvaluationError: they are no tensor of floats, or have another shape.
    """
    wanted = (*ids.shape, model.vocab_size)
    return _checked("logits()", model.logits(ids), ("batch", "tokens", "vocab_size"), wanted)


def states_of(model: TorchModel, ids: Tensor) -> Tensor:
    """The model's states [B, T, d] for ``ids`` int64 [B, T].

    Raises:
        EvaluationError: they are no tensor of floats, or have another shape.
    """
    return _checked("hidden()", model.hidden(ids), ("batch", "tokens", "width"), (*ids.shape, None))


def tree_states(states: Tensor, nodes: int) -> Tensor:
    """The states [N, d] of a tree of ``nodes``.

    Raises:
        EvaluationError: they are no tensor of floats, or have another shape.
    """
    return _checked("hidden_tree()", states, ("nodes", "width"), (nodes, None))


def head_of(model: TorchModel, states: Tensor) -> Head:
    """The model's head, for ``states`` [..., d].

    Raises:
        EvaluationError: its matrix is not [vocab_size, d].
    """
    head = model.head()
    if not isinstance(head, Head):
        raise EvaluationError(f"head() returned {_described(head)}; an evalgpt.adapters.kernels.tiled.Head is wanted")
    _checked("unembedding()", head.weight, ("vocab_size", "width"), (model.vocab_size, states.shape[-1]))
    return head


def _checked(who: str, found: object, names: tuple[str, ...], wanted: tuple[int | None, ...]) -> Tensor:
    """``found``, if it is a tensor of floats of the shape ``wanted``, where None stands for any size."""
    floats = isinstance(found, Tensor) and found.is_floating_point()
    if isinstance(found, Tensor) and floats and _fits(found, wanted):
        return found
    sizes = ", ".join(name if size is None else str(size) for name, size in zip(names, wanted, strict=True))
    kind = "a tensor" if floats else "a tensor of floats"
    raise EvaluationError(
        f"{who} returned {_described(found)}; {kind} [{', '.join(names)}] = [{sizes}] is wanted{_hint(found)}"
    )


def _fits(found: Tensor, wanted: tuple[int | None, ...]) -> bool:
    return found.ndim == len(wanted) and all(s in (None, n) for s, n in zip(wanted, found.shape, strict=True))


def _described(found: object) -> str:
    if isinstance(found, Tensor):
        dtype = "" if found.is_floating_point() else f" of {str(found.dtype).removeprefix('torch.')}"
        return f"a tensor{dtype} {list(found.shape)}"
    name = "None" if found is None else type(found).__name__
    return name if found is None else f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _hint(found: object) -> str:
    if isinstance(getattr(found, "logits", None), Tensor):
        return ": return its logits"
    first = isinstance(found, (tuple, list)) and found and isinstance(found[0], Tensor)
    return ": return its first part" if first else ""
