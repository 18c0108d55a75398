"""Reductions; the axes are an attribute in old versions and an input in new ones."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxqat.bridge.ops import host
from onnxqat.bridge.ops.registry import Ints, op

Axes = tuple[int, ...]
Reduction = Callable[[Tensor, Axes, bool], Tensor]


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    return torch.div(_sum(x, axes, keep), _count(x, axes), rounding_mode="trunc")


def _max(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if _count(x, axes) == 0:
        return _sum(x, axes, keep).to(x.dtype).fill_(_lowest(x.dtype))
    return x.amax(axes, keep)


def _min(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if _count(x, axes) == 0:
        return _sum(x, axes, keep).to(x.dtype).fill_(_highest(x.dtype))
    return x.amin(axes, keep)


def _prod(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


def _l1(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _l2(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if not x.is_floating_point():
        return _sum_square(x, axes, keep).double().sqrt().to(x.dtype)
    norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keep)
    return norm


def _log_sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _sum(x, axes, keep).log().to(x.dtype)


def _log_sum_exp(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if not x.is_floating_point():
        return torch.logsumexp(x.double(), axes, keep).to(x.dtype)
    return torch.logsumexp(x, axes, keep)


def _sum_square(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


def _count(x: Tensor, axes: Axes) -> int:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return count


def _lowest(dtype: torch.dtype) -> float:
    if dtype == torch.bool:
        return False
    return float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float:
    if dtype == torch.bool:
        return True
    return float("inf") if dtype.is_floating_point else torch.iinfo(dtype).max


def _register(
    name: str, reduction: Reduction, *, by_attribute: Axes, by_input: Axes, fast: bool = False
) -> None:
    """Both forms of a reduction: the axes as an attribute, then as an input."""

    def attribute(data: Tensor, *, axes: Axes | None = None, keepdims: int = 1) -> Tensor:
        every = tuple(range(data.ndim))
        return reduction(data, axes or every, bool(keepdims)) if data.ndim else data_0d(data)

    def data_0d(data: Tensor) -> Tensor:
        return reduction(data.reshape(1), (0,), False)

    def input_(
        data: Tensor,
        axes: Ints | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        if not axes and noop_with_empty_axes:
            return _of_single_numbers(reduction, data)
        return attribute(data, axes=axes, keepdims=keepdims)

    op(name, versions=by_attribute, host=host.product if fast else None)(attribute)
    op(name, versions=by_input)(input_)


def _of_single_numbers(reduction: Reduction, data: Tensor) -> Tensor:
    """Reduction over no axes: each number on its own (since 18 ReduceL1 of −3 is then 3)."""
    return reduction(data.unsqueeze(-1), (-1,), False)


_register("ReduceSum", _sum, by_attribute=(1, 11), by_input=(13,))
_register("ReduceMean", _mean, by_attribute=(1, 11, 13), by_input=(18,))
_register("ReduceMax", _max, by_attribute=(1, 11, 12, 13), by_input=(18, 20))
_register("ReduceMin", _min, by_attribute=(1, 11, 12, 13), by_input=(18, 20))
_register("ReduceProd", _prod, by_attribute=(1, 11, 13), by_input=(18,), fast=True)
_register("ReduceL1", _l1, by_attribute=(1, 11, 13), by_input=(18,))
_register("ReduceL2", _l2, by_attribute=(1, 11, 13), by_input=(18,))
_register("ReduceLogSum", _log_sum, by_attribute=(1, 11, 13), by_input=(18, 28))
_register("ReduceLogSumExp", _log_sum_exp, by_attribute=(1, 11, 13), by_input=(18, 28))
_register("ReduceSumSquare", _sum_square, by_attribute=(1, 11, 13), by_input=(18,))


@op("ArgMax", versions=(1, 11, 12, 13))
def argmax(data: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmax, data, axis, keepdims=bool(keepdims), last=bool(select_last_index))


@op("ArgMin", versions=(1, 11, 12, 13))
def argmin(data: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmin, data, axis, keepdims=bool(keepdims), last=bool(select_last_index))


def _arg(
    search: Callable[..., Tensor], data: Tensor, axis: int, *, keepdims: bool, last: bool
) -> Tensor:
    if not last:
        return search(data, dim=axis, keepdim=keepdims)
    return data.shape[axis] - 1 - search(data.flip(axis), dim=axis, keepdim=keepdims)
