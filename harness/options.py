"""What ``evalgpt run`` and ``evalgpt compare`` have in common: the options, and what follows from them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import click

from evalgpt.cache import ScoreCache
from evalgpt.core import Model, Task
from evalgpt.plugins import Plugins
from evalgpt.progress import waiting
from evalgpt.protocols import Protocol
from evalgpt.specs import visible
from evalgpt.targets import Kind, Targets

__all__ = ["ModelOptions"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which models to run on which tasks, and how."""

    models: Sequence[str] = ()
    tasks: Sequence[str] = ()
    protocol: str | None = None
    context: int | None = None
    stride: int | None = None
    device: str | None = None
    dtype: str | None = None
    batch_tokens: int | None = None
    output: str | None = None
    cache: bool = True
    targets: Targets = field(default_factory=Targets)
    quiet: bool = False

    def check(self, plugins: Plugins) -> None:
        """Raise UsageError for a spec whose name, key or value cannot be."""
        for spec in self.models:
            plugins.check("model", spec, {"device": self.device, "dtype": self.dtype})
        for spec in self.tasks:
            plugins.check("task", spec)

    def check_target(self, path: str, kind: Kind) -> None:
        """Raise UsageError where ``path`` cannot be written, or holds what must not be replaced."""
        self.reads().check(path, kind)

    def reads(self) -> Targets:
        """What the command may write, given what it reads."""
        specs = [*self.models, *self.tasks, *([self.protocol] if self.protocol is not None else [])]
        return self.targets.reading(specs=specs)

    @contextmanager
    def open_cache(self) -> Iterator[ScoreCache | None]:
        """Where scores are kept, None with ``--no-cache``; trouble with it is told at the end, and costs no run."""
        if not self.cache:
            yield None
            return
        with ScoreCache() as cache:
            yield cache
        if cache.problem is not None:
            click.echo(f"evalgpt: warning: {visible(cache.problem)}", err=True)

    def build_model(self, plugins: Plugins, spec: str) -> Model:
        """The model of ``spec`` on the device and in the dtype asked for."""
        with waiting(f"building {spec}", self.quiet):
            return plugins.model(spec, device=self.device, dtype=self.dtype)

    def build_task(self, plugins: Plugins, spec: str) -> tuple[Task, Protocol]:
        """The task of ``spec`` with the protocol asked for, else its own, not yet bound to a model."""
        task = plugins.task(spec)
        chosen = self.protocol or task.default_protocol
        return task, plugins.protocol(chosen, context=self.context, stride=self.stride)
