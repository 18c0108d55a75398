"""A module's parameters by their ONNX names."""

from __future__ import annotations

from torch.nn import Parameter

from onnxqat.bridge import OnnxModule


def parameters_by_name(module: OnnxModule) -> dict[str, Parameter]:
    """ONNX initializer name -> parameter, in the order of the graph."""
    return {module.onnx_name(name): p for name, p in module.named_parameters(recurse=False)}
