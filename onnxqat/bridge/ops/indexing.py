"""Operators that look up, scatter, search and sort."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from onnxqat.bridge.ops import host
from onnxqat.bridge.ops.registry import Ints, Number, Outputs, Weight, op


@op("Gather", versions=(1, 11, 13), host=host.gather)
def gather(data: Weight, indices: Number, *, axis: int = 0) -> Tensor:
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


@op("Scatter", versions=(9, 11))
def scatter(data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0) -> Tensor:
    return scatter_elements(data, indices, updates, axis=axis)


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


@op("Compress", versions=(9, 11, 28))
def compress(input: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    kept = condition.nonzero().squeeze(1)
    return input.flatten()[kept] if axis is None else input.index_select(axis, kept)


@op("ReverseSequence", versions=(10, 28))
def reverse_sequence(
    input: Tensor, sequence_lens: Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> Tensor:
    x = input.movedim((batch_axis, time_axis), (0, 1))
    time = torch.arange(x.shape[1], device=x.device)
    last = sequence_lens.to(torch.int64).unsqueeze(1) - 1
    order = torch.where(time <= last, last - time, time)
    batch = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return x[batch, order].movedim((0, 1), (batch_axis, time_axis))


@op("Unique", versions=(11, 28))
def unique(
    X: Tensor, *, axis: int | None = None, sorted: int = 1, outputs: Outputs = 1
) -> Tensor | tuple[Tensor, ...]:
    x, dim = (X.flatten(), 0) if axis is None else (X, axis)
    Y, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=dim)
    place = torch.arange(x.shape[dim], device=x.device)
    first = place.new_full(counts.shape, x.shape[dim])
    first = first.scatter_reduce(0, inverse, place, "amin")
    if not sorted:
        order = first.argsort()
        Y, first, counts = Y.index_select(dim, order), first[order], counts[order]
        inverse = order.argsort()[inverse]
    return Y if outputs == 1 else (Y, first, inverse, counts)[:outputs]


@op("TopK", versions=(1,))
def top_k_by_attribute(X: Tensor, *, axis: int = -1, k: int, outputs: Outputs = 2) -> Any:
    return top_k(X, (k,), axis=axis, outputs=outputs)


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
