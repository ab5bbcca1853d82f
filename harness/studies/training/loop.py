"""The training loop: windows in a random order, updates, evaluations by the harness itself, checkpoints, a log."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol as Interface

import msgspec
import numpy as np

from evalgpt.core import Detail, EvaluationError, Model, Task, UsageError, Window
from evalgpt.core.answers import ask, decode, encode
from evalgpt.core.capabilities import Optimisation, Trainable, Trained, Trainer
from evalgpt.core.guard import calling, described
from evalgpt.core.protocol import Protocol
from evalgpt.core.validation import documents_of
from evalgpt.report.describe import make_report, model_info, task_info
from evalgpt.report.document import Evaluation, ProtocolInfo
from evalgpt.report.files import replacing
from evalgpt.scoring.batching import BatchSize, Scorer
from evalgpt.scoring.evaluate import evaluate
from evalgpt.studies.training.data import Data, learning_rate, read_data, updates_in
from evalgpt.studies.training.log import (
    BEST,
    LAST,
    LOG,
    Best,
    Evaluated,
    Sampled,
    Settings,
    State,
    Training,
    Updates,
    read_training,
    write_training,
)
from evalgpt.studies.training.memorised import memorised

__all__ = ["Watch", "begin", "continuation", "resume", "train"]


STATE_KEY = "evalgpt.state"
"""Where a checkpoint keeps the run's State, as JSON in the safetensors metadata."""


class Watch(Interface):
    """Who looks on while a model is trained."""

    def updated(self, log: Training) -> None:
        """Called after each update."""

    def evaluated(self, log: Training) -> None:
        """Called after each evaluation, the last of the log."""

    def sampled(self, log: Training) -> None:
        """Called after each generated text, the last of the log."""

    def stopping(self) -> bool:
        """Whether to stop before the next update, with a checkpoint."""


def continuation(model: Model, text: str, tokens: int) -> str:
    """``text`` with the ``tokens`` that the model finds likeliest, one after the other."""
    ids = list(encode(model, text, "the sample").ids)
    for _ in range(tokens):
        fed = ids[-model.context_length :]
        (score,) = ask(model, [Window([*fed, 0], len(fed))], Detail(top=1), lambda _: "the sample")
        assert score.top_ids is not None
        ids.append(int(score.top_ids[0, 0]))
    return decode(model, ids)


def begin(model: Model, task: Task, protocol: Protocol, settings: Settings, command: Sequence[str]) -> Training:
    """The log of a run that has not begun: what is trained, on what, how.

    Raises:
        EvaluationError: the text is too short, or the sample is outside the vocabulary.
    """
    data = read_data(model, task, protocol, settings.batch)
    if settings.sample is not None and not encode(model, settings.sample, "the sample").ids:
        raise EvaluationError(f"the sample {settings.sample!r} has no token to go on from")
    return Training(
        run=make_report([], command).run,
        settings=settings,
        model=model_info(model),
        task=task_info(task, list(documents_of(task))),
        protocol=ProtocolInfo(name=protocol.name, source=protocol.source, settings=protocol.settings()),
        windows={"train": len(data.train), "validation": len(data.validation)},
        total_updates=updates_in(settings, data)[1],
        updates=Updates(),
    )


def resume(folder: Path, model: Model, task: Task) -> Training:
    """The log of the run in ``folder``, held against the model and the text that it is to go on with.

    Raises:
        UsageError: there is no run. EvaluationError: the weights it began with, or its text, are others now.
    """
    log = read_training(folder)
    found = task_info(task, list(documents_of(task)))
    for what, then, now in (
        ("the text has changed", log.task.sha256, found.sha256),
        ("the model it began with has changed", log.model.fingerprint, model.fingerprint),
    ):
        if then != now:
            raise EvaluationError(f"{folder} cannot go on: {what} since (its hash was {then[:19]}, is {now[:19]})")
    return log


def train(model: Model, task: Task, protocol: Protocol, log: Training, folder: Path, watch: Watch) -> None:
    """Train ``model`` as ``log`` says, from where ``folder`` stands, to the end.

    Raises:
        EvaluationError: stopped, diverged, or a file cannot be written; the last checkpoint is kept and named.
        UsageError: the model cannot be trained.
    """
    how = Optimisation(log.settings.weight_decay, log.settings.clip, log.settings.seed)
    data = read_data(model, task, protocol, log.settings.batch)
    run = _Run(model, _trainer(model, how), log, folder, watch, lambda: evaluate(model, task, protocol))
    if (folder / LAST).is_file():
        run.restore()
    run.go(data)


