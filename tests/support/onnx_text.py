"""Test graphs in ONNX's own text syntax."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper


def model_of(
    text: str, *, opset: int = 17, ir: int = 8, **weights: NDArray[Any]
) -> onnx.ModelProto:
    """A model of one graph in text, checked; nodes are named after their first output.

    Args:
        text: `name (inputs) => (outputs) <initializers> { nodes }`.
        opset: The version of ONNX's own operators.
        ir: The IR version.
        **weights: More initializers.
    """
    model = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {text}')
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    onnx.checker.check_model(model)
    return model
