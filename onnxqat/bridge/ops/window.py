"""Where the windows of convolutions and pools lie: pads, strides, dilations, auto_pad.

Source: https://onnx.ai/onnx/operators/onnx__Conv.html and onnx__AveragePool.html
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import torch
from torch import Tensor
from torch.nn import functional

Sizes = tuple[int, ...]


def begin_and_end(
    auto_pad: str,
    pads: Sizes | None,
    *,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sizes,
    dilations: Sizes,
) -> tuple[Sizes, Sizes]:
    """Pads before and after each spatial axis."""
    rank = len(kernel)
    if auto_pad == "NOTSET":
        pads = pads or (0,) * (2 * rank)
        return pads[:rank], pads[rank:]
    if auto_pad == "VALID":
        return (0,) * rank, (0,) * rank
    total = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    small = tuple(t // 2 for t in total)
    large = tuple(t - t // 2 for t in total)
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def output_sizes(
    *,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sizes,
    dilations: Sizes,
    pads: tuple[Sizes, Sizes],
    ceil_mode: bool,
) -> list[int]:
    """Windows along each axis; with `ceil_mode` none that starts in the padding after the end."""
    counts = []
    for n, k, s, d, before, after in zip(size, kernel, strides, dilations, *pads, strict=True):
        span = (n + before + after - d * (k - 1) - 1) / s
        count = (ceil(span) if ceil_mode else floor(span)) + 1
        if ceil_mode and (count - 1) * s >= n + before:
            count -= 1
        counts.append(count)
    return counts


def pad(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the trailing axes by a constant."""
    widths = [w for pair in zip(reversed(before), reversed(after), strict=True) for w in pair]
    return functional.pad(x, widths, value=value) if any(widths) else x


def stride_view(
    x: Tensor, *, kernel: Sequence[int], strides: Sizes, dilations: Sizes, counts: Sequence[int]
) -> Tensor:
    """The windows as a view [N, C, *counts, *kernel] of a padded tensor [N, C, *size]."""
    for axis, (k, s, d, count) in enumerate(
        zip(kernel, strides, dilations, counts, strict=True), start=2
    ):
        span = d * (k - 1) + 1
        windows = x.unfold(axis, span, s).narrow(axis, 0, count)
        x = windows[..., ::d]
    return x


def is_float(x: Tensor) -> bool:
    """Whether torch's own pooling kernels take this tensor."""
    return x.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
