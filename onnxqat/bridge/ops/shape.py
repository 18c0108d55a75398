"""Operators that move, cut and join, and compute nothing."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops import host
from onnxqat.bridge.ops.dtypes import converted, torch_dtype
from onnxqat.bridge.ops.registry import Ints, Moved, Outputs, op
from onnxqat.bridge.ops.text import Strings, numbers_of
from onnxqat.core.errors import ModelError

Axes = tuple[int, ...]


@op("Shape", versions=(1, 13, 15, 19, 21, 23, 24, 25), host=host.shape, returns_ints=True)
def shape(data: Tensor, *, end: int | None = None, start: int = 0) -> Axes:
    return tuple(data.shape)[start:end]


@op("Size", versions=(1, 13, 19, 21, 23, 24, 25), host=host.size, returns_ints=True)
def size(data: Tensor) -> int:
    return prod(data.shape)


@op("Identity", versions=(1, 13, 14, 16, 19, 21, 23, 24, 25), host=host.same)
def identity(input: Moved) -> Tensor:
    return input


@op("Reshape", versions=(5, 13, 14, 19, 21, 23, 24, 25), host=host.reshape)
def reshape(data: Moved, shape: Ints, *, allowzero: int = 0) -> Tensor:
    if 0 in shape and not allowzero:
        shape = tuple(data.shape[i] if n == 0 else n for i, n in enumerate(shape))
    return data.reshape(shape)


@op("Flatten", versions=(1, 9, 11, 13, 21, 23, 24, 25))
def flatten(input: Moved, *, axis: int = 1) -> Tensor:
    sizes = input.shape
    return input.reshape(prod(sizes[:axis]), prod(sizes[axis:]))


@op("Squeeze", versions=(1, 11), host=host.squeeze_by_attribute)
def squeeze_by_attribute(data: Moved, *, axes: Axes | None = None) -> Tensor:
    return squeeze(data, axes)


@op("Squeeze", versions=(13, 21, 23, 24, 25), host=host.squeeze)
def squeeze(data: Moved, axes: Ints | None = None) -> Tensor:
    if axes is None:
        return data.squeeze()
    wrong = [axis for axis in axes if data.shape[axis] != 1]
    if wrong:
        raise ModelError(f"axes {wrong} of shape {tuple(data.shape)} are not of size 1")
    return data.squeeze(axes)


@op("Unsqueeze", versions=(1, 11), host=host.unsqueeze_by_attribute)
def unsqueeze_by_attribute(data: Moved, *, axes: Axes) -> Tensor:
    return unsqueeze(data, axes)


@op("Unsqueeze", versions=(13, 21, 23, 24, 25), host=host.unsqueeze)
def unsqueeze(data: Moved, axes: Ints) -> Tensor:
    rank = data.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        data = data.unsqueeze(axis)
    return data


@op("Transpose", versions=(1, 13, 21, 23, 24, 25))
def transpose(data: Moved, *, perm: Axes | None = None) -> Tensor:
    return data.permute(perm if perm is not None else tuple(range(data.ndim))[::-1])


@op("Concat", versions=(4, 11, 13), host=host.concat)
def concat(*inputs: Moved, axis: int) -> Tensor:
    return torch.cat(inputs, axis)


@op("Split", versions=(2, 11))
def split_by_attribute(
    input: Moved, *, axis: int = 0, split: Axes | None = None, outputs: Outputs = 1
) -> Any:
    return _split(input, split, axis=axis, outputs=outputs)


@op("Split", versions=(13, 18))
def split(
    input: Moved,
    split: Ints | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    outputs: Outputs = 1,
) -> Any:
    return _split(input, split, axis=axis, outputs=num_outputs or outputs)


def _split(x: Tensor, sizes: Axes | None, *, axis: int, outputs: int) -> Any:
    length = x.shape[axis]
    if sizes is None:
        part = -(-length // outputs)
        sizes = tuple(min(part, max(length - i * part, 0)) for i in range(outputs))
    parts = x.split_with_sizes(sizes, axis)
    return parts if outputs > 1 else parts[0]


@op("Slice", versions=(1,), host=host.slice_by_attributes)
def slice_by_attributes(
    data: Moved, *, axes: Axes | None = None, ends: Axes, starts: Axes
) -> Tensor:
    return slice_(data, starts, ends, axes)


@op("Slice", versions=(10, 11, 13), host=host.slice_by_inputs)
def slice_(
    data: Moved,
    starts: Ints,
    ends: Ints,
    axes: Ints | None = None,
    steps: Ints | None = None,
) -> Tensor:
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        data = _slice(data, start, end, axis=axis, step=step)
    return data


def _slice(x: Tensor, start: int, end: int, *, axis: int, step: int) -> Tensor:
    length = x.shape[axis]
    start = start + length if start < 0 else start
    end = end + length if end < 0 else end
    if step > 0:
        index = [slice(None)] * (axis % x.ndim)
        return x[(*index, slice(max(start, 0), max(end, 0), step))]
    start, end = min(max(start, 0), length - 1), min(max(end, -1), length - 1)
    count = max(-((start - end) // step), 0)
    last = start + step * (count - 1)
    index = [slice(None)] * (axis % x.ndim)
    return x[(*index, slice(last, start + 1, -step) if count else slice(0, 0))].flip(axis)


@op("Expand", versions=(8, 13), host=host.expand)
def expand(input: Moved, shape: Ints) -> Tensor:
    own = (1,) * (len(shape) - input.ndim) + tuple(input.shape)
    wanted = (1,) * (input.ndim - len(shape)) + shape
    return input.expand([n if m == 1 else m for n, m in zip(own, wanted, strict=True)])


@op("Tile", versions=(6, 13))
def tile(input: Moved, repeats: Ints) -> Tensor:
    return input.repeat(repeats)


@op("Cast", versions=(6, 9, 13, 19, 21, 23, 24, 25, 28), host=host.cast)
def cast(input: Moved | Strings, *, round_mode: str = "up", saturate: int = 1, to: int) -> Tensor:
    if not isinstance(input, Tensor):
        return numbers_of(input).to(torch_dtype(to))
    return converted(input, torch_dtype(to), saturate=bool(saturate), round_mode=round_mode)


@op("CastLike", versions=(15, 19, 21, 23, 24, 25))
def cast_like(
    input: Tensor | Strings, target_type: Tensor, *, round_mode: str = "up", saturate: int = 1
) -> Tensor:
    if not isinstance(input, Tensor):
        return numbers_of(input).to(target_type.dtype)
    return converted(input, target_type.dtype, saturate=bool(saturate), round_mode=round_mode)


@op("DepthToSpace", versions=(1, 11, 13, 28))
def depth_to_space(input: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = input.shape
    b = blocksize
    if mode == "CRD":
        return functional.pixel_shuffle(input, b)
    blocks = input.reshape(n, b, b, c // (b * b), h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


@op("SpaceToDepth", versions=(1, 13, 28))
def space_to_depth(input: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = input.shape
    b = blocksize
    if mode == "CRD":
        return functional.pixel_unshuffle(input, b)
    blocks = input.reshape(n, c, h // b, b, w // b, b)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@op("CenterCropPad", versions=(18,))
def center_crop_pad(input_data: Tensor, shape: Ints, *, axes: Axes | None = None) -> Tensor:
    y = input_data
    for axis, size in zip(range(y.ndim) if axes is None else axes, shape, strict=True):
        extra = size - y.shape[axis]
        if extra < 0:
            y = y.narrow(axis, -extra // 2, size)
        elif extra > 0:
            widths = [0, 0] * (y.ndim - axis % y.ndim - 1) + [extra // 2, extra - extra // 2]
            y = functional.pad(y, widths)
    return y
