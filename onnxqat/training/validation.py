"""How good the student is, on samples that no step sees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import DataError, TrainingError
from onnxqat.data import Dataset
from onnxqat.training.batches import Loader, TensorBatch
from onnxqat.training.distributed import Processes
from onnxqat.training.losses import Facts, Loss, Outputs, observe_outputs, scores_name
from onnxqat.training.record import Validation
from onnxqat.training.run import run_module

ALONE = Processes()
PARTS = 16
"""Of a batch, enough to see how much the loss scatters over the samples."""
CACHE_BYTES = 256 * 2**20
"""Teacher outputs kept between validations; those of further batches are computed again."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A validation, and the losses that it is the mean of."""

    validation: Validation
    losses: Tensor
    """[batches, parts], float64: times their samples."""
    samples: Tensor
    """[batches, parts], float64; 0 where a batch has fewer parts."""

    def is_gain_on(self, start: Judged) -> bool:
        """Whether the loss is lower than at the start by more than the standard error of the
        difference, sample by sample (Breiman et al. 1984: the one-standard-error rule). Where
        there is but one part, or the parts are others, as after a resumption with another
        micro-batch, that it is lower is enough.
        """
        if not torch.equal(self.samples, start.samples):
            return self.validation.loss < start.validation.loss
        samples = self.samples[self.samples > 0]
        gains = (start.losses - self.losses)[self.samples > 0]
        gain = gains.sum() / samples.sum()
        parts = max(2, len(samples))
        scatter = (gains - gain * samples).square().sum() * parts / (parts - 1)
        is_within = gain <= scatter.sqrt() / samples.sum()
        return not bool(is_within)  # so too where the start's loss is no number


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The validation samples and the teacher's outputs for them."""

    data: Dataset
    loader: Loader
    teacher: OnnxModule
    batch_size: int
    samples: int
    parts: int = 1
    """Of a batch, by which the scatter is judged."""
    processes: Processes = ALONE
    """Each judges some of the batches; the sums are over all."""
    cache: list[Outputs] = field(default_factory=list)

    def batches(self) -> Iterator[TensorBatch]:
        """The samples."""
        return self.loader.in_order(self.data, self.batch_size, self.samples)

    def observe(self) -> Facts:
        """Run the teacher once, keep what the cache holds, and describe its outputs.

        Raises:
            DataError: There is no sample.
            TrainingError: The teacher's output is not finite.
        """
        kept = 0
        for _, outputs in self.pairs():
            _require_finite(outputs)
            kept += sum(tensor.nbytes for tensor in outputs.values())
            if self.cache and kept > CACHE_BYTES:
                break
            self.cache.append(outputs)
        if not self.cache:
            raise DataError("there is no sample to validate on", fix="give more data")
        return observe_outputs(self.cache)

    @torch.no_grad()
    def validate(self, student: OnnxModule, loss: Loss, facts: Facts) -> Validation:
        """How good the student is as it is."""
        return self.judge(student, loss, facts).validation

    @torch.no_grad()
    def judge(self, student: OnnxModule, loss: Loss, facts: Facts) -> Judged:
        """The same, and how the loss scatters."""
        tally = Tally(facts)
        rows = []
        every = self.processes
        for batch, teacher in self.pairs(every.rank, every.world):
            outputs = run_module(student, batch.inputs)
            of_batch = loss(outputs, teacher, batch.labels)
            tally.add(outputs, teacher, batch, of_batch)
            cut = _cut(outputs, teacher, batch, self.parts)
            values = [loss(*part[:3]) for part in cut] if len(cut) > 1 else [of_batch]
            rows.append(_row(values, [part.samples for part in cut], self.parts))
        losses, samples = _of_all(rows, self.parts, every).unbind()
        return Judged(tally.result(every), losses, samples)

    @torch.no_grad()
    def pairs(self, first: int = 0, every: int = 1) -> Iterator[tuple[TensorBatch, Outputs]]:
        """Batches with the teacher's outputs: the one of this number, and every so many."""
        for index, batch in islice(enumerate(self.batches()), first, None, every):
            is_kept = index < len(self.cache)
            yield batch, self.cache[index] if is_kept else run_module(self.teacher, batch.inputs)


def _require_finite(outputs: Outputs) -> None:
    for name, output in outputs.items():
        if output.is_floating_point() and not bool(torch.isfinite(output).all()):
            raise TrainingError(
                "the FP32 teacher's output is not finite on the validation data",
                tensor=name,
                fix="check the data's normalization and the FP32 model",
            )


