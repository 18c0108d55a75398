"""The repair of UINT4 weights around 8, which are INT4 weights around 0 written in another way."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from onnxqat.auditing.subject import DEQUANTIZE, Subject, quantizer_of
from onnxqat.auditing.values import input_of, value_of

MIDDLE = 8
"""The UINT4 code that INT4's 0 becomes."""


def is_shifted(node: gs.Node) -> bool:
    """Whether a node dequantizes stored UINT4 codes around 8, as GPTQ and AWQ exporters write."""
    if node.op != DEQUANTIZE or quantizer_of(node) is not None:
        return False
    codes, zero_point = value_of(node.inputs[0]), value_of(input_of(node, 2))
    if codes is None or zero_point is None or codes.dtype.name != "uint4":
        return False
    return bool(np.all(zero_point.astype(np.int8) == MIDDLE))


def shift(subject: Subject, node: gs.Node) -> None:
    """Store the same weights as INT4: code for code 8 less, so that no value changes."""
    if not is_shifted(node):
        return
    int4 = _int4()
    for index in (0, 2):
        value = value_of(node.inputs[index])
        assert value is not None
        name = subject.names.tensor(f"{node.inputs[index].name}_int4")
        shifted = (value.astype(np.int8) - MIDDLE).astype(int4)
        node.inputs[index] = gs.Constant(name, np.asarray(shifted))


def _int4() -> np.dtype[Any]:
    """Numpy's name of it, which ml_dtypes gives."""
    return helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
