"""Resize and Upsample, one axis at a time.

Source: https://onnx.ai/onnx/operators/onnx__Resize.html. Coordinates are computed in float32, as
ONNX Runtime and ONNX's reference do, because nearest neighbours hang on their last bit.
"""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Floats, Ints, op
from onnxqat.core.errors import ModelError

Axes = tuple[int, ...]


@dataclass(frozen=True)
class _Axis:
    """One axis that is resized: `scale` = new length / old length, as the file states it."""

    index: int
    length: int
    resized: int
    scale: float
    roi: tuple[float, float]

    def coordinates(self, device: torch.device) -> Tensor:
        return torch.arange(self.resized, dtype=torch.float32, device=device)

    def tensor(self, value: float, device: torch.device) -> Tensor:
        return torch.full((), value, dtype=torch.float32, device=device)


def _half_pixel(x: Tensor, a: _Axis) -> Tensor:
    return (x + 0.5) / a.tensor(a.scale, x.device) - 0.5


def _half_pixel_symmetric(x: Tensor, a: _Axis) -> Tensor:
    adjustment = a.tensor(a.resized, x.device) / (a.tensor(a.scale, x.device) * a.length)
    offset = (1 - adjustment) * (a.length / 2)
    return offset + (x + 0.5) / a.tensor(a.scale, x.device) - 0.5


def _pytorch_half_pixel(x: Tensor, a: _Axis) -> Tensor:
    return _half_pixel(x, a) if a.resized > 1 else torch.zeros_like(x)


def _align_corners(x: Tensor, a: _Axis) -> Tensor:
    return x * (a.length - 1) / max(a.resized - 1, 1)


def _asymmetric(x: Tensor, a: _Axis) -> Tensor:
    return x / a.tensor(a.scale, x.device)


def _tf_half_pixel_for_nn(x: Tensor, a: _Axis) -> Tensor:
    return (x + 0.5) / a.tensor(a.scale, x.device)


def _tf_crop_and_resize(x: Tensor, a: _Axis) -> Tensor:
    start, end = a.roi
    if a.resized == 1:
        return torch.full_like(x, 0.5 * (start + end) * (a.length - 1))
    return start * (a.length - 1) + x * (end - start) * (a.length - 1) / (a.resized - 1)


_COORDINATES: dict[str, Callable[[Tensor, _Axis], Tensor]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_half_pixel_for_nn": _tf_half_pixel_for_nn,
    "tf_crop_and_resize": _tf_crop_and_resize,
}

