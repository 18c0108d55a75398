"""Plans, run on the samples that judge them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from onnxqat.bridge import OnnxModule, to_torch
from onnxqat.core.errors import ConfigError
from onnxqat.data import Dataset
from onnxqat.data.layout import batch_layout
from onnxqat.graph import Graph, input_specs, insert
from onnxqat.mixing.config import MixConfig
from onnxqat.mixing.costs import Quantization
from onnxqat.training.batches import Loader
from onnxqat.training.losses import Facts, mse
from onnxqat.training.setting import choose_device, on_device, on_threads
from onnxqat.training.validation import HeldOut


@dataclass(frozen=True)
class Verdict:
    """What a plan comes to. None where a thing cannot be measured."""

    sqnr_db: float
    agreement: float | None
    metric_drop: float | None

    def keeps(self, config: MixConfig) -> bool:
        """Whether every limit of the budget is kept; never with a number that is none.

        Raises:
            ConfigError: The budget is about what cannot be measured.
        """
        return (
            _reaches(self.sqnr_db, config.sqnr_db, "sqnr_db")
            and _reaches(self.agreement, config.agreement, "agreement")
            and _reaches(
                None if self.metric_drop is None else -self.metric_drop,
                None if config.metric_drop is None else -config.metric_drop,
                "metric_drop",
            )
        )


def _reaches(found: float | None, least: float | None, name: str) -> bool:
    if least is None:
        return True
    if found is None:
        what = "labels and class scores" if name == "metric_drop" else "an output of class scores"
        raise ConfigError(f"the budget's {name} wants {what}", fix="set sqnr_db instead")
    return found >= least


@dataclass(eq=False)
class Judged:
    """Judges one plan after the other."""

    graph: Graph
    held_out: HeldOut
    facts: Facts
    samples: int
    top1: float | None
    """Of the FP32 model."""

    def __call__(self, one: Quantization) -> Verdict:
        """What a plan comes to."""
        if not one.plan.placements:
            return Verdict(float("inf"), 1.0, 0.0 if self.top1 is not None else None)
        student: OnnxModule = to_torch(insert(self.graph, one.plan, one.calibration))
        student.to(self.held_out.loader.device)
        found = self.held_out.validate(student, mse(self.facts), self.facts)
        lost = None if found.top1 is None or self.top1 is None else self.top1 - found.top1
        return Verdict(found.sqnr_db, found.agreement, lost)


@contextmanager
def judging(graph: Graph, data: Dataset, config: MixConfig) -> Iterator[Judged]:
    """What judges plans for a graph, while this lasts.

    Raises:
        TrainingError: The FP32 model's outputs are not finite.
        DataError: There is no sample.
    """
    teacher = to_torch(graph)
    axes = batch_layout(input_specs(graph)).axes
    loader = Loader(tuple(teacher.input_names), choose_device(config.device), axes)
    held_out = HeldOut(data, loader, teacher, batch_size=config.batch_size, samples=config.samples)
    with on_device(loader.device, teacher), on_threads(config.threads), torch.no_grad():
        facts = held_out.observe()
        exact = held_out.validate(teacher, mse(facts), facts)
        yield Judged(graph, held_out, facts, exact.samples, exact.top1)
