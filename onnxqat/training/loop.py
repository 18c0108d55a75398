"""The training loop: its state, one step, and what happens between steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from onnxqat.bridge import OnnxModule
from onnxqat.training.batches import TensorBatch
from onnxqat.training.checkpoint import Snapshot
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.losses import Loss
from onnxqat.training.optimizer import clip, set_rates
from onnxqat.training.parameters import Coordinates
from onnxqat.training.record import OnProgress, StepRecord, Stopped, Validation
from onnxqat.training.run import run_module
from onnxqat.training.schedule import rate_factor
from onnxqat.training.targets import Targets

VALIDATIONS = 10
"""In a run whose `validate_every` is open."""
SETBACK = 4.0
"""Times the best validation loss so far: a validation above it means that the steps are too long
for this model. The half cosine makes good what is less."""
SHORTENING = 0.3
"""Factor on all rates after a setback."""
FETCH_EVERY = {"cpu": 1, "cuda": 10}
"""Steps between looks at the losses: on a GPU each look makes the CPU wait for it."""


@dataclass(eq=False)
class Loop:
    """One run. `best` is always whole, so that an interruption anywhere can hand it out."""

    student: OnnxModule
    teacher: OnnxModule
    config: FinetuneConfig
    steps: int
    targets: Targets
    coordinates: Coordinates
    optimizer: Optimizer
    lr: float
    """Of the weights, before warm-up and decay."""
    loss: Loss
    validate: Callable[[], Validation]
    on_progress: OnProgress | None
    device: torch.device
    best: Snapshot = field(init=False)
    history: list[StepRecord] = field(default_factory=list)
    _unread: list[Tensor] = field(default_factory=list)
    _shortened: float = 1.0
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.best = Snapshot.take(self.targets.changing, step=0, loss=math.inf)

    def go(self, batches: Iterator[TensorBatch]) -> Stopped:
        """Take all steps, and leave the student with the best parameters however it ends."""
        try:
            return self._go(batches)
        except KeyboardInterrupt:
            return "interrupted"
        finally:
            self.best.restore(self.targets.changing)

    def _go(self, batches: Iterator[TensorBatch]) -> Stopped:
        self._record(0, None, self._judge(0))
        every = self.config.validate_every or max(1, round(self.steps / VALIDATIONS))
        fetch_every = FETCH_EVERY[self.device.type]
        for step in range(1, self.steps + 1):
            set_rates(self.optimizer, self._factor(step))
            self._unread.append(self._step(batches))
            is_due = step % every == 0 or step == self.steps
            is_read = is_due or len(self._unread) >= fetch_every
            if is_read and not self._read(step, is_due=is_due):
                return "non-finite"
        return "finished"

    def _step(self, batches: Iterator[TensorBatch]) -> Tensor:
        """One update from as many batches as fill the batch size; the mean loss, not waited for."""
        first = next(batches)
        parts = max(1, round(self.config.batch_size / first.samples))
        loss = self._backward(first, parts)
        for _ in range(parts - 1):
            loss = loss + self._backward(next(batches), parts)
        self.coordinates.take_gradients()
        clip(self.coordinates, self.config.clip_grad)
        self.optimizer.step()
        self.coordinates.write()
        self.targets.follow()
        return loss

    def _backward(self, batch: TensorBatch, parts: int) -> Tensor:
        with torch.no_grad():
            wanted = run_module(self.teacher, batch.inputs)
        loss = self.loss(run_module(self.student, batch.inputs), wanted, batch.labels) / parts
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.detach()

    def _read(self, last: int, *, is_due: bool) -> bool:
        """Record the steps up to `last` that are not recorded; False if a loss is no number."""
        losses = torch.stack(self._unread).tolist()
        self._unread.clear()
        for step, loss in enumerate(losses, start=last - len(losses) + 1):
            is_finite = math.isfinite(loss)
            judged = self._judge(step) if is_due and is_finite and step == last else None
            self._record(step, loss, judged)
            if not is_finite:
                return False
        return True

    def _judge(self, step: int) -> tuple[Validation, bool]:
        """Validate, and keep the parameters if they are the best so far."""
        validation = self.validate()
        is_best = validation.loss < self.best.loss
        if is_best:
            self.best = Snapshot.take(self.targets.changing, step=step, loss=validation.loss)
        elif not validation.loss <= SETBACK * self.best.loss:
            self._step_back()
        return validation, is_best

    def _step_back(self) -> None:
        """Go on from the best parameters so far, in shorter steps: no one rate fits every model."""
        self.best.restore(self.targets.changing)
        self.coordinates.read()
        self.optimizer.state.clear()
        self._shortened *= SHORTENING

    def _record(
        self, step: int, loss: float | None, judged: tuple[Validation, bool] | None
    ) -> None:
        validation, is_best = judged if judged is not None else (None, False)
        record = StepRecord(
            step=step,
            steps=self.steps,
            loss=loss,
            lr=self.lr * self._factor(step),
            seconds=time.perf_counter() - self._began,
            validation=validation,
            is_best=is_best,
        )
        self.history.append(record)
        if self.on_progress is not None:
            self.on_progress(record)

    def _factor(self, step: int) -> float:
        factor = rate_factor(step, steps=self.steps, warmup=self.config.warmup)
        return factor * self._shortened
