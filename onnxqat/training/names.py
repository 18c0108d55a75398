"""A module's parameters by their ONNX names."""

from __future__ import annotations

from torch.nn import Parameter

from onnxqat.bridge import OnnxModule
from onnxqat.bridge.names import onnx_name


def parameters_by_name(module: OnnxModule) -> dict[str, Parameter]:
    """ONNX initializer name -> parameter; the scales of quantizers are not among them."""
    named = module.named_parameters(recurse=False)
    return {onnx_name(name): parameter for name, parameter in named}
