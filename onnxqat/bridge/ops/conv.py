"""Convolutions."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Ints, Outputs, Weight, op
from onnxqat.bridge.ops.window import Sizes, begin_and_end, pad
from onnxqat.core.errors import ModelError

_CONV: dict[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@op("Conv", versions=(1, 11, 22))
def conv(
    X: Tensor,
    W: Weight,
    B: Weight | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sizes | None = None,
    group: int = 1,
    kernel_shape: Sizes | None = None,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    rank = W.ndim - 2
    strides = strides or (1,) * rank
    dilations = dilations or (1,) * rank
    before, after = begin_and_end(
        auto_pad, pads, size=X.shape[2:], kernel=W.shape[2:], strides=strides, dilations=dilations
    )
    if before != after:  # torch pads symmetrically
        X, before = pad(X, before, after), (0,) * rank
    return _CONV[rank](X, W, B, strides, before, dilations, group)


@op("ConvTranspose", versions=(1, 11, 22))
def conv_transpose(
    X: Tensor,
    W: Weight,
    B: Weight | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sizes | None = None,
    group: int = 1,
    kernel_shape: Sizes | None = None,
    output_padding: Sizes | None = None,
    output_shape: Sizes | None = None,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    rank = W.ndim - 2
    strides = strides or (1,) * rank
    dilations = dilations or (1,) * rank
    extra = output_padding or (0,) * rank
    before, after = _crop(
        auto_pad,
        pads,
        output_shape,
        size=X.shape[2:],
        kernel=W.shape[2:],
        strides=strides,
        dilations=dilations,
        extra=extra,
    )
    run = _CONV_TRANSPOSE[rank]
    fits = all(e < s and b >= 0 for e, s, b in zip(extra, strides, before, strict=True))
    if before == after and fits:
        return run(X, W, B, strides, before, extra, group, dilations)
    full = run(X, W, None, strides, 0, 0, group, dilations)
    grow = tuple(e - a for e, a in zip(extra, after, strict=True))
    y = pad(full, tuple(-b for b in before), grow)
    return y if B is None else y + B.reshape(-1, *(1,) * rank)


def _crop(
    auto_pad: str,
    pads: Sizes | None,
    output_shape: Sizes | None,
    *,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sizes,
    dilations: Sizes,
    extra: Sizes,
) -> tuple[Sizes, Sizes]:
    """What to cut from the full output before and after each axis (negative: what to add)."""
    rank = len(kernel)
    if output_shape is None and auto_pad in ("NOTSET", "VALID"):
        pads = pads or (0,) * (2 * rank)
        return pads[:rank], pads[rank:]
    wanted = output_shape or tuple(n * s for n, s in zip(size, strides, strict=True))
    total = [
        s * (n - 1) + e + (k - 1) * d + 1 - w
        for n, k, s, d, e, w in zip(
            size, kernel, strides, dilations, extra, wanted[-rank:], strict=True
        )
    ]
    if output_shape is None and min(total) < 0:
        raise ModelError(
            f"auto_pad {auto_pad} with strides longer than the kernel: the output shapes differ "
            "between ONNX and its runtimes",
            fix="write the pads out",
        )
    half = tuple(t // 2 for t in total)
    rest = tuple(t - t // 2 for t in total)
    before, after = (half, rest) if auto_pad == "SAME_UPPER" else (rest, half)
    if min(before) < 0:
        raise ModelError(
            f"output_shape {wanted} is longer than what the strides reach: where the rest goes "
            "differs between ONNX and its runtimes",
            fix="write pads and output_padding out",
        )
    return before, after


@op("CausalConvWithState", versions=(27,))
def causal_conv_with_state(
    input: Tensor,
    weight: Weight,
    bias: Weight | None = None,
    past_state: Tensor | None = None,
    *,
    activation: str = "none",
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    reach = weight.shape[2] - 1
    if past_state is None:
        padded = functional.pad(input, (reach, 0))
    else:
        padded = torch.cat((past_state, input), 2)
    y = functional.conv1d(padded, weight, bias, groups=input.shape[1])
    y = y if activation == "none" else functional.silu(y)
    return y if outputs == 1 else (y, padded[:, :, padded.shape[2] - reach :])


@op("Col2Im", versions=(18,))
def col2im(
    input: Tensor,
    image_shape: Ints,
    block_shape: Ints,
    *,
    dilations: Sizes | None = None,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    """Sums of columns [batch, channels × block, places] where they lay in the image."""
    rank = len(image_shape)
    dilations, strides = dilations or (1,) * rank, strides or (1,) * rank
    pads = pads or (0,) * (2 * rank)
    before, after = pads[:rank], pads[rank:]
    padded = [n + b + a for n, b, a in zip(image_shape, before, after, strict=True)]
    place = torch.zeros((1, 1), dtype=torch.int64, device=input.device)
    for size, block, d, s in zip(padded, block_shape, dilations, strides, strict=True):
        start = torch.arange(0, size - (block - 1) * d, s, device=input.device)
        cell = torch.arange(block, device=input.device).unsqueeze(1) * d + start
        place = place[:, None, :, None] * size + cell[None, :, None, :]
        place = place.flatten(2).flatten(0, 1)
    columns = input.reshape(input.shape[0], -1, place.numel())
    flat = input.new_zeros(*columns.shape[:2], prod(padded))
    image = flat.index_add(2, place.flatten(), columns).reshape(*columns.shape[:2], *padded)
    return pad(image, tuple(-b for b in before), tuple(-a for a in after))
