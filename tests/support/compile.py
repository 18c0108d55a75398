"""Compiling graphs in tests: the real TensorRT compiler as the oracle."""

from __future__ import annotations

from importlib.util import find_spec

import onnx
import onnx.parser
import pytest

from onnxqat.core.precision import HEAVY_OPS

needs_compiler = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="the package tensorrt-rtx is not installed"
)


def model_of(text: str) -> onnx.ModelProto:
    """The checked model of a text in ONNX's own syntax."""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model


def heavy_nodes(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Name and operator of the nodes that multiply matrices."""
    return [(node.name, node.op_type) for node in model.graph.node if node.op_type in HEAVY_OPS]