class _Part(NamedTuple):
    student: Outputs
    teacher: Outputs
    labels: Tensor | None
    samples: int


def _cut(student: Outputs, teacher: Outputs, batch: TensorBatch, parts: int) -> list[_Part]:
    """At most so many parts of a batch; one where an output does not count its samples."""
    tensors = [*student.values(), *teacher.values()]
    tensors += [] if batch.labels is None else [batch.labels]
    if not all(tensor.ndim > 0 and len(tensor) == batch.samples for tensor in tensors):
        return [_Part(student, teacher, batch.labels, batch.samples)]
    size = -(-batch.samples // parts)
    return [
        _Part(
            {name: output[first : first + size] for name, output in student.items()},
            {name: output[first : first + size] for name, output in teacher.items()},
            None if batch.labels is None else batch.labels[first : first + size],
            min(size, batch.samples - first),
        )
        for first in range(0, batch.samples, size)
    ]


def _row(losses: list[Tensor], samples: list[int], parts: int) -> Tensor:
    """Losses, times their samples, and samples of a batch's parts: [2, parts], float64."""
    row = torch.zeros(2, parts, dtype=torch.float64)
    row[1, : len(samples)] = torch.tensor(samples)
    row[0, : len(losses)] = torch.stack(losses).double().cpu()
    row[0] *= row[1]
    return row


def _of_all(rows: list[Tensor], parts: int, processes: Processes) -> Tensor:
    """The rows of all processes, whose batches were dealt out in turn: [2, batches, parts]."""
    count = torch.tensor(len(rows))
    processes.sum([count])
    whole = torch.zeros(2, int(count), parts, dtype=torch.float64)
    if rows:
        whole[:, processes.rank :: processes.world] = torch.stack(rows, 1)
    processes.sum([whole])
    return whole


class Tally:
    """Sums over the batches of one validation, on the device until the end."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._noise: dict[str, list[Tensor]] = {name: [] for name in facts}
        self._signal: dict[str, list[Tensor]] = {name: [] for name in facts}
        self._losses: list[Tensor] = []
        self._agreed: list[Tensor] = []
        self._right: list[Tensor] = []
        self._samples = 0

    def add(self, student: Outputs, teacher: Outputs, batch: TensorBatch, loss: Tensor) -> None:
        """Count one batch."""
        self._samples += batch.samples
        self._losses.append(loss.double() * batch.samples)
        for name in self._facts:
            self._noise[name].append((student[name] - teacher[name]).double().square().sum())
            self._signal[name].append(teacher[name].double().square().sum())
        scores = scores_name(self._facts, teacher)
        if scores is None:
            return
        top = student[scores].argmax(1)
        self._agreed.append((top == teacher[scores].argmax(1)).sum())
        if batch.labels is not None and batch.labels.shape == top.shape:
            self._right.append((top == batch.labels).sum())

    def result(self, processes: Processes = ALONE) -> Validation:
        """The figures over all batches, of all processes."""
        sums = {
            "samples": float(self._samples),
            "loss": _total(self._losses),
            "agreed": _total(self._agreed),
            "right": _total(self._right),
            "judged": float(bool(self._agreed)),
            "labelled": float(bool(self._right)),
            **{f"noise of {name}": _total(values) for name, values in self._noise.items()},
            **{f"signal of {name}": _total(values) for name, values in self._signal.items()},
        }
        values = torch.tensor(list(sums.values()), dtype=torch.float64)
        processes.sum([values])
        total = dict(zip(sums, values.tolist(), strict=True))
        ratios = [_decibel(total[f"signal of {n}"], total[f"noise of {n}"]) for n in self._facts]
        samples = total["samples"]
        return Validation(
            samples=int(samples),
            loss=total["loss"] / samples,
            sqnr_db=min(ratios, default=math.inf),
            agreement=total["agreed"] / samples if total["judged"] else None,
            top1=total["right"] / samples if total["labelled"] else None,
        )


def _total(values: list[Tensor]) -> float:
    return float(torch.stack(values).sum()) if values else 0.0


def _decibel(signal: float, noise: float) -> float:
    """10·log10(signal / noise); infinite without noise, minus infinite without signal."""
    if math.isnan(noise) or math.isnan(signal):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
