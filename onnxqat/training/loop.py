"""The training loop: its state, one step, and what happens between steps."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from onnxqat.bridge import OnnxModule
from onnxqat.training.average import Average
from onnxqat.training.batches import BEGINNING, Position, StepData, TensorBatch
from onnxqat.training.checkpoint import Checkpoint
from onnxqat.training.compiled import Compiled
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.distributed import Processes
from onnxqat.training.interrupt import Interrupt, heeded
from onnxqat.training.losses import Loss
from onnxqat.training.optimizer import clip, set_rates
from onnxqat.training.origin import origin_of_gradient, origin_of_loss
from onnxqat.training.oscillation import Damping, Freezing
from onnxqat.training.parameters import Coordinates
from onnxqat.training.record import OnProgress, StepRecord, Stopped, Validation
from onnxqat.training.resume import capture
from onnxqat.training.run import run_module
from onnxqat.training.snapshot import Snapshot
from onnxqat.training.targets import Targets
from onnxqat.training.validation import Judged
from onnxqat.training.views import View

VALIDATIONS = 10
"""In a run whose `validate_every` is open."""
SETBACK = 4.0
"""Times the best validation loss so far: a validation above it means that the steps are too long
for this model. The half cosine makes good what is less."""
SHORTENING = 0.3
"""Factor on all rates after a setback."""
ALONE = Processes()
FETCH_EVERY = {"cpu": 1, "cuda": 10}
"""Steps between looks at the losses: on a GPU each look makes the CPU wait for it."""


@dataclass(eq=False)
class Loop:
    """One run. `best` is always whole, so that an interruption anywhere can hand it out."""

    student: OnnxModule
    teacher: OnnxModule
    view: View
    """The two as the steps run them."""
    runs: OnnxModule | Compiled
    """The view's student, compiled if that is wanted."""
    config: FinetuneConfig
    steps: int
    targets: Targets
    coordinates: Coordinates
    optimizer: Optimizer
    lr: float
    """Of the weights, before warm-up and decay."""
    loss: Loss
    judge: Callable[[], Judged]
    on_progress: OnProgress | None
    device: torch.device
    schedule: Callable[[int], float]
    """Step -> the factor on every rate."""
    damping: Damping | None = None
    """Of weights that swing between codes."""
    freezing: Freezing | None = None
    """Of weights that swing between codes too often."""
    checkpoint: Checkpoint | None = None
    """Where to keep the run, and when."""
    processes: Processes = ALONE
    """Those that share the steps; all hold the same parameters."""
    best: Snapshot = field(init=False)
    start: Judged | None = None
    """What was trained, as it came."""
    average: Average | None = field(init=False, default=None)
    """Of the parameters, where that is what is validated."""
    history: list[StepRecord] = field(default_factory=list)
    origin: str | None = None
    """Where a number was first not finite."""
    step: int = 0
    """Steps taken."""
    position: Position = BEGINNING
    """Where the next step's data begins."""
    shortened: float = 1.0
    """Factor on all rates, after setbacks."""
    seconds_before: float = 0.0
    """That the run took before it was resumed."""
    interrupt: Interrupt = field(default_factory=Interrupt)
    """The user's wish to stop."""
    _stop_asked: Tensor | None = None
    """In how many processes the user had wished to stop before the step; None: there is but one."""
    _unread: list[tuple[Tensor, StepData]] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.best = Snapshot.take(self.targets.changing, step=0, loss=math.inf)
        if self.config.average is not None:
            self.average = Average(self.targets, self.config.average)

    @property
    def seconds(self) -> float:
        """Since the run began, without the time between a kill and its resumption."""
        return self.seconds_before + time.perf_counter() - self._began

    def go(self, data: Iterator[StepData]) -> Stopped:
        """Take all steps, and leave the student with the best parameters however it ends."""
        try:
            with heeded() as self.interrupt:
                stopped = self._go(data)
                self._keep(at_end=True)
            return stopped
        except KeyboardInterrupt:
            return "interrupted"
        except _NotFiniteError as error:
            self.origin = str(error)
            return "non-finite"
        finally:
            self.best.restore(self.targets.changing)

    def _go(self, data: Iterator[StepData]) -> Stopped:
        if self.step == 0:
            self._record(0, None, self._judge(0))
        every = self.config.validate_every or max(1, round(self.steps / VALIDATIONS))
        while self.step < self.steps:
            if self._is_stuck():
                return "early"
            step = self.step + 1
            only_scales = step <= round(self.config.scales_first * self.steps)
            set_rates(self.optimizer, self._factor(step), only_scales=only_scales)
            self._take(step, next(data))
            self.step = step
            is_due = step % every == 0 or step == self.steps
            if is_due or self._must_read(step):
                self._read(is_due=is_due)
                self._keep()
            if self._is_interrupted():
                return "interrupted"
        return "finished"

    def _take(self, step: int, data: StepData) -> None:
        """One update from all parts of the step's data; its loss is not waited for."""
        losses = [self._backward(part, part.samples / data.samples) for part in data.parts]
        loss = sum(losses[1:], start=losses[0])
        self.coordinates.take_gradients()
        self._add_up(loss)
        self._unread.append((loss, data))
        norm = clip(self.coordinates, self.config.clip_grad)
        if self.device.type == "cpu":  # elsewhere a look would wait for the device
            self._require_finite(loss, norm)
        self.optimizer.step()
        self.coordinates.write()
        if self.damping is not None:
            self.damping.apply(step)
        self.targets.follow()
        if self.freezing is not None:
            self.freezing.apply()
        if self.damping is not None or self.freezing is not None:
            self.coordinates.read()
        if self.average is not None:
            self.average.take(step)
        self.position = data.after

    def _backward(self, batch: TensorBatch, share: float) -> Tensor:
        with torch.no_grad():
            wanted = run_module(self.view.teacher, batch.inputs)
        is_half = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_half):
            outputs = run_module(self.runs, batch.inputs)
        outputs = {name: output.to(wanted[name].dtype) for name, output in outputs.items()}
        loss = self.loss(outputs, wanted, batch.labels) * share
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.detach()

    def _add_up(self, loss: Tensor) -> None:
        """The loss and the gradients of all processes' parts, in each of them."""
        if self.processes.world == 1:
            return
        for u in self.coordinates.all:  # a part may not reach every parameter
            u.grad = torch.zeros_like(u) if u.grad is None else u.grad
        self._stop_asked = loss.new_tensor(float(self.interrupt.is_asked))
        gradients = [u.grad for u in self.coordinates.all if u.grad is not None]
        self.processes.sum([loss, self._stop_asked, *gradients])

    def _must_read(self, step: int) -> bool:
        """Whether the losses are to be looked at, for the record or for a checkpoint."""
        is_planned = self.checkpoint is not None and self.checkpoint.is_planned(step)
        return is_planned or len(self._unread) >= FETCH_EVERY[self.device.type]

    def _read(self, *, is_due: bool) -> None:
        """Record the steps that are not recorded; validate after the last of them if that is due.

        Raises:
            _NotFiniteError: A loss is no number.
        """
        unread, self._unread = self._unread, []
        losses = torch.stack([loss for loss, _ in unread]).tolist()
        first = self.step - len(losses) + 1
        for step, loss, (_, data) in zip(range(first, self.step + 1), losses, unread, strict=True):
            if not math.isfinite(loss):
                self._record(step, loss, None)
                raise _NotFiniteError(self._origin(data))
            judged = self._judge(step) if is_due and step == self.step else None
            self._record(step, loss, judged)

    def _require_finite(self, loss: Tensor, norm: Tensor | None) -> None:
        """Stop before an update that would spoil the parameters.

        Raises:
            _NotFiniteError: The loss, or the norm of the gradients, is no number.
        """
        is_loss_finite = math.isfinite(float(loss))
        if is_loss_finite and (norm is None or math.isfinite(float(norm))):
            return
        self._record(self.step + 1, float(loss), None)
        if not is_loss_finite:
            raise _NotFiniteError(self._origin(self._unread[-1][1]))
        gradients = [u.grad for u in self.coordinates.all]
        raise _NotFiniteError(origin_of_gradient(self.coordinates.entries, gradients))

    def _origin(self, data: StepData) -> str:
        """Where the number came from; on a GPU, which hears of it late, with the best parameters.

        By then those of the step are overwritten.
        """
        if self.device.type != "cpu":
            self.best.restore(self.targets.changing)
        found = origin_of_loss(self.student, self.teacher, data.parts)
        told = [text for text in self.processes.texts(found or "") if text]
        return told[0] if told else "the loss itself, of outputs that are finite"

    def _keep(self, *, at_end: bool = False) -> None:
        """Write the checkpoint if it is due; every loss up to here has been read."""
        if not self.processes.is_first or self.checkpoint is None:
            return
        if at_end or self.checkpoint.is_due(self.step):
            self.checkpoint.write(capture(self))

    def _is_interrupted(self) -> bool:
        """Whether the user has asked one of the processes to stop, which all of them learn of in
        the same step; every loss is then read.
        """
        if self._stop_asked is not None and not self._unread:
            self.interrupt.is_asked = float(self._stop_asked) > 0
        elif self.interrupt.is_asked and self._stop_asked is None and self._unread:
            self._read(is_due=False)
        return self.interrupt.is_asked and not self._unread

    def _is_stuck(self) -> bool:
        """Whether there were as many validations without a new best as patience allows."""
        if self.config.patience is None:
            return False
        judged = [record.is_best for record in self.history if record.validation is not None]
        return not any(judged[-self.config.patience :]) and len(judged) > self.config.patience

    def _judge(self, step: int) -> tuple[Validation, bool]:
        """Validate, and keep the parameters if they are the best so far. The start gives way only
        to a gain that is more than the scatter of the samples: training that gains nothing changes
        nothing.
        """
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            judged = self.judge()
            validation = judged.validation
            is_best = validation.loss < self.best.loss
            if self.start is None:
                self.start = judged
            elif self.best.step == 0:
                is_best = is_best and judged.is_gain_on(self.start)
            if is_best:
                self.best = Snapshot.take(self.targets.changing, step=step, loss=validation.loss)
        if not is_best and not validation.loss <= SETBACK * self.best.loss:
            self._step_back()
        return validation, is_best

    def _step_back(self) -> None:
        """Go on from the best parameters so far, in shorter steps: no one rate fits every model."""
        self.best.restore(self.targets.changing)
        self.coordinates.read()
        self.optimizer.state.clear()
        if self.average is not None:
            self.average.restart()
        self.shortened *= SHORTENING

    def _record(
        self, step: int, loss: float | None, judged: tuple[Validation, bool] | None
    ) -> None:
        validation, is_best = judged if judged is not None else (None, False)
        record = StepRecord(
            step=step,
            steps=self.steps,
            loss=loss,
            lr=self.lr * self._factor(step),
            seconds=self.seconds,
            validation=validation,
            is_best=is_best,
        )
        self.history.append(record)
        if self.on_progress is not None and self.processes.is_first:
            self.on_progress(record)

    def _factor(self, step: int) -> float:
        return self.schedule(step) * self.shortened


class _NotFiniteError(Exception):
    """Ends the run; its text says where the number came from."""
