"""How good the student is, on samples that no step sees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import DataError, TrainingError
from onnxqat.data import Dataset
from onnxqat.training.batches import Loader, TensorBatch
from onnxqat.training.losses import Facts, Loss, Outputs, observe_outputs, scores_name
from onnxqat.training.record import Validation
from onnxqat.training.run import run_module

CACHE_BYTES = 256 * 2**20
"""Teacher outputs kept between validations; those of further batches are computed again."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The validation samples and the teacher's outputs for them."""

    data: Dataset
    loader: Loader
    teacher: OnnxModule
    batch_size: int
    samples: int
    cache: list[Outputs] = field(default_factory=list)

    def observe(self) -> Facts:
        """Run the teacher once, keep what the cache holds, and describe its outputs.

        Raises:
            DataError: There is no sample.
            TrainingError: The teacher's output is not finite.
        """
        kept = 0
        for _, outputs in self._pairs():
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
        """Judge the student as it is."""
        tally = Tally(facts)
        for batch, teacher in self._pairs():
            outputs = run_module(student, batch.inputs)
            tally.add(outputs, teacher, batch, loss(outputs, teacher, batch.labels))
        return tally.result()

    @torch.no_grad()
    def _pairs(self) -> Iterator[tuple[TensorBatch, Outputs]]:
        batches = self.loader.in_order(self.data, self.batch_size, self.samples)
        for index, batch in enumerate(batches):
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

    def result(self) -> Validation:
        """The figures over all batches."""
        ratios = [_decibel(_total(self._signal[n]), _total(self._noise[n])) for n in self._facts]
        return Validation(
            samples=self._samples,
            loss=_total(self._losses) / self._samples,
            sqnr_db=min(ratios, default=math.inf),
            agreement=self._share(self._agreed),
            top1=self._share(self._right),
        )

    def _share(self, counts: list[Tensor]) -> float | None:
        return _total(counts) / self._samples if counts else None


def _total(values: list[Tensor]) -> float:
    return float(torch.stack(values).sum())


def _decibel(signal: float, noise: float) -> float:
    """10·log10(signal / noise); infinite without noise, minus infinite without signal."""
    if math.isnan(noise) or math.isnan(signal):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