_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    # Not by adding 0.5, which rounds 3.4999998 up to 4
    "round_prefer_floor": lambda x: torch.floor(x) + (x - torch.floor(x) > 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x) + (x - torch.floor(x) >= 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@dataclass(frozen=True)
class _Method:
    """How values between samples are found; the attributes of Resize."""

    mode: str
    coordinates: str
    nearest: str
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    extrapolation_value: float = 0.0
    antialias: bool = False


def _resize(X: Tensor, axes: list[_Axis], method: _Method) -> Tensor:
    fast = _native(X, axes, method)
    if fast is not None:
        return fast
    y = X
    for axis in axes:
        stays = axis.resized == axis.length and axis.scale == 1
        if not stays or method.coordinates == "tf_crop_and_resize":
            y = _resize_axis(y, axis, method)
    return y if method.coordinates != "tf_crop_and_resize" else _extrapolate(y, axes, method)


def _native(X: Tensor, axes: list[_Axis], method: _Method) -> Tensor | None:
    """torch's own kernel, where it computes the same: whole factors over two spatial axes."""
    spatial = {a.index: a for a in axes if a.resized != a.length or a.index > 1}
    if X.ndim != 4 or set(spatial) != {2, 3} or not X.is_floating_point() or method.antialias:
        return None
    if any(a.resized % a.length or a.scale != a.resized / a.length for a in spatial.values()):
        return None
    size = [spatial[i].resized for i in (2, 3)]
    if method.mode == "nearest" and (method.coordinates, method.nearest) == ("asymmetric", "floor"):
        return functional.interpolate(X, size, mode="nearest")
    if method.mode == "linear" and not method.exclude_outside:
        if method.coordinates == "align_corners":
            return functional.interpolate(X, size, mode="bilinear", align_corners=True)
        if method.coordinates in ("half_pixel", "half_pixel_symmetric"):
            return functional.interpolate(X, size, mode="bilinear", align_corners=False)
    return None


def _resize_axis(X: Tensor, axis: _Axis, method: _Method) -> Tensor:
    x = _COORDINATES[method.coordinates](axis.coordinates(X.device), axis)
    if method.mode == "nearest":
        index = _nearest(method, axis)(x).clamp(0, axis.length - 1).to(torch.int64)
        return X.index_select(axis.index, index)
    taps, weights = _taps(x, method, axis.scale)
    if method.exclude_outside:
        weights = weights * ((taps >= 0) & (taps <= axis.length - 1))
        weights = weights / weights.sum(0)
    index = taps.clamp(0, axis.length - 1).to(torch.int64)
    shape = [1] * X.ndim
    shape[axis.index] = -1
    parts = [
        X.index_select(axis.index, i) * w.to(X.dtype).reshape(shape)
        for i, w in zip(index, weights, strict=True)
    ]
    return torch.stack(parts).sum(0) if len(parts) > 2 else parts[0] + parts[1]


def _nearest(method: _Method, axis: _Axis) -> Callable[[Tensor], Tensor]:
    if method.nearest == "simple":  # Resize 10 states none; ONNX Runtime's choice
        return torch.ceil if axis.scale < 1 else torch.floor
    return _NEAREST[method.nearest]


def _taps(x: Tensor, method: _Method, scale: float) -> tuple[Tensor, Tensor]:
    """Positions of the samples that count for each coordinate [taps, n], and their weights.

    Against aliasing, the kernel is stretched over the samples that go into one.
    """
    stretch = min(scale, 1.0) if method.antialias else 1.0
    reach = ceil((1 if method.mode == "linear" else 2) / stretch)
    base = torch.floor(x)
    steps = torch.arange(1 - reach, reach + 1, dtype=x.dtype, device=x.device).unsqueeze(1)
    distance = (steps - (x - base)).abs() * stretch
    if method.mode == "linear":
        weights = (1 - distance).clamp(min=0)
    else:
        weights = _keys(distance, method.cubic_coeff_a)
    return base + steps, weights / weights.sum(0) if method.antialias else weights


def _keys(distance: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel of Keys 1981."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def _extrapolate(y: Tensor, axes: list[_Axis], method: _Method) -> Tensor:
    """Fill what lies outside the input with the extrapolation value."""
    for axis in axes:
        x = _COORDINATES[method.coordinates](axis.coordinates(y.device), axis)
        outside = (x < 0) | (x > axis.length - 1)
        shape = [1] * y.ndim
        shape[axis.index] = -1
        y = y.masked_fill(outside.reshape(shape), method.extrapolation_value)
    return y


def _scaled(length: int, scale: float) -> int:
    """The new length; in float32, where 5 × 1.4 is 7 and not a little less."""
    return int(np.float32(length) * np.float32(scale))


def _by_scales(X: Tensor, scales: tuple[float, ...]) -> list[_Axis]:
    return [
        _Axis(i, n, _scaled(n, s), s, (0.0, 1.0))
        for i, (n, s) in enumerate(zip(X.shape, scales, strict=True))
    ]


@op("Upsample", versions=(7,))
def upsample_by_attribute(X: Tensor, *, mode: str = "nearest", scales: tuple[float, ...]) -> Tensor:
    return _resize(X, _by_scales(X, scales), _Method(mode, "asymmetric", "simple"))


@op("Upsample", versions=(9, 10))
def upsample(X: Tensor, scales: Floats, *, mode: str = "nearest") -> Tensor:
    return _resize(X, _by_scales(X, scales), _Method(mode, "asymmetric", "simple"))


@op("Resize", versions=(10,))
def resize_10(X: Tensor, scales: Floats, *, mode: str = "nearest") -> Tensor:
    return _resize(X, _by_scales(X, scales), _Method(mode, "asymmetric", "simple"))


@op("Resize", versions=(11, 13, 18, 19))
def resize(
    X: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: Axes | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    which = tuple(range(X.ndim)) if axes is None else tuple(a % X.ndim for a in axes)
    method = _Method(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        extrapolation_value,
        bool(antialias),
    )
    lengths = tuple(X.shape[a] for a in which)
    resized, factors = _lengths(lengths, scales, sizes, policy=keep_aspect_ratio_policy)
    roi = roi or (0.0,) * len(which) + (1.0,) * len(which)
    roi_pairs = zip(roi[: len(which)], roi[len(which) :], strict=True)
    return _resize(X, list(map(_Axis, which, lengths, resized, factors, roi_pairs)), method)


def _lengths(
    lengths: Axes, scales: tuple[float, ...] | None, sizes: Axes | None, *, policy: str
) -> tuple[Axes, tuple[float, ...]]:
    """New lengths and the scale of each axis."""
    if not sizes:
        if not scales:
            raise ModelError("Resize has neither scales nor sizes")
        return tuple(map(_scaled, lengths, scales)), scales
    ratios = tuple(s / n for s, n in zip(sizes, lengths, strict=True))
    if policy == "stretch":
        return sizes, ratios
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return tuple(int(n * ratio + 0.5) for n in lengths), (ratio,) * len(lengths)
