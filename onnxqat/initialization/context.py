"""What an initialization stage is given, and what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxqat.bridge import OnnxModule
from onnxqat.initialization.config import InitializationConfig
from onnxqat.training.batches import TensorBatch

KEPT = "channels kept"
"""What a place of the FP32 model is told of whose channels stay as they are."""


def ignore(_: object) -> None:
    """Tell nobody."""


@dataclass(frozen=True, eq=False)
class Context:
    """The models and the samples, all on the device that the run is on."""

    student: OnnxModule
    """The Q/DQ model as the stages before left it; a stage changes its values in place."""
    teacher: OnnxModule
    """The FP32 model, with the same names; it is not changed."""
    batches: tuple[TensorBatch, ...]
    """What a stage learns from. The samples that judge it are not among them."""
    config: InitializationConfig
    note: Callable[[str], None] = ignore
    """Is told what a stage leaves out, and why."""


Stage = Callable[[Context], None]
"""Changes weights, biases or scales of `Context.student`, and nothing else."""
