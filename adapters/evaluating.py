"""Eval mode for the time of a call, for every module that a model holds: dropout would make each loss another one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

__all__ = ["evaluating"]

DEPTH = 4
"""How far a module is looked for in lists, mappings and objects that a model holds."""


@contextlib.contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Inside, every module that ``model`` holds is in eval mode; afterwards each is as it was."""
    training = [part for module in _modules(model) for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _modules(model: object) -> list[nn.Module]:
    """The modules among the attributes of ``model``, in lists, mappings and plain objects there as well."""
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def look(value: object, depth: int) -> None:
        if isinstance(value, nn.Module):
            found[id(value)] = value
        if depth == 0 or id(value) in seen or isinstance(value, (nn.Module, Tensor, str, bytes, type)):
            return
        seen.add(id(value))
        if isinstance(value, Mapping):
            inside = list(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            inside = list(value) if any(not isinstance(one, (int, float, str)) for one in list(value)[:1]) else []
        else:
            inside = list(getattr(value, "__dict__", {}).values())
        for one in inside:
            look(one, depth - 1)

    look(model, DEPTH)
    return list(found.values())
