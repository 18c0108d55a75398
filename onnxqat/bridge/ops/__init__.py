"""Torch implementations of ONNX operators, in families. Importing this registers all of them."""

from onnxqat.bridge.ops import (
    activation,
    constant,
    control_flow,
    conv,
    elementwise,
    fused,
    indexing,
    matmul,
    norm,
    pad,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    shape,
)

__all__ = [
    "activation",
    "constant",
    "control_flow",
    "conv",
    "elementwise",
    "fused",
    "indexing",
    "matmul",
    "norm",
    "pad",
    "pool",
    "quantize",
    "recurrent",
    "reduce",
    "resize",
    "shape",
]
