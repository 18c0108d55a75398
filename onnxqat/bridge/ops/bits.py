"""Operators on the bits of a number."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onnxqat.bridge.ops.dtypes import torch_dtype
from onnxqat.bridge.ops.registry import op
from onnxqat.bridge.ops.unsigned import or_numpy
from onnxqat.core.errors import ModelError


@op("BitwiseAnd", versions=(18,))
@or_numpy(np.bitwise_and)
def bitwise_and(A: Tensor, B: Tensor) -> Tensor:
    return A & B


@op("BitwiseOr", versions=(18,))
@or_numpy(np.bitwise_or)
def bitwise_or(A: Tensor, B: Tensor) -> Tensor:
    return A | B


@op("BitwiseXor", versions=(18,))
@or_numpy(np.bitwise_xor)
def bitwise_xor(A: Tensor, B: Tensor) -> Tensor:
    return A ^ B


@op("BitwiseNot", versions=(18,))
@or_numpy(np.bitwise_not)
def bitwise_not(X: Tensor) -> Tensor:
    return ~X


@op("BitShift", versions=(11, 28))
def bit_shift(X: Tensor, Y: Tensor, *, direction: str) -> Tensor:
    bits = X.element_size() * 8
    value = X.view(torch.int64) if X.dtype == torch.uint64 else X.to(torch.int64)
    by = Y.view(torch.int64) if Y.dtype == torch.uint64 else Y.to(torch.int64)
    if direction == "LEFT":
        shifted, beyond = value << by.clamp(0, bits - 1), torch.zeros_like(value)
    else:
        shifted, beyond = value >> by.clamp(0, bits - 1), (value >> (bits - 1)).clamp(max=0)
        if X.dtype == torch.uint64:  # int64 carries the sign along
            carried = torch.where(by == 0, -1, (1 << (bits - by.clamp(1, bits - 1))) - 1)
            shifted, beyond = shifted & carried, torch.zeros_like(value)
    y = torch.where((by >= 0) & (by < bits), shifted, beyond)
    return y.view(torch.uint64) if X.dtype == torch.uint64 else y.to(X.dtype)


@op("BitCast", versions=(26,))
def bit_cast(input: Tensor, *, to: int) -> Tensor:
    kind = torch_dtype(to)
    if kind.itemsize != input.element_size():
        raise ModelError(f"BitCast from {input.dtype} to {kind}, which differ in width")
    return input.view(kind)