def _trainer(model: Model, how: Optimisation) -> Trainer:
    if not isinstance(model, Trainable):
        raise UsageError(f"model {model.name} cannot be trained: it has no trainer()")
    with calling(model, "trainer()"):
        trainer = model.trainer(how)
    if not isinstance(trainer, Trainer):
        raise EvaluationError(
            f"model {model.name}: trainer() returned {described(trainer)}, not an evalgpt.core.Trainer"
        )
    return trainer


class _Run:
    """A run as it goes: the model and its trainer, the log, and where it stands."""

    def __init__(
        self,
        model: Model,
        trainer: Trainer,
        log: Training,
        folder: Path,
        watch: Watch,
        measure: Callable[[], Evaluation],
    ) -> None:
        self.model, self.trainer, self.log, self.folder, self.watch = model, trainer, log, folder, watch
        self.measure = measure
        self.settings = log.settings
        self.state = State()
        self.saved: int | None = None
        self.measured: tuple[int, Evaluation] | None = None

    def restore(self) -> None:
        """Go back to the last checkpoint, and the log with it.

        Raises:
            EvaluationError: it is not this run's.
        """
        path = self.folder / LAST
        with calling(self.model, "its trainer's restore()"):
            facts = self.trainer.restore(str(path))
        try:
            self.state = msgspec.json.decode(facts.get(STATE_KEY, ""), type=State)
            if self.state.updates > len(self.log.updates.loss):
                raise ValueError(f"it has {self.state.updates} updates, the log {len(self.log.updates.loss)}")
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise EvaluationError(f"{path} does not belong to {self.folder / LOG}: {error}") from None
        self.saved = self.state.updates
        self.log.cut(self.state.updates)
        self.log.best = self.state.best

    def go(self, data: Data) -> None:
        """Train to the end."""
        spent = self.log.updates.seconds[-1] if self.log.updates.seconds else 0.0
        self.began = time.perf_counter() - spent
        if self.state.updates == 0:
            self.log.cut(0)
            self.log.evaluations, self.log.best = [], None
            self._write_log()
            self._evaluate()
        while self.state.updates < self.log.total_updates:
            if self.watch.stopping():
                self._save()
                raise EvaluationError(
                    f"stopped after {self.state.updates} of {self.log.total_updates} updates; go on with "
                    f"evalgpt train --resume {self.folder}"
                )
            self._update(data)
            self._after_update(data)
        if self.log.memorised is None:
            self.log.memorised = memorised(self.model, self._evaluation(), self.state.updates, self.settings.memorised)
        self._write_log()

    def _update(self, data: Data) -> None:
        state, settings, updates = self.state, self.settings, self.log.updates
        if self._epoch_is_over(data):
            state.order, state.position = self._order(len(data.train)), 0
            state.epoch += 1
        rate = learning_rate(settings, state.updates, self.log.total_updates)
        taken = state.order[state.position :][: settings.batch * settings.accumulate]
        ids = [data.train[i].ids for i in taken]
        full = len(ids) // settings.batch * settings.batch  # drop_last
        batches = [ids[k : k + settings.batch] for k in range(0, full, settings.batch)]
        with calling(self.model, "its trainer's step()", f"update {state.updates + 1}"):
            done = Trained(*self.trainer.step(batches, rate))
        if not (math.isfinite(done.loss) and math.isfinite(done.gradient_norm)):
            what = "loss" if not math.isfinite(done.loss) else "gradient"
            raise EvaluationError(
                f"training diverged at update {state.updates + 1} (its {what} is not finite); {self._kept()}; give a "
                f"smaller --learning-rate, or --clip 1"
            )
        state.position += len(batches) * settings.batch
        state.updates += 1
        state.tokens_seen += sum(len(row) - 1 for batch in batches for row in batch)
        updates.loss.append(done.loss)
        updates.gradient_norm.append(done.gradient_norm)
        updates.learning_rate.append(rate)
        updates.epoch.append(state.epoch)
        updates.seconds.append(time.perf_counter() - self.began)
        self.watch.updated(self.log)

    def _epoch_is_over(self, data: Data) -> bool:
        return self.state.epoch == 0 or self.state.position + self.settings.batch > len(data.train)

    def _after_update(self, data: Data) -> None:
        """Evaluate, generate and save where it is time for it.

        The course evaluates after the first update, and then after every so many.
        """
        state, settings, over = self.state, self.settings, self._epoch_is_over(data)
        by_course = (state.updates - 1) % settings.eval_every == 0
        end = state.updates == self.log.total_updates
        save = end or (over if settings.save_every is None else state.updates % settings.save_every == 0)
        if by_course or save:
            self._evaluate(data if by_course else None)
        if over and settings.sample is not None:
            text = continuation(self.model, settings.sample, settings.sample_tokens)
            self.log.samples.append(Sampled(updates=state.updates, epoch=state.epoch, text=text))
            self.watch.sampled(self.log)
        if save:
            self._save()

    def _evaluate(self, data: Data | None = None) -> None:
        """Let the harness measure the weights as they are; with ``data``, draw as the course's evaluation does, so that
        what is drawn after it is the same."""
        course = (None, None) if data is None else self._course_losses(data)
        evaluation = self._evaluation()
        train, validation = (evaluation.splits[split] for split in ("train", "validation"))
        found = Evaluated(
            updates=self.state.updates,
            epoch=self.state.epoch,
            tokens_seen=self.state.tokens_seen,
            train_loss=train.loss,
            validation_loss=validation.loss,
            train_bits_per_byte=train.bits_per_byte,
            validation_bits_per_byte=validation.bits_per_byte,
            course_train_loss=course[0],
            course_validation_loss=course[1],
            fingerprint=evaluation.model.fingerprint,
            seconds=time.perf_counter() - self.began,
        )
        self.log.evaluations.append(found)
        best = self.state.best
        if best is None or found.validation_loss < best.validation_loss:
            self.state.best = self.log.best = Best(updates=found.updates, validation_loss=found.validation_loss)
            facts = {"evalgpt.updates": str(found.updates), "evalgpt.validation_loss": repr(found.validation_loss)}
            self._write(BEST, facts, resumable=False)
        self._write_log()
        self.watch.evaluated(self.log)

    def _evaluation(self) -> Evaluation:
        """The evaluation of the weights as they are, not made twice."""
        if self.measured is None or self.measured[0] != self.state.updates:
            try:
                self.measured = self.state.updates, self.measure()
            except EvaluationError as error:
                raise EvaluationError(f"after {self.state.updates} updates: {error}; {self._kept()}") from None
        return self.measured[1]

    def _course_losses(self, data: Data) -> tuple[float | None, float | None]:
        """The course's evaluate_model: means of batch means over the first ``eval_iter`` batches of a shuffled pass
        over the training windows, and of a plain one over the others."""
        size, count = self.settings.batch, self.settings.eval_iter
        shuffled = self._order(len(data.train))[: len(data.train) // size * size]
        plain = self._order(len(data.validation), shuffle=False)
        if count is None:
            return None, None
        scorer = Scorer(self.model, BatchSize.of(self.model, None))
        found = []
        for windows, order in ((data.train, shuffled), (data.validation, plain)):
            batches = [[windows[i] for i in order[k : k + size]] for k in range(0, len(order), size)][:count]
            losses = [np.concatenate([scores.nll for scores in scorer.score(batch)]) for batch in batches]
            means = [nll.mean(dtype=np.float64) for nll in losses]
            found.append(float(np.mean(means)))
        return found[0], found[1]

    def _save(self) -> None:
        if self.saved != self.state.updates:
            self._write_log()
            self._write(LAST, {STATE_KEY: msgspec.json.encode(self.state).decode()}, resumable=True)
            self.saved = self.state.updates

    def _write(self, name: str, facts: dict[str, str], *, resumable: bool) -> None:
        path = self.folder / name
        try:
            with replacing(path) as temporary:
                self.trainer.save(temporary, facts, resumable=resumable)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise EvaluationError(f"cannot write {path}: {why}; {self._kept()}") from None

    def _order(self, count: int, *, shuffle: bool = True) -> list[int]:
        with calling(self.model, "its trainer's order()"):
            order = [int(i) for i in self.trainer.order(count, shuffle=shuffle)]
        if sorted(order) != list(range(count)):
            raise EvaluationError(
                f"model {self.model.name}: its trainer's order() is not 0 to {count - 1} in some order"
            )
        return order

    def _write_log(self) -> None:
        try:
            write_training(self.log, self.folder)
        except EvaluationError as error:
            raise EvaluationError(f"{error}; {self._kept()}") from None

    def _kept(self) -> str:
        """Which checkpoint there is to go back to."""
        if self.saved is not None:
            return f"{self.folder / LAST} has the weights after {self.saved} updates"
        best = self.log.best
        if best is not None and (self.folder / BEST).is_file():
            return f"{self.folder / BEST} has the weights after {best.updates} updates"
        return "there is no checkpoint yet"
