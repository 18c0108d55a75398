"""The stages by name, in the order in which one would run them all."""

from __future__ import annotations

from onnxqat.initialization.batch_norm import reestimate_batch_norm
from onnxqat.initialization.bias_correction import correct_biases
from onnxqat.initialization.context import Stage
from onnxqat.initialization.reconstruct import adaround, brecq, reconstruct
from onnxqat.initialization.sequential_mse import match_outputs

STAGES: dict[str, Stage] = {
    "batch_norm": reestimate_batch_norm,
    "sequential_mse": match_outputs,
    "bias_correction": correct_biases,
    "adaround": adaround,
    "brecq": brecq,
    "reconstruct": reconstruct,
}
"""To add one: a function in a file of its own, a line here, a test."""
