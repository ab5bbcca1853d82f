"""What protocols share: the stride, and the averages of other tools."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from evalgpt.core import Model, UsageError
from evalgpt.core.protocol import Protocol

__all__ = ["Strided", "averages_of_peers", "no_argument"]


def averages_of_peers() -> Any:
    from evalgpt.protocols import averages  # numpy: not needed to list protocols

    return averages


@dataclass(frozen=True)
class Strided(Protocol):
    """A protocol with a stride, half of the context unless given."""

    stride: int | None = None

    def bind(self, model: Model) -> Self:
        bound = super().bind(model)
        stride = bound.default_stride() if bound.stride is None else bound.stride
        if not 1 <= stride <= bound._context:
            raise UsageError(
                f"stride {stride} is out of range: protocol {self.name} with context {bound.context} "
                f"accepts 1 to {bound.context}"
            )
        return replace(bound, stride=stride)

    def default_stride(self) -> int:
        return max(self._context // 2, 1)

    @property
    def _stride(self) -> int:
        if self.stride is None:
            raise RuntimeError(f"protocol {self.name} was not bound to a model")
        return self.stride


def no_argument(name: str, argument: str | None) -> None:
    if argument is not None:
        raise UsageError(f"protocol {name!r} takes no argument, only keys; {argument!r} is none")
