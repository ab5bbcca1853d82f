"""Matrix products of float32 at the processor's full width.

On a CPU torch multiplies with MKL, which on AMD's processors keeps to AVX2 where they have AVX-512. oneDNN, which torch
carries too, does not: on two Zen 5 cores it is 2.2 times as fast (docs/decisions/010-products.md). A model is written
as ever: inside :func:`products`, its ``F.linear`` and ``addmm`` are oneDNN's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from evalgpt.core import UsageError

__all__ = ["SETTING", "against", "gelu_linear", "inference", "kind", "products"]

SETTING = "EVALGPT_PRODUCTS"
"""The environment variable that chooses: ``torch``, ``onednn``, or by the processor where it is not set."""

SMALLEST = 2**16
"""Numbers in a weight below which torch's own product is as fast: oneDNN takes some ten microseconds to begin. Of the
weight and not of the product, so that who multiplies does not depend on the batch, where its rows are not few."""

FEWEST = 16
"""Rows below which the products stay torch's: what is so short takes no time, and has torch's digits everywhere."""

PIECE = 768
"""Longest sums that are left to oneDNN: it adds one after another, where MKL adds up in blocks and rounds less."""

MANY = 64
"""Rows from which on sums longer than that pay for the copies of the weights' pieces."""

LOGIT_PIECE = 192
"""The same for logits, which are large, and whose rounding is the loss's: MKL's own digits."""


@functools.cache
def kind() -> str:
    """Who multiplies float32 matrices on the CPU: ``onednn`` or ``torch``. Two runs on one machine have the same.

    Raises:
        UsageError: the environment asks for something else, or for what this build of torch lacks.
    """
    asked = os.environ.get(SETTING, "")
    if asked not in ("", "torch", "onednn"):
        raise UsageError(f"{SETTING} must be torch or onednn, not {asked!r}")
    if asked == "onednn" and _onednn() is None:
        raise UsageError(f"{SETTING} asks for onednn, and this build of torch has none that is known; leave it out")
    return asked or ("onednn" if _onednn() is not None and _wider_than_mkl() else "torch")


@functools.cache
def _onednn() -> Any:
    """oneDNN's operator for x @ weight.T + bias (``default``), or plus what is there already (``binary``); None where
    this build of torch has none."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return found if found is not None and {"default", "binary"} <= set(found.overloads()) else None


def _wider_than_mkl() -> bool:
    """Whether the processor has AVX-512 and MKL, for its maker's sake, does not use it."""
    mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return bool(mkl) and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in _maker()


def _maker() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text(errors="replace")
    return platform.processor()  # on Windows it ends with the maker's name


@contextlib.contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """torch's inference mode, with :func:`products`."""
    with torch.inference_mode(), products(device):
        yield


def products(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside, the products of a model's layers on ``device`` are oneDNN's where that pays; gradients included, but not
    gradients of gradients."""
    return _Products() if device.type == "cpu" and kind() == "onednn" else contextlib.nullcontext()


class _Products(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not kwargs and func is F.linear and len(args) in (2, 3) and _suits(*args):
            return _linear(*args)
        if not kwargs and func is torch.addmm and len(args) == 3:  # transformers' Conv1D
            bias, x, weight = args
            if weight.ndim == x.ndim == 2 and weight.layout == torch.strided and _suits(x, weight.T, bias):
                return _linear(x, weight.T, bias)
        if func is against:
            return _against(*args)
        if func is gelu_linear:
            return _gelu_linear(*args)
        return func(*args, **(kwargs or {}))


def against(x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Products of ``x`` [R, k] with one weight [n, k] after another: call it with the weight and a tensor ``out``
    [R, n]; what it gives, x @ weight.T, is in ``out`` where torch makes it, else in memory of its own."""
    if has_torch_function((x,)):
        result: Callable[[Tensor, Tensor], Tensor] = handle_torch_function(against, (x,), x)
        return result
    return lambda weight, out: torch.mm(x, weight.T, out=out)


def _against(x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    pieces = list(_pieces(x, LOGIT_PIECE)) if x.dtype == torch.float32 else []

    def multiplied(weight: Tensor, out: Tensor) -> Tensor:
        return _summed(pieces, weight, None) if _suits(x, weight) else torch.mm(x, weight.T, out=out)

    return multiplied


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The tanh GELU of ``F.linear``: x [..., k], weight [n, k] and bias [n] to [..., n]; one pass where that can be."""
    if has_torch_function((x, weight, bias)):
        result: Tensor = handle_torch_function(gelu_linear, (x, weight, bias), x, weight, bias)
        return result
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def _gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if not _suits(x, weight, bias):
        return gelu_linear(x, weight, bias)  # torch's: no mode is on while one of its functions runs
    if weight.shape[1] > PIECE or _graded(x, weight, bias):
        return F.gelu(_linear(x, weight, bias), approximate="tanh")
    result: Tensor = _onednn().default(x.contiguous(), weight.contiguous(), bias.contiguous(), "gelu", [], "tanh")
    return result


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN can make this product, and is faster."""
    given = (x, weight) if bias is None else (x, weight, bias)
    if not all(type(t) in (Tensor, Parameter) and t.dtype == torch.float32 and t.device.type == "cpu" for t in given):
        return False
    if any(t.layout != torch.strided for t in given) or torch.is_autocast_enabled("cpu"):
        return False
    if weight.ndim != 2 or x.ndim < 2 or x.shape[-1] != weight.shape[1]:
        return False
    if bias is not None and bias.shape != weight.shape[:1]:
        return False
    fewest = FEWEST if weight.shape[1] <= PIECE else MANY
    return weight.numel() >= SMALLEST and x.numel() >= fewest * weight.shape[1]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: x [..., k], weight [n, k] and bias [n] to [..., n]."""
    if _graded(x, weight, bias):
        result: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return _multiply(x, weight, bias)


def _graded(*given: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _summed(_pieces(x, PIECE), weight, bias)


def _pieces(x: Tensor, longest: int) -> Iterator[Tensor]:
    """Made one by one: together they would be another ``x``."""
    return (piece.contiguous() for piece in x.chunk(-(-x.shape[-1] // longest), -1))


def _summed(xs: Iterable[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product of what ``xs`` are the pieces of. The operator takes no strides of a bias, and over weights of which
    neither rows nor columns lie side by side it walks number by number, a thousand times as slow."""
    multiply = _onednn()
    bias = None if bias is None else bias.contiguous()
    result: Tensor | None = None
    at = 0
    for x in xs:
        part = weight[:, at : at + x.shape[-1]]
        at += x.shape[-1]
        part = part if part.T.is_contiguous() else part.contiguous()
        if result is None:
            result = multiply.default(x, part, bias, "none", [], "")
        else:
            result = multiply.binary(x, result, part, None, "add")
    assert result is not None
    return result


class _Linear(torch.autograd.Function):
    """The product with its gradients, which are products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        ctx.shape = x.shape
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2).contiguous()
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _multiply(gradient, weight.T).view(ctx.shape) if of_x else None,
            _multiply(gradient.T, x.flatten(0, -2).contiguous().T) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
