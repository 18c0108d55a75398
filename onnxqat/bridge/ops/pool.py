"""Pooling."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Ints, Outputs, op
from onnxqat.bridge.ops.window import (
    Sizes,
    begin_and_end,
    is_float,
    output_sizes,
    pad,
    stride_view,
)
from onnxqat.core.errors import ModelError

_MAX: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


class _Windows:
    """The windows of one pooling call, with every default filled in."""

    def __init__(
        self,
        X: Tensor,
        kernel: Sizes,
        *,
        auto_pad: str,
        pads: Sizes | None,
        strides: Sizes | None,
        dilations: Sizes | None,
        ceil_mode: int,
    ) -> None:
        rank = len(kernel)
        self.kernel = kernel
        self.size = tuple(X.shape[2:])
        self.strides = strides or (1,) * rank
        self.dilations = dilations or (1,) * rank
        self.before, self.after = begin_and_end(
            auto_pad,
            pads,
            size=self.size,
            kernel=kernel,
            strides=self.strides,
            dilations=self.dilations,
        )
        self.ceil_mode = bool(ceil_mode) and auto_pad == "NOTSET"
        self.counts = self._counts(self.ceil_mode)
        is_dilated = any(d != 1 for d in self.dilations)
        if (auto_pad.startswith("SAME") and is_dilated) or (
            auto_pad == "VALID" and ceil_mode and self.counts != self._counts(True)
        ):
            raise ModelError(
                f"a pool with auto_pad {auto_pad} and dilations or ceil_mode: the output shapes "
                "differ between ONNX and its runtimes",
                fix="write the pads out",
            )

    def _counts(self, ceil_mode: bool) -> list[int]:
        return output_sizes(
            size=self.size,
            kernel=self.kernel,
            strides=self.strides,
            dilations=self.dilations,
            pads=(self.before, self.after),
            ceil_mode=ceil_mode,
        )

    @property
    def is_native(self) -> bool:
        """Whether torch's kernels have these windows: symmetric pads of at most half a window."""
        return self.before == self.after and all(
            2 * p <= k for p, k in zip(self.before, self.kernel, strict=True)
        )

    @property
    def overhang(self) -> Sizes:
        """Cells after the padded end that the last windows reach into (negative: not reached)."""
        return tuple(
            (c - 1) * s + (k - 1) * d + 1 - (n + b + a)
            for c, s, k, d, n, b, a in zip(
                self.counts,
                self.strides,
                self.kernel,
                self.dilations,
                self.size,
                self.before,
                self.after,
                strict=True,
            )
        )

    def of(self, x: Tensor, value: float) -> Tensor:
        """The windows [N, C, *counts, *kernel] of `x` padded by `value`."""
        reach = tuple(a + max(o, 0) for a, o in zip(self.after, self.overhang, strict=True))
        return stride_view(
            pad(x, self.before, reach, value),
            kernel=self.kernel,
            strides=self.strides,
            dilations=self.dilations,
            counts=self.counts,
        )

    @property
    def axes(self) -> list[int]:
        """The axes of one window in what `of` returns."""
        return list(range(-len(self.kernel), 0))


