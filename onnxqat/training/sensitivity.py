"""How much each quantizer does to the outputs: one at a time, with or without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.core.sensitivity import QuantizerSensitivity, Sensitivity
from onnxqat.data import Dataset
from onnxqat.data.layout import batch_layout
from onnxqat.graph import input_specs, qdq_pairs
from onnxqat.training.batches import Loader, TensorBatch
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.losses import Facts, Loss, Outputs
from onnxqat.training.names import parameters_by_name
from onnxqat.training.record import Validation
from onnxqat.training.run import run_module
from onnxqat.training.setting import (
    choose_device,
    on_device,
    on_threads,
    require_same_signature,
)
from onnxqat.training.start import start_from_teacher
from onnxqat.training.terms import Compared, make_loss
from onnxqat.training.validation import HeldOut, Tally

OnProgress = Callable[[str, int], None]
"""Told after each batch what is measured, and on how many samples it has been."""

NEGLIGIBLE = 0.005
"""Share of the error below which a quantizer is not left out on trial: without it the outputs would
gain some 0.02 dB. Most quantizers of a network are such."""


@dataclass(frozen=True)
class SensitivityConfig:
    """How sensitivity is measured."""

    samples: int = 64
    """How many samples, from the first. The error of a quantizer hardly differs between them."""
    batch_size: int = 16
    ranked_by: Literal["sqnr", "loss", "metric"] = "sqnr"
    """`sqnr`: the worst output's signal-to-noise ratio; `loss`: see below; `metric`: top-1, which
    wants labels, and many samples."""
    loss: str = "mse"
    """As in `FinetuneConfig`: `mse` and `kl` want no labels."""
    temperature: float = 1.0
    leave_one_out: bool = True
    """Also measure all quantizers but one, for those whose share is not negligible."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    """Of torch on the CPU; None: torch's choice, every core."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant.

        Raises:
            ConfigError: A number is below 1.
        """
        for name in ("samples", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}", fix="set 1 or more, or leave it out")


DEFAULTS = SensitivityConfig()


def sensitivity(
    student: OnnxModule,
    teacher: OnnxModule,
    data: Dataset,
    *,
    config: SensitivityConfig = DEFAULTS,
    on_progress: OnProgress | None = None,
) -> Sensitivity:
    """What each quantizer does to the outputs, alone and left out; the most sensitive first.

    Quantizers that share a scale are one. A quantizer alone is compared with the student without
    any, so that what is told is its own error; everything else is compared with the teacher.
    Weights that the file stores as codes are off at the teacher's values, where the codes are their
    rounding; else nothing tells what they were, and they count as exact. Neither module is changed.

    Args:
        student: The Q/DQ model.
        teacher: The FP32 model that it was made of.
        data: Samples; labels are read where there are any.
        config: How many samples, and what ranks.
        on_progress: Told how far it is.

    Raises:
        ConfigError: The models do not fit each other, or a ranking by metric lacks labels.
        ModelError: The student has no quantizer.
        DataError: The data does not fit the model, or has no sample.
        TrainingError: The teacher's outputs are not finite.
    """
    groups = scale_groups(student)
    if not groups:
        raise ModelError("the model has no quantizer", fix="give a Q/DQ model: onnxqat quantize")
    with _trial(student, teacher, data, config) as trial:
        return trial.result(groups, on_progress)


def errors_alone(
    student: OnnxModule,
    teacher: OnnxModule,
    data: Dataset,
    groups: Sequence[Sequence[str]],
    *,
    config: SensitivityConfig = DEFAULTS,
) -> tuple[Validation, ...]:
    """What each of these groups of quantizers does by itself, in their order; as `sensitivity`."""
    with _trial(student, teacher, data, config) as trial:
        found = trial.alone(groups, None)
    return tuple(found[number] for number in range(len(groups)))


@contextmanager
def _trial(
    student: OnnxModule, teacher: OnnxModule, data: Dataset, config: SensitivityConfig
) -> Iterator[_Trial]:
    require_same_signature(student, teacher)
    device = choose_device(config.device)
    axes = batch_layout(input_specs(student.graph)).axes
    loader = Loader(tuple(student.input_names), device, axes)
    chosen = FinetuneConfig(loss=config.loss, temperature=config.temperature)
    with (
        on_device(device, student, teacher),
        on_threads(config.threads),
        _as_it_came(student),
        torch.no_grad(),
    ):
        start_from_teacher(student, teacher)
        held_out = HeldOut(
            data, loader, teacher, batch_size=config.batch_size, samples=config.samples
        )
        facts = held_out.observe()
        yield _Trial(student, held_out, _Judge(facts, make_loss(chosen, Compared(facts))), config)


def scale_groups(student: OnnxModule) -> tuple[tuple[str, ...], ...]:
    """The student's quantizers by name: those that share a scale together, in graph order."""
    groups: dict[int, list[str]] = {}
    for name, quantizer in student.quantizers.items():
        groups.setdefault(id(quantizer.scale), []).append(name)
    return tuple(map(tuple, groups.values()))


@contextmanager
def _as_it_came(student: OnnxModule) -> Iterator[None]:
    """Afterwards every quantizer is on or off as before, and every quantized weight is."""
    enabled = {name: quantizer.enabled for name, quantizer in student.quantizers.items()}
    weights = parameters_by_name(student)
    kept = {name: weights[name].detach().clone() for name in enabled if name in weights}
    try:
        yield
    finally:
        for name, was in enabled.items():
            student.quantizers[name].enabled = was
        with torch.no_grad():
            for name, value in kept.items():
                weights[name].copy_(value)


