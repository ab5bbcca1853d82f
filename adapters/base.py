"""The base of the torch adapters: batching, padding, scoring, devices, dtypes and fingerprints.

A torch author supplies ``hidden(ids)`` with ``unembedding()``, and the logits are never held, or just
``logits(ids)``.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from evalgpt.adapters.evaluating import evaluating
from evalgpt.adapters.kernels.products import inference, matmul_backend, onednn_matmul
from evalgpt.adapters.kernels.tiled import (
    Head,
    Scores,
    divergence_of_logits,
    join,
    scores_from_logits,
    tiled_divergence,
    tiled_scores,
)
from evalgpt.adapters.kernels.tree import LARGEST_TREE, build_prefix_tree
from evalgpt.adapters.shapes import head_of, logits_of, states_of, tree_states
from evalgpt.core import Detail, Diverges, GivesLogits, Model, SharesPrefixes, TokenScores, UsageError, Window

__all__ = ["TorchModel", "fingerprint", "resolve_device", "resolve_dtype", "versions"]


DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


class TorchModel(Model, GivesLogits, SharesPrefixes, Diverges):
    """A causal language model in torch. Subclasses override :meth:`hidden` and :meth:`unembedding`, or :meth:`logits`,
    which has the last word where both are there.

    The model must be on ``torch_device``. The modules that it holds are put into eval mode for the time of each call. A
    batch of windows of different lengths is padded on the right with token 0, which a causal model's earlier positions
    cannot see; where they would all the same, because positions are encoded by the length of the batch, set
    ``equal_lengths``, and windows of one length alone are fed together.
    """

    torch_device: torch.device = torch.device("cpu")

    shares_prefixes: bool = False
    """Whether :meth:`hidden_tree` reads texts that begin alike."""

    uses_onednn_matmul: bool = False
    """Whether oneDNN may multiply float32 matrices on the CPU where that is faster (evalgpt.adapters.kernels.products).
    Losses then differ from torch's own in their last digits, and ``runtime`` names the backend."""

    @cached_property
    def runtime(self) -> dict[str, object]:  # type: ignore[override]
        """The CUDA device's name, or the number of threads; ``matmul_backend`` where the model lets it be chosen."""
        if self.torch_device.type == "cuda":
            return {"name": torch.cuda.get_device_name(self.torch_device)}
        facts: dict[str, object] = {"threads": torch.get_num_threads()}
        if self._chooses_matmul_backend:
            facts["matmul_backend"] = matmul_backend()
        return facts

    @property
    def _chooses_matmul_backend(self) -> bool:
        float32 = self.dtype in ("float32", TorchModel.dtype)
        return self.uses_onednn_matmul and self.torch_device.type == "cpu" and float32

    def matmul_mode(self) -> contextlib.AbstractContextManager[object]:
        """Inside, the backend that ``runtime`` names multiplies the matrices; without one torch does."""
        return onednn_matmul(self.torch_device) if self._chooses_matmul_backend else contextlib.nullcontext()

    def inference_mode(self) -> contextlib.AbstractContextManager[object]:
        """torch's inference mode and :meth:`matmul_mode`."""
        return inference(self.torch_device) if self._chooses_matmul_backend else torch.inference_mode()

    @property
    def plain(self) -> bool:
        """Whether scores come from full logits: where the model says itself how they are made."""
        return type(self).logits is not TorchModel.logits

    def hidden(self, ids: Tensor) -> Tensor:
        """States [B, T, d] for ``ids`` int64 [B, T], ready for the unembedding: the last norm applied."""
        raise NotImplementedError(f"{type(self).__name__} needs hidden() and unembedding(), or logits()")

    def hidden_tree(self, ids: Tensor, depth: Tensor, seen: Tensor) -> Tensor | None:
        """States [N, d] of texts with common prefixes, as the nodes of a tree (evalgpt.adapters.kernels.tree): token
        ``ids[i]`` at position ``depth[i]`` sees the tokens ``seen[i]``, bool [N, N]; None if the model cannot."""
        return None

    def unembedding(self) -> Tensor:
        """The matrix [vocab_size, d] whose product with a state gives the logits."""
        raise NotImplementedError(f"{type(self).__name__} has hidden() and needs unembedding() too, or logits()")

    @property
    def shared_tokens(self) -> int:
        """The nodes of the largest tree; 0 where the model reads none."""
        return LARGEST_TREE if self.shares_prefixes else 0

    def head(self) -> Head:
        """How states become logits, where it takes more than the unembedding: a bias, a scale, a soft cap."""
        return Head(self.unembedding())

    def logits(self, ids: Tensor) -> Tensor:
        """Logits, floats [B, T, vocab_size], for ``ids`` int64 [B, T]; by default made of the states, and not used for
        scoring."""
        states = states_of(self, ids)
        head = head_of(self, states)
        return head.finish(F.linear(states, head.weight), head.bias)

    def score(self, windows: Sequence[Window], detail: Detail | None = None) -> Sequence[TokenScores]:
        if not self.equal_lengths:
            return self._score(windows, detail)
        return _of_equal_lengths(windows, lambda part: self._score(part, detail))

    def _score(self, windows: Sequence[Window], detail: Detail | None) -> Sequence[TokenScores]:
        counts = [len(window.ids) - window.start for window in windows]
        with self.inference_mode(), evaluating(self):
            return _per_window(self._by_tree(windows, detail) or self._by_rows(windows, detail), counts)

    def _by_rows(self, windows: Sequence[Window], detail: Detail | None) -> Scores:
        ids, scored, targets = self._batch(windows)
        if self.plain:
            return scores_from_logits(logits_of(self, ids).flatten(0, 1)[scored], targets, detail)
        return tiled_scores(*self._states(ids, scored), targets, detail)

    def _by_tree(self, windows: Sequence[Window], detail: Detail | None) -> Scores | None:
        """The scores with what the windows begin with alike computed once; None where that does not pay."""
        if self.plain or not self.shares_prefixes or len(windows) < 2:
            return None
        tree = build_prefix_tree([window.ids[:-1] for window in windows])
        if tree is None:
            return None
        states = self.hidden_tree(*(part.to(self.torch_device) for part in (tree.ids, tree.depth, tree.seen)))
        if states is None:  # the batch was drawn for a tree: as rows it would be many times larger
            rows = max(len(tree.ids) // max(len(window.ids) - 1 for window in windows), 1)
            return join([self._by_rows(windows[i : i + rows], detail) for i in range(0, len(windows), rows)])
        nodes = torch.cat([path[w.start - 1 :] for path, w in zip(tree.paths, windows, strict=True)])
        targets = torch.as_tensor([i for window in windows for i in window.ids[window.start :]])
        pairs, back = torch.unique(torch.stack([nodes, targets], 1), dim=0, return_inverse=True)
        nodes, targets, back = (part.to(self.torch_device) for part in (pairs[:, 0], pairs[:, 1], back))
        states = tree_states(states, len(tree.ids))
        return tiled_scores(states[nodes], head_of(self, states), targets, detail).take(back)

    def next_logits(self, ids: Sequence[int], count: int = 1) -> NDArray[np.float32]:
        """As :meth:`evalgpt.core.GivesLogits.next_logits`; the head runs on the ``count`` positions alone.

        Where they are all, the logits are those of :meth:`logits`, the model's own.
        """
        batch = torch.as_tensor(list(ids), dtype=torch.int64, device=self.torch_device)[None]
        with self.inference_mode(), evaluating(self):
            if self.plain or count == len(ids):
                logits = logits_of(self, batch)[0, -count:]
            else:
                states = states_of(self, batch)
                head = head_of(self, states)
                logits = head.finish(F.linear(states[0, -count:], head.weight), head.bias)
            return logits.float().cpu().numpy()

    def _batch(self, windows: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
        """Padded ids [B, T], the flat positions whose outputs predict the targets, and the targets [R]."""
        width = max(len(window.ids) for window in windows) - 1
        ids = torch.zeros((len(windows), width), dtype=torch.int64)
        for row, window in zip(ids, windows, strict=True):
            row[: len(window.ids) - 1] = torch.as_tensor(window.ids[:-1])
        scored = [torch.arange(w.start - 1, len(w.ids) - 1) + k * width for k, w in enumerate(windows)]
        targets = torch.as_tensor([i for window in windows for i in window.ids[window.start :]])
        device = self.torch_device
        return ids.to(device), torch.cat(scored).to(device), targets.to(device)

    def divergence(
        self, other: TorchModel, windows: Sequence[Window]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """KL(self || other) in nats per scored token of each window, and whether the likeliest tokens agree.

        Both models must have one vocabulary and be on one device.
        """
        if self.equal_lengths or other.equal_lengths:
            return list(_of_equal_lengths(windows, lambda part: self._divergence(other, part)))
        return self._divergence(other, windows)

    def _divergence(
        self, other: TorchModel, windows: Sequence[Window]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        ids, scored, _ = self._batch(windows)
        mode = (
            self if other._chooses_matmul_backend else other
        ).inference_mode()  # oneDNN where both models ask for it
        with mode, evaluating(self), evaluating(other):
            if self.plain or other.plain:
                kl, same = divergence_of_logits(*(logits_of(m, ids).flatten(0, 1)[scored] for m in (self, other)))
            else:
                p, q = self._states(ids, scored), other._states(ids, scored)
                kl, same = tiled_divergence((p[0], q[0]), (p[1], q[1]))
        counts = [len(window.ids) - window.start for window in windows]
        kl_parts, same_parts = torch.split(kl.double().cpu(), counts), torch.split(same.cpu(), counts)
        return [(a.numpy(), b.numpy()) for a, b in zip(kl_parts, same_parts, strict=True)]

    def _states(self, ids: Tensor, scored: Tensor) -> tuple[Tensor, Head]:
        """States [R, d] at the flat positions ``scored``, and the head that makes logits of them."""
        states = states_of(self, ids).flatten(0, 1)
        return (states[scored] if len(scored) < len(states) else states), head_of(self, states)


Answer = TypeVar("Answer")


def _of_equal_lengths(
    windows: Sequence[Window], answer: Callable[[Sequence[Window]], Sequence[Answer]]
) -> Sequence[Answer]:
    """What ``answer`` gives for each window, asked for those of one length at a time."""
    found: dict[int, Answer] = {}
    for length in sorted({len(window.ids) for window in windows}):
        numbers = [i for i, window in enumerate(windows) if len(window.ids) == length]
        found |= dict(zip(numbers, answer([windows[i] for i in numbers]), strict=True))
    return [found[i] for i in range(len(windows))]


def _per_window(scores: Scores, counts: list[int]) -> list[TokenScores]:
    def split(tensor: Tensor | None, dtype: torch.dtype) -> list[Tensor | None]:
        if tensor is None:
            return [None] * len(counts)
        return list(torch.split(tensor.to(device="cpu", dtype=dtype), counts))

    columns = zip(
        torch.split(scores.nll.to(device="cpu", dtype=torch.float32), counts),
        split(scores.rank, torch.int64),
        split(scores.entropy, torch.float32),
        split(scores.top_ids, torch.int64),
        split(scores.top_logprobs, torch.float32),
        strict=True,
    )
    return [
        TokenScores(nll.numpy(), *(None if part is None else part.numpy() for part in rest)) for nll, *rest in columns
    ]


def versions(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """What changes when a weight is written to or replaced, cheaper to take than a fingerprint."""
    return [(tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors]


def resolve_device(name: str) -> torch.device:
    """The device called ``name``: auto, cpu, cuda, cuda:N or mps. ``auto`` is CUDA, else MPS, else the CPU.

    Raises:
        UsageError: no such device is here.
    """
    if name == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    kind, _, index = name.partition(":")
    if name == "cpu" or (name == "mps" and torch.backends.mps.is_available()):
        return torch.device(name)
    if kind == "cuda" and (index.isdecimal() or not _) and int(index or 0) < torch.cuda.device_count():
        return torch.device(name)
    if kind not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {name!r}; accepted: auto, cpu, cuda, cuda:N, mps")
    raise UsageError(f"device {name!r} is not on this machine; it has {', '.join(_devices())}")


def _devices() -> list[str]:
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def resolve_dtype(name: str) -> torch.dtype:
    """The dtype called ``name``.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}; accepted: {', '.join(DTYPES)}")
    return DTYPES[name]


def fingerprint(tensors: Iterable[tuple[str, Tensor]], extra: str = "") -> str:
    """SHA-256 over names, shapes, dtypes and values of ``tensors``, and over ``extra``, what they do not show."""
    digest = hashlib.sha256(extra.encode())
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
