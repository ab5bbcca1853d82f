"""Matrix products of float32 at the processor's full width.

On a CPU torch multiplies with MKL, which on AMD's processors keeps to AVX2 where they have AVX-512. oneDNN, which torch
carries too, does not: on two Zen 5 cores it is 2.2 times as fast, and as exact (docs/decisions/010-products.md). A
model need not know: inside :func:`products`, ``F.linear`` and ``addmm`` of a model of any make are oneDNN's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from evalgpt.core import UsageError

__all__ = ["SETTING", "inference", "kind", "product", "products"]

SETTING = "EVALGPT_PRODUCTS"
"""The environment variable that chooses: ``torch``, ``onednn``, or by the processor where it is not set."""

SMALLEST = 2**21
"""Multiplications below which torch's own product is as fast: oneDNN takes some ten microseconds to begin."""

FEWEST = 16
"""Rows below which the products stay torch's: what is short is not slow, and has the same digits on every processor."""


PIECE = 768
"""Longest sums that are left to oneDNN: it adds one after another, where MKL adds up in blocks and rounds less."""


def kind() -> str:
    """Who multiplies float32 matrices on the CPU: ``onednn`` or ``torch``. Two runs on one machine have the same.

    Raises:
        UsageError: the environment asks for something else.
    """
    asked = os.environ.get(SETTING, "")
    if asked not in ("", "torch", "onednn"):
        raise UsageError(f"{SETTING} must be torch or onednn, not {asked!r}")
    if asked == "torch" or _onednn() is None:
        return "torch"
    return "onednn" if asked == "onednn" or _wider_than_mkl() else "torch"


@functools.cache
def _onednn() -> Any:
    """oneDNN's operator for x @ weight.T + bias (``default``), or plus what is there already (``binary``); None where
    this build of torch has none."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return found if found is not None and {"default", "binary"} <= set(found.overloads()) else None


@functools.cache
def _wider_than_mkl() -> bool:
    """Whether the processor has AVX-512 and is not one for which MKL uses it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in _maker()


def _maker() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text(errors="replace")
    return platform.processor()  # on Windows it ends with the maker's name


@contextlib.contextmanager
def inference() -> Iterator[None]:
    """torch's inference mode, with :func:`products`."""
    with torch.inference_mode(), products():
        yield


def products() -> contextlib.AbstractContextManager[object]:
    """Inside, the products of any model's layers are oneDNN's where that pays."""
    return _Products() if kind() == "onednn" else contextlib.nullcontext()


class _Products(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and len(args) in (2, 3):
            return _linear(*args)
        if func is torch.addmm and not kwargs and len(args) == 3 and args[0].ndim == 1:  # transformers' Conv1D
            return _linear(args[1], args[2].T, args[0])
        if func is product and _suits(args[0], args[1], None):
            return _multiply(args[0], args[1])
        return func(*args, **(kwargs or {}))


def product(x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """x [R, k] @ weight.T, weight [n, k]; in ``out`` [R, n] where torch makes it, else in memory of its own."""
    if has_torch_function((x, weight, out)):
        result: Tensor = handle_torch_function(product, (x, weight, out), x, weight, out)
        return result
    return torch.mm(x, weight.T, out=out)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: x [..., k], weight [n, k] and bias [n] to [..., n], by oneDNN where it can and pays."""
    if not _suits(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        result: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return _multiply(x, weight, bias)


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    given = (x, weight) if bias is None else (x, weight, bias)
    return (
        all(type(t) in (Tensor, Parameter) and t.dtype == torch.float32 and t.device.type == "cpu" for t in given)
        and weight.ndim == 2
        and x.ndim > 1
        and x.shape[-1] == weight.shape[1]
        and (bias is None or bias.shape == weight.shape[:1])
        and x.numel() * len(weight) >= SMALLEST
        and x.numel() >= FEWEST * weight.shape[1]
    )


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    multiply = _onednn()
    pieces = -(-weight.shape[1] // PIECE)
    xs, weights = x.chunk(pieces, -1), weight.chunk(pieces, 1)
    result: Tensor = multiply.default(xs[0].contiguous(), _dense(weights[0]), bias, "none", [], "")
    for part, of_weight in zip(xs[1:], weights[1:], strict=True):
        result = multiply.binary(part.contiguous(), result, _dense(of_weight), None, "add")
    return result


def _dense(weight: Tensor) -> Tensor:
    """Rows or columns side by side: with other strides oneDNN walks number by number, a thousand times as slow."""
    return weight if weight.T.is_contiguous() else weight.contiguous()


class _Linear(torch.autograd.Function):
    """The product with its gradients, which are products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2).contiguous()
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _multiply(gradient, weight.T).view(x.shape) if of_x else None,
            _multiply(gradient.T, x.flatten(0, -2).contiguous().T) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
