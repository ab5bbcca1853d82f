"""Gradient descent with back-propagation on a torch model, and checkpoints from which it goes on to the same bits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import RandomSampler

from evalgpt.adapters.base import TorchModel
from evalgpt.adapters.checkpoint import CONFIG_KEY, STATE_PREFIX, at_least_float32, check_state
from evalgpt.core import EvaluationError, Optimisation, Trained, Trainer, UsageError

__all__ = ["TorchTrainer"]


DEFAULT_SEED = 123
"""Of shuffling and dropout where none is given and the weights were loaded; the course's."""

MOMENTS = ("exp_avg", "exp_avg_sq")


def _sort_metadata(path: str) -> None:
    """Put the metadata in order, so that equal runs give equal bytes: safetensors writes them in a random one.

    The header (eight bytes of its length, little-endian, then JSON padded with spaces) keeps its length.
    """
    with Path(path).open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(data) <= length:  # else JSON is spelled in another way than here, and the file is right as it is
            file.seek(8)
            file.write(data.ljust(length))


class TorchTrainer(Trainer):
    """Trains ``module``, whose logits ``model`` gives, by torch's AdamW on the mean cross entropy of full logits.

    ``config`` goes into the checkpoints, so that the model can be built from them. ``drawn`` is the generator's state
    after the weights were drawn, from which shuffling and dropout go on where no seed is given. The caller's generator
    is left alone.

    Raises:
        UsageError: the weights cannot be trained: float16, whose gradients vanish, or not floating-point.
    """

    def __init__(
        self,
        model: TorchModel,
        module: nn.Module,
        how: Optimisation,
        config: Mapping[str, object],
        drawn: Tensor | None = None,
    ) -> None:
        self.model, self.module, self.how, self.config = model, module, how, config
        for name, parameter in module.named_parameters():
            if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float64):
                kind = str(parameter.dtype).removeprefix("torch.")
                raise UsageError(
                    f"model {model.name} cannot be trained in {kind} ({name}); accepted: float32, bfloat16, float64"
                )
            # Where memory begins can change the last bit of a product: here it is where torch puts it, in every run.
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(module.parameters(), weight_decay=how.weight_decay)
        self._state: dict[str, Tensor] = {}
        with self._random(None):
            if how.seed is None and drawn is not None:
                torch.set_rng_state(drawn)
            else:
                torch.manual_seed(DEFAULT_SEED if how.seed is None else how.seed)

    def order(self, count: int, *, shuffle: bool = True) -> list[int]:
        """As torch's DataLoader orders, by the same draws: a seed for its workers, then the sampler's."""
        with self._random(self._state):
            torch.empty((), dtype=torch.int64).random_()
            return list(RandomSampler(range(count))) if shuffle else list(range(count))

    def step(self, batches: Sequence[Sequence[Sequence[int]]], learning_rate: float) -> Trained:
        self.optimizer.zero_grad()
        loss = self._gradients(batches)
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))
        if not (torch.tensor([loss, norm]).isfinite().all()):
            return Trained(loss, norm)
        if self.how.clip is not None and norm > self.how.clip:
            for gradient in gradients:
                gradient.mul_(self.how.clip / norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.model.trained = True
        return Trained(loss, norm)

    def _gradients(self, batches: Sequence[Sequence[Sequence[int]]]) -> float:
        """Sum the gradients of the mean loss of ``batches``; that loss."""
        total = 0.0
        with self._random(self._state), self.model.matmul_mode():
            self.module.train()
            try:
                for batch in batches:
                    ids = torch.tensor(batch, device=self.model.torch_device)
                    logits = at_least_float32(self.model.logits(ids[:, :-1]))
                    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()) / len(batches)
                    loss.backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
            finally:
                self.module.eval()
        return total

    def save(self, path: str, facts: Mapping[str, str], *, resumable: bool) -> None:
        tensors: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, tensor in self.module.state_dict().items():
            shared = tensor.data_ptr() in seen  # safetensors refuses two names for one memory
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.clone() if shared else tensor
        if resumable:
            tensors |= {f"{STATE_PREFIX}random.{kind}": state for kind, state in self._state.items()}
            for name, parameter in self.module.named_parameters():
                for key in ("step", *MOMENTS) if parameter in self.optimizer.state else ():
                    tensors[f"{STATE_PREFIX}{key}.{name}"] = self.optimizer.state[parameter][key]
        metadata = {**facts, "format": "pt", CONFIG_KEY: json.dumps(dict(self.config))}
        try:
            safetensors.torch.save_file(tensors, path, metadata)
            _sort_metadata(path)
        except safetensors.SafetensorError as error:
            raise OSError(0, str(error)) from error

    def restore(self, path: str) -> Mapping[str, str]:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts: dict[str, str] = file.metadata() or {}
        except (safetensors.SafetensorError, OSError) as error:
            raise EvaluationError(f"{path} is not a readable safetensors file: {error}") from error
        lacking = [kind for kind in self._state if f"{STATE_PREFIX}random.{kind}" not in tensors]
        if lacking:
            raise EvaluationError(
                f"{path} holds no training run to go on with: it lacks the random state of {lacking[0]}"
            )
        state = {name: tensor for name, tensor in tensors.items() if not name.startswith(STATE_PREFIX)}
        own = self.module.state_dict()
        check_state(path, state, {name: tuple(tensor.shape) for name, tensor in own.items()}, hint=lambda _: {})
        with torch.no_grad():
            for name, tensor in state.items():
                own[name].copy_(tensor)
        self._restore_moments(tensors)
        self._state = {kind: tensors[f"{STATE_PREFIX}random.{kind}"] for kind in self._state}
        return facts

    def _restore_moments(self, tensors: Mapping[str, Tensor]) -> None:
        self.optimizer.state.clear()
        for name, parameter in self.module.named_parameters():
            if f"{STATE_PREFIX}step.{name}" not in tensors:
                continue
            kept: dict[str, Tensor] = {"step": tensors[f"{STATE_PREFIX}step.{name}"].clone()}
            for key in MOMENTS:
                kept[key] = torch.empty_like(parameter.data).copy_(tensors[f"{STATE_PREFIX}{key}.{name}"])
            self.optimizer.state[parameter] = kept
            self.model.trained = True

    @contextmanager
    def _random(self, state: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Draw from the generators in ``state`` inside, which are kept as they are at the end."""
        device = self.model.torch_device
        cuda = device.type == "cuda"
        with torch.random.fork_rng(devices=[device] if cuda else []):
            if state is not None:
                torch.set_rng_state(state["cpu"])
                if cuda:
                    torch.cuda.set_rng_state(state["cuda"], device)
            yield
            self._state = {"cpu": torch.get_rng_state()}
            if cuda:
                self._state["cuda"] = torch.cuda.get_rng_state(device)
