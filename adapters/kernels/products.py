"""Float32 matrix products by oneDNN, for adapters that ask for them.

On a CPU torch multiplies with MKL, which on AMD's processors keeps to AVX2 where they have AVX-512. oneDNN, which torch
carries too, does not: on two Zen 5 cores it is 2.2 times as fast (docs/decisions/010-products.md). A model is plain
torch: inside :func:`onednn_matmul`, its ``F.linear`` and ``addmm`` are oneDNN's. Only adapters whose
``uses_onednn_matmul`` is true run inside it (docs/decisions/011-matmul-backend.md).
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

__all__ = ["SETTING", "TileMatmul", "inference", "matmul_backend", "onednn_matmul", "tile_matmul", "without_mode"]


TileMatmul = Callable[[Tensor, Tensor], Tensor]
"""A tile [n, k] and a buffer [R, n] to rows @ tile.T, [R, n]; :func:`tile_matmul` makes it."""

SETTING = "EVALGPT_PRODUCTS"
"""The environment variable that chooses the backend: ``torch`` or ``onednn``. Unset, the processor decides."""

MIN_WEIGHT_SIZE = 2**16
"""Numbers in a weight below which torch's product is as fast: oneDNN needs some ten microseconds to start. The size of
the weight decides, not that of the product, so that the backend does not depend on the batch size."""

MIN_ROWS = 16
"""Rows below which torch multiplies: so few take no time, and have torch's digits on every machine."""

CHUNK = 768
"""Longest sum that oneDNN computes in one call. It adds one product after another, where MKL adds in blocks and rounds
less; longer sums are cut into chunks."""

MIN_ROWS_FOR_CHUNKS = 64
"""Rows below which torch computes sums longer than CHUNK: copying the weight's chunks would cost more than it saves."""

LOGIT_CHUNK = 192
"""CHUNK for logits. They are large, and their rounding is the loss's: this is the length of MKL's own blocks."""


@functools.cache
def matmul_backend() -> str:
    """The backend for float32 matrix products on the CPU: ``onednn`` or ``torch``. Settled once a process, so that the
    backend that a report names stays true.

    Raises:
        UsageError: the environment asks for another one, or for one that this build of torch lacks.
    """
    asked = os.environ.get(SETTING, "")
    if asked not in ("", "torch", "onednn"):
        raise UsageError(f"{SETTING} must be torch or onednn, not {asked!r}")
    if asked == "onednn" and _onednn_linear() is None:
        raise UsageError(f"{SETTING} asks for onednn, which this build of torch lacks; leave it out")
    return asked or ("onednn" if _onednn_linear() is not None and _mkl_ignores_avx512() else "torch")


@functools.cache
def _onednn_linear() -> Any:
    """oneDNN's operator with its overloads ``default`` (x @ weight.T + bias) and ``binary`` (the same added to a
    tensor); None if this build of torch lacks it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return operator if operator is not None and {"default", "binary"} <= set(operator.overloads()) else None


def _mkl_ignores_avx512() -> bool:
    """Whether the processor has AVX-512 and MKL does not use it because AMD made the processor."""
    mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return bool(mkl) and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in _cpu_vendor()


def _cpu_vendor() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text(errors="replace")
    return platform.processor()  # on Windows it ends with the vendor's name


@contextlib.contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """torch's inference mode inside :func:`onednn_matmul`."""
    with torch.inference_mode(), onednn_matmul(device):
        yield


