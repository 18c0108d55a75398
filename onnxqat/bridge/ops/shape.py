"""Operators that move, cut, join and look up, and compute nothing."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops import host
from onnxqat.bridge.ops.dtypes import torch_dtype
from onnxqat.bridge.ops.registry import Ints, Moved, Outputs, Scalar, Weight, op
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


@op("Gather", versions=(1, 11, 13), host=host.gather)
def gather(data: Weight, indices: Scalar, *, axis: int = 0) -> Tensor:
    if not isinstance(indices, Tensor):
        return data.select(axis, int(indices))
    index: list[Any] = [slice(None)] * (axis % data.ndim)
    return data[(*index, indices.to(torch.int64))]


@op("GatherElements", versions=(11, 13))
def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return data.gather(axis, _wrapped(indices, data.shape[axis]))


@op("GatherND", versions=(11, 12, 13))
def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    depth = indices.shape[-1]
    batch = data.shape[:batch_dims]
    rows = data.reshape(-1, *data.shape[batch_dims:])
    where = indices.reshape(rows.shape[0], -1, depth).to(torch.int64)
    row = torch.arange(rows.shape[0], device=data.device).unsqueeze(1)
    found = rows[(row, *where.unbind(-1))]
    return found.reshape(*batch, *indices.shape[batch_dims:-1], *data.shape[batch_dims + depth :])


@op("ScatterElements", versions=(11, 13, 16, 18))
def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    index = _wrapped(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, index, updates)
    return data.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction])


@op("ScatterND", versions=(11, 13, 16, 18))
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none"
) -> Tensor:
    depth = indices.shape[-1]
    sizes = data.shape[:depth]
    rows = data.reshape(prod(sizes), -1)
    index = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=data.device)
    for axis, length in enumerate(sizes):
        index = index * length + _wrapped(indices[..., axis], length)
    index = index.reshape(-1, 1).expand(-1, rows.shape[1])
    changes = updates.reshape(index.shape)
    if reduction == "none":
        return rows.scatter(0, index, changes).reshape(data.shape)
    return rows.scatter_reduce(0, index, changes, _REDUCTIONS[reduction]).reshape(data.shape)


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(indices: Tensor, length: int) -> Tensor:
    """Indices from 0 on: ONNX counts negative ones from the end."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + length, indices)


@op("NonZero", versions=(9, 13))
def non_zero(X: Tensor) -> Tensor:
    return X.nonzero().t()


@op("TopK", versions=(10, 11, 24))
def top_k(
    X: Tensor,
    K: Ints,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
    outputs: Outputs = 2,
) -> Any:
    order = X.sort(dim=axis, descending=bool(largest), stable=True)
    best = tuple(part.narrow(axis, 0, K[0]) for part in order)
    return best if outputs > 1 else best[0]


@op("Expand", versions=(8, 13), host=host.expand)
def expand(input: Moved, shape: Ints) -> Tensor:
    own = (1,) * (len(shape) - input.ndim) + tuple(input.shape)
    wanted = (1,) * (input.ndim - len(shape)) + shape
    return input.expand([n if m == 1 else m for n, m in zip(own, wanted, strict=True)])


@op("Tile", versions=(6, 13))
def tile(input: Moved, repeats: Ints) -> Tensor:
    return input.repeat(repeats)


@op("Cast", versions=(6, 9, 13, 19, 21, 23, 24, 25, 28), host=host.cast)
def cast(input: Moved, *, round_mode: str = "up", saturate: int = 1, to: int) -> Tensor:
    return input.to(torch_dtype(to))


@op("CastLike", versions=(15, 19, 21, 23, 24, 25))
def cast_like(
    input: Tensor, target_type: Tensor, *, round_mode: str = "up", saturate: int = 1
) -> Tensor:
    return input.to(target_type.dtype)


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


@op("Pad", versions=(2,))
def pad_by_attributes(
    data: Tensor, *, mode: str = "constant", pads: Axes, value: float = 0.0
) -> Tensor:
    return pad(data, pads, value, mode=mode)


@op("Pad", versions=(11, 13, 18, 19, 21, 23, 24, 25))
def pad(
    data: Tensor,
    pads: Ints,
    constant_value: Scalar | None = None,
    axes: Ints | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    axes = tuple(range(data.ndim)) if axes is None else axes
    before = {a % data.ndim: n for a, n in zip(axes, pads[: len(axes)], strict=True)}
    after = {a % data.ndim: n for a, n in zip(axes, pads[len(axes) :], strict=True)}
    if mode == "constant":
        last_first = range(data.ndim - 1, -1, -1)
        widths = [w for a in last_first for w in (before.get(a, 0), after.get(a, 0))]
        return _pad_constant(data, widths, constant_value)
    if mode not in _PAD_INDEX:
        raise ModelError(f"Pad mode '{mode}' is not known")
    for axis, extra in before.items():
        if extra or after[axis]:
            length = data.shape[axis]
            reach = torch.arange(-extra, length + after[axis], device=data.device)
            data = data.index_select(axis, _PAD_INDEX[mode](reach, length))
    return data


def _pad_constant(data: Tensor, widths: Sequence[int], value: Scalar | None) -> Tensor:
    if isinstance(value, Tensor):
        value = value.item()
    if data.dtype == torch.bool:
        return functional.pad(data.to(torch.uint8), widths, value=float(value or 0)).to(torch.bool)
    return functional.pad(data, widths, value=0.0 if value is None else value)


def _reflected(index: Tensor, length: int) -> Tensor:
    period = max(2 * (length - 1), 1)
    index = index.remainder(period)
    return torch.where(index >= length, period - index, index)


_PAD_INDEX: dict[str, Callable[[Tensor, int], Tensor]] = {
    "reflect": _reflected,
    "edge": lambda index, length: index.clamp(0, length - 1),
    "wrap": lambda index, length: index.remainder(length),
}