@op("MaxPool", versions=(1, 8, 10, 11, 12, 22))
def max_pool(
    X: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sizes | None = None,
    kernel_shape: Sizes,
    pads: Sizes | None = None,
    storage_order: int = 0,
    strides: Sizes | None = None,
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    windows = _Windows(
        X,
        kernel_shape,
        auto_pad=auto_pad,
        pads=pads,
        strides=strides,
        dilations=dilations,
        ceil_mode=ceil_mode,
    )
    if outputs == 1 and is_float(X):
        return _fast_max_pool(X, windows)
    lowest = float("-inf") if X.is_floating_point() else torch.iinfo(X.dtype).min
    cells = windows.of(X, lowest).flatten(-len(kernel_shape))
    values, winner = cells.max(-1)
    if outputs == 1:
        return values
    return values, _winner_index(X, windows, winner, column_major=bool(storage_order))


def _fast_max_pool(X: Tensor, w: _Windows) -> Tensor:
    run = _MAX[len(w.kernel)]
    if w.is_native and not w.ceil_mode:
        return run(X, w.kernel, w.strides, w.before, w.dilations)
    reach = tuple(a + o for a, o in zip(w.after, w.overhang, strict=True))
    padded = pad(X, w.before, reach, float("-inf"))
    return run(padded, w.kernel, w.strides, 0, w.dilations)


def _winner_index(X: Tensor, w: _Windows, winner: Tensor, *, column_major: bool) -> Tensor:
    """Index of each window's maximum in the whole flattened input, as ONNX counts it."""
    sizes = w.size[::-1] if column_major else w.size
    steps = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
    steps = steps[::-1] if column_major else steps
    index = torch.zeros_like(winner)
    for axis in reversed(range(len(w.kernel))):
        offset = (winner % w.kernel[axis]) * w.dilations[axis] - w.before[axis]
        winner = winner // w.kernel[axis]
        start = torch.arange(w.counts[axis], device=X.device) * w.strides[axis]
        shape = [1] * X.ndim
        shape[axis + 2] = -1
        index = index + (offset + start.reshape(shape)) * steps[axis]
    planes = torch.arange(X.shape[0] * X.shape[1], device=X.device) * prod(w.size)
    return index + planes.reshape(X.shape[0], X.shape[1], *[1] * len(w.kernel))


@op("MaxUnpool", versions=(9, 11, 22))
def max_unpool(
    X: Tensor,
    I: Tensor,  # noqa: E741 - the schema's name
    output_shape: Ints | None = None,
    *,
    kernel_shape: Sizes,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    rank = len(kernel_shape)
    strides, pads = strides or (1,) * rank, pads or (0,) * (2 * rank)
    own = [
        (n - 1) * s - before - after + k
        for n, s, before, after, k in zip(
            X.shape[2:], strides, pads[:rank], pads[rank:], kernel_shape, strict=True
        )
    ]
    if output_shape and tuple(output_shape[2:]) != tuple(own):
        raise ModelError(
            f"MaxUnpool to {output_shape[2:]} where the windows give {tuple(own)}: which cells the "
            "indices count differs between ONNX and its runtimes",
            fix="leave output_shape out, and Pad what comes out",
        )
    flat = X.new_zeros(X.shape[0] * X.shape[1] * prod(own))
    return flat.scatter(0, I.flatten(), X.flatten()).reshape(*X.shape[:2], *own)


@op("AveragePool", versions=(1, 7, 10, 11, 19, 22))
def average_pool(
    X: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sizes | None = None,
    kernel_shape: Sizes,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    w = _Windows(
        X,
        kernel_shape,
        auto_pad=auto_pad,
        pads=pads,
        strides=strides,
        dilations=dilations,
        ceil_mode=ceil_mode,
    )
    dense = all(d == 1 for d in w.dilations)
    if dense and w.is_native and not w.ceil_mode:
        run = _AVERAGE[len(kernel_shape)]
        return run(X, w.kernel, w.strides, w.before, False, bool(count_include_pad))
    inside = torch.ones((1, 1, *w.size), dtype=X.dtype, device=X.device)
    if count_include_pad:  # cells past the padded end, which ceil_mode reaches, never count
        inside = pad(inside, w.before, w.after, 1.0)
        reach = tuple(max(o, 0) for o in w.overhang)
        counted = stride_view(
            pad(inside, (0,) * len(reach), reach),
            kernel=w.kernel,
            strides=w.strides,
            dilations=w.dilations,
            counts=w.counts,
        )
    else:
        counted = w.of(inside, 0.0)
    return w.of(X, 0.0).sum(w.axes) / counted.sum(w.axes)


@op("LpPool", versions=(2, 11, 18, 22))
def lp_pool(
    X: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sizes | None = None,
    kernel_shape: Sizes,
    p: int = 2,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    w = _Windows(
        X,
        kernel_shape,
        auto_pad=auto_pad,
        pads=pads,
        strides=strides,
        dilations=dilations,
        ceil_mode=ceil_mode,
    )
    return w.of(X.abs() ** p, 0.0).sum(w.axes) ** (1.0 / p)


@op("GlobalAveragePool", versions=(1, 22))
def global_average_pool(X: Tensor) -> Tensor:
    return X.mean(_spatial(X), keepdim=True)


@op("GlobalMaxPool", versions=(1, 22))
def global_max_pool(X: Tensor) -> Tensor:
    return X.amax(_spatial(X), keepdim=True)


@op("GlobalLpPool", versions=(2, 22))
def global_lp_pool(X: Tensor, *, p: int = 2) -> Tensor:
    return (X.abs() ** p).sum(_spatial(X), keepdim=True) ** (1.0 / p)


def _spatial(X: Tensor) -> tuple[int, ...]:
    return tuple(range(2, X.ndim))
