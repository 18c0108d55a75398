"""Operators that make tensors out of attributes, shapes and numbers."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onnxqat.bridge.ops import host
from onnxqat.bridge.ops.dtypes import torch_dtype
from onnxqat.bridge.ops.registry import Ints, TensorValue, op
from onnxqat.bridge.ops.text import Strings
from onnxqat.core.errors import ModelError


@op("Constant", versions=(1, 9))
def constant_of_tensor(*, value: TensorValue) -> Tensor:
    return value.tensor


@op("Constant", versions=(11, 12, 13, 19, 21, 23, 24, 25))
def constant(
    *,
    sparse_value: TensorValue | None = None,
    value: TensorValue | None = None,
    value_float: float | None = None,
    value_floats: tuple[float, ...] | None = None,
    value_int: int | None = None,
    value_ints: tuple[int, ...] | None = None,
    value_string: str | None = None,
    value_strings: tuple[str, ...] | None = None,
) -> Tensor | Strings:
    given = sparse_value if value is None else value
    if given is not None:
        return given.tensor
    number = value_float if value_float is not None else value_floats
    if number is not None:
        return torch.tensor(number, dtype=torch.float32)
    whole = value_int if value_int is not None else value_ints
    if whole is not None:
        return torch.tensor(whole, dtype=torch.int64)
    words = value_string if value_string is not None else value_strings
    if words is not None:
        return np.array(words, dtype=object)
    raise ModelError("a Constant has no value")


@op("ConstantOfShape", versions=(9, 20, 21, 23, 24, 25), host=host.constant_of_shape)
def constant_of_shape(input: Ints, *, value: TensorValue | None = None) -> Tensor:
    if value is None:
        return torch.zeros(input)
    assert value.number is not None
    return torch.full(input, value.number, dtype=value.dtype)


@op("Range", versions=(11, 27), host=host.range_)
def range_(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int = 1) -> Tensor:
    first, end, step = start.item(), limit.item(), delta.item()
    count = max(int(np.ceil((end - first) / step)), 0)
    steps = torch.arange(count, dtype=start.dtype, device=start.device)
    return start + steps * delta


@op("EyeLike", versions=(9, 22))
def eye_like(input: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    kind = input.dtype if dtype is None else torch_dtype(dtype)
    rows, columns = (torch.arange(n, device=input.device) for n in input.shape)
    return (columns == rows.unsqueeze(1) + k).to(kind)


@op("OneHot", versions=(9, 11, 28))
def one_hot(indices: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    size = depth[0]
    classes = torch.arange(size, device=indices.device)
    hot = indices.to(torch.int64).remainder(size).unsqueeze(-1) == classes
    inside = ((indices >= -size) & (indices < size)).unsqueeze(-1)
    return torch.where((hot & inside).movedim(-1, axis), values[1], values[0])


@op("Trilu", versions=(14,))
def trilu(input: Tensor, k: Ints | None = None, *, upper: int = 1) -> Tensor:
    diagonal = k[0] if k else 0
    return input.triu(diagonal) if upper else input.tril(diagonal)