def onednn_matmul(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside, oneDNN multiplies the float32 matrices of layers on ``device``, if :func:`matmul_backend` chose it.

    First gradients work, gradients of gradients do not.
    """
    return _OneDNNMatmul() if device.type == "cpu" and matmul_backend() == "onednn" else contextlib.nullcontext()


class _OneDNNMatmul(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not kwargs and func is F.linear and len(args) in (2, 3) and _onednn_pays(*args):
            return _linear(*args)
        if not kwargs and func is torch.addmm and len(args) == 3:  # transformers' Conv1D
            bias, x, weight = args
            if weight.ndim == x.ndim == 2 and weight.layout == torch.strided and _onednn_pays(x, weight.T, bias):
                return _linear(x, weight.T, bias)
        if func is tile_matmul:
            return _onednn_tile_matmul(*args)
        return func(*args, **(kwargs or {}))


def tile_matmul(x: Tensor) -> TileMatmul:
    """Make the function that multiplies ``x`` [R, k] by one tile of the unembedding after another.

    It takes a tile [n, k] and a buffer ``out`` [R, n], and returns x @ tile.T: torch's result is in ``out``, oneDNN's
    in memory of its own. Making it once lets oneDNN cut ``x`` into chunks once.
    """
    if has_torch_function((x,)):
        result: TileMatmul = handle_torch_function(tile_matmul, (x,), x)
        return result
    return lambda tile, out: torch.mm(x, tile.T, out=out)


def without_mode(function: Callable[..., Any], x: Tensor, *args: Any) -> Any:
    """``function(x, *args)`` outside of :func:`onednn_matmul`, with which each torch function goes through Python.

    That takes as long as a tile of few rows. So :func:`tile_matmul` chooses first, and the tiles are walked without.
    """
    if has_torch_function((x,)):
        return handle_torch_function(without_mode, (x,), function, x, *args)
    return function(x, *args)


def _onednn_tile_matmul(x: Tensor) -> TileMatmul:
    chunks = list(_chunks(x, LOGIT_CHUNK)) if x.dtype == torch.float32 else []

    def multiply(tile: Tensor, out: Tensor) -> Tensor:
        return _matmul_chunks(chunks, tile, None) if _onednn_pays(x, tile) else torch.mm(x, tile.T, out=out)

    return multiply


def _onednn_pays(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN can compute this product, and does so faster than torch."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if not all(type(t) in (Tensor, Parameter) and t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors):
        return False
    if any(t.layout != torch.strided for t in tensors) or torch.is_autocast_enabled("cpu"):
        return False
    if weight.ndim != 2 or x.ndim < 2 or x.shape[-1] != weight.shape[1]:
        return False
    if bias is not None and bias.shape != weight.shape[:1]:
        return False
    rows = MIN_ROWS if weight.shape[1] <= CHUNK else MIN_ROWS_FOR_CHUNKS
    return weight.numel() >= MIN_WEIGHT_SIZE and x.numel() >= rows * weight.shape[1]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: x [..., k], weight [n, k] and bias [n] to [..., n]."""
    if _needs_gradient(x, weight, bias):
        result: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return _matmul(x, weight, bias)


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _matmul_chunks(_chunks(x, CHUNK), weight, bias)


def _chunks(x: Tensor, longest: int) -> Iterator[Tensor]:
    """``x`` [..., k] cut along its last dimension into parts of at most ``longest``; made one by one, because all of
    them together are as large as ``x``."""
    return (chunk.contiguous() for chunk in x.chunk(-(-x.shape[-1] // longest), -1))


def _matmul_chunks(chunks: Iterable[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias, of the ``chunks`` of x.

    The operator ignores a bias's strides. Over a weight with neither contiguous rows nor contiguous columns it goes
    number by number, a thousand times as slow. So both are copied where needed.
    """
    linear = _onednn_linear()
    bias = None if bias is None else bias.contiguous()
    result: Tensor | None = None
    begin = 0
    for x in chunks:
        part = weight[:, begin : begin + x.shape[-1]]
        begin += x.shape[-1]
        part = part if part.T.is_contiguous() else part.contiguous()
        if result is None:
            result = linear.default(x, part, bias, "none", [], "")
        else:
            result = linear.binary(x, result, part, None, "add")
    assert result is not None
    return result


class _Linear(torch.autograd.Function):
    """The product with its gradients, which are products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        ctx.shape = x.shape
        return _matmul(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2).contiguous()
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _matmul(gradient, weight.T).view(ctx.shape) if of_x else None,
            _matmul(gradient.T, x.flatten(0, -2).contiguous().T) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
