"""Running a module on a batch."""

from __future__ import annotations

from torch import Tensor

from onnxqat.bridge import OnnxModule
from onnxqat.training.compiled import Compiled
from onnxqat.training.losses import Outputs


def run_module(module: OnnxModule | Compiled, inputs: tuple[Tensor, ...]) -> Outputs:
    """The module's outputs by name."""
    outputs = module(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return dict(zip(module.output_names, outputs, strict=True))
