"""ONNX element types as torch's."""

from __future__ import annotations

import torch
from onnx import TensorProto

from onnxqat.core.errors import ModelError

TORCH_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
}


def torch_dtype(onnx_type: int) -> torch.dtype:
    """The torch type of an ONNX element type.

    Raises:
        ModelError: torch has none that behaves the same.
    """
    found = TORCH_DTYPES.get(onnx_type)
    if found is None:
        name = TensorProto.DataType.Name(onnx_type)
        raise ModelError(f"element type {name} has no counterpart here in torch")
    return found
