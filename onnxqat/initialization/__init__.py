"""A better start than calibration alone: stages without labels, between PTQ and training."""

from onnxqat.initialization.config import InitializationConfig
from onnxqat.initialization.context import Context, Stage
from onnxqat.initialization.equalize import equalize
from onnxqat.initialization.initialize import initialize
from onnxqat.initialization.stages import STAGES

__all__ = [
    "STAGES",
    "Context",
    "InitializationConfig",
    "Stage",
    "equalize",
    "initialize",
]
