"""Padding in all its modes."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Ints, Scalar, op
from onnxqat.core.errors import ModelError

Axes = tuple[int, ...]


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
