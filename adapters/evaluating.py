"""Eval mode for the time of a call, for every module that a model holds: dropout would make each loss another one."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

from torch import Tensor, nn

__all__ = ["evaluating"]


DEPTH = 4
"""How far a module is looked for in lists, mappings and objects that a model holds."""

MANY = 256
"""Entries above which a container is taken for data, such as a vocabulary, and not looked through at each call."""


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
    found: list[nn.Module] = []
    seen: set[int] = set()
    waiting = [(model, 0)]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in seen or isinstance(value, PLAIN):
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found.append(value)
        elif depth < DEPTH:
            waiting += [(one, depth + 1) for one in _inside(value)]
    return found


PLAIN = (str, bytes, int, float, type(None), Tensor, type)


def _inside(value: object) -> Collection[object]:
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        if len(value) > MANY:
            return ()
        return list(value.values()) if isinstance(value, Mapping) else value
    return list(getattr(value, "__dict__", {}).values())
