"""Compiling graphs in tests: the real TensorRT compiler as the oracle."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import onnx
import onnx.parser
import pytest

from onnxqat.core.precision import Precision, node_precisions
from onnxqat.engine import Built, heavy_nodes
from onnxqat.engine.model_file import Model

needs_compiler = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="the package tensorrt-rtx is not installed"
)


def model_of(text: str) -> onnx.ModelProto:
    """The checked model of a text in ONNX's own syntax."""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model


def precisions(model: Model, built: Built) -> Counter[Precision]:
    """How many nodes that multiply matrices run in which precision."""
    return Counter(node.precision for node in node_precisions(built.plan, heavy_nodes(model)))