@dataclass(frozen=True, eq=False)
class _Trial:
    """One measurement at work."""

    student: OnnxModule
    held_out: HeldOut
    judge: _Judge
    config: SensitivityConfig

    def result(
        self, groups: Sequence[Sequence[str]], on_progress: OnProgress | None
    ) -> Sensitivity:
        alone = self.alone(groups, on_progress)
        none = self.held_out.validate(self.student, self.judge.loss, self.judge.facts)
        shares = _shares(alone)
        every = self.every()
        tried = [number for number, share in shares.items() if share >= NEGLIGIBLE]
        numbers = tried if self.config.leave_one_out else []
        found = self.left_out([groups[number] for number in numbers], on_progress)
        without = {numbers[place]: validation for place, validation in found.items()}
        told = (
            self._told(group, alone[number], shares[number], without.get(number))
            for number, group in enumerate(groups)
        )
        ranked = tuple(sorted(told, key=_order(self.config.ranked_by, every)))
        return Sensitivity(self.config.ranked_by, every.samples, every, none, ranked)

    def alone(
        self, groups: Sequence[Sequence[str]], on_progress: OnProgress | None
    ) -> dict[int, Validation]:
        """Number of a group -> the outputs with it alone on; afterwards all are off."""
        self._set_all(on=False)
        return self._switched(groups, "alone", on_progress, against_teacher=False)

    def every(self) -> Validation:
        """All quantizers on, as they are afterwards."""
        self._set_all(on=True)
        return self.held_out.validate(self.student, self.judge.loss, self.judge.facts)

    def left_out(
        self, groups: Sequence[Sequence[str]], on_progress: OnProgress | None
    ) -> dict[int, Validation]:
        """Number of a group -> the outputs with all on but this one."""
        self._set_all(on=True)
        return self._switched(groups, "left out", on_progress, against_teacher=True)

    def _set_all(self, *, on: bool) -> None:
        for quantizer in self.student.quantizers.values():
            quantizer.enabled = on

    def _switched(
        self,
        groups: Sequence[Sequence[str]],
        what: str,
        on_progress: OnProgress | None,
        *,
        against_teacher: bool,
    ) -> dict[int, Validation]:
        """Number of a group -> the outputs with it switched over, against the teacher's, or against
        the student's as it stands.
        """
        tallies = [Tally(self.judge.facts) for _ in groups]
        done = 0
        for batch, teacher in self.held_out.pairs() if groups else ():
            wanted = teacher if against_teacher else run_module(self.student, batch.inputs)
            for number, outputs in self.student.switched(batch.inputs, groups):
                named = dict(zip(self.student.output_names, outputs, strict=True))
                self.judge.add(tallies[number], named, wanted, batch)
            done += batch.samples
            if on_progress is not None:
                on_progress(what, done)
        return {number: tally.result() for number, tally in enumerate(tallies)}

    def _told(
        self, names: Sequence[str], alone: Validation, share: float, without: Validation | None
    ) -> QuantizerSensitivity:
        quantizers, weights = self.student.quantizers, parameters_by_name(self.student)
        pairs = [
            pair
            for pair in qdq_pairs(self.student.graph)
            if (pair.output if pair.output in quantizers else pair.tensor) in names
        ]
        is_weight = all(quantizers[name].is_weight for name in names)
        nodes = (edge.node for pair in pairs for edge in pair.consumers)
        return QuantizerSensitivity(
            tensors=tuple(dict.fromkeys(pair.tensor for pair in pairs)),
            nodes=tuple(dict.fromkeys(nodes)),
            is_weight=is_weight,
            values=sum(weights[name].numel() for name in names if name in weights)
            if is_weight
            else None,
            alone=alone,
            share=share,
            without=without,
        )


@dataclass(frozen=True, eq=False)
class _Judge:
    """What outputs are judged by."""

    facts: Facts
    loss: Loss

    def add(self, tally: Tally, outputs: Outputs, wanted: Outputs, batch: TensorBatch) -> None:
        """Count one batch."""
        tally.add(outputs, wanted, batch, self.loss(outputs, wanted, batch.labels))


def _shares(alone: Mapping[int, Validation]) -> dict[int, float]:
    """Each one's part of the noise in the worst output that all make alone, summed."""
    noise = {number: 10 ** (-found.sqnr_db / 10) for number, found in alone.items()}
    total = sum(noise.values())
    if not (total > 0 and math.isfinite(total)):  # no error at all, or one that is no number
        return {number: float(math.isnan(value)) for number, value in noise.items()}
    return {number: value / total for number, value in noise.items()}


def _order(ranked_by: str, every: Validation) -> Callable[[QuantizerSensitivity], tuple[Any, ...]]:
    """What sorts the most sensitive first.

    Raises:
        ConfigError: The metric is asked for, and there are no labels.
    """
    if ranked_by == "metric" and every.top1 is None:
        raise ConfigError(
            "a ranking by metric wants labels and an output of class scores",
            fix='rank by "sqnr" or "loss", or give data with labels',
        )
    first: dict[str, Callable[[Validation], float]] = {
        "sqnr": lambda found: found.sqnr_db,
        "loss": lambda found: -found.loss,
        "metric": lambda found: found.top1 or 0.0,
    }
    return lambda found: (first[ranked_by](found.alone), found.alone.sqnr_db, found.tensors)
