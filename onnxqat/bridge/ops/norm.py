"""Normalization."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Outputs, Weight, op
from onnxqat.core.errors import ModelError


@op("BatchNormalization", versions=(7, 9))
def batch_normalization_7(
    X: Tensor,
    scale: Weight,
    B: Weight,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    outputs: Outputs = 1,
) -> Tensor:
    if outputs > 1 or not spatial:
        raise ModelError(
            "BatchNormalization with statistics as outputs, or not spatial, is not for inference",
            fix="export the model for inference",
        )
    return _normalized(X, scale, B, mean, var, epsilon=epsilon)


@op("BatchNormalization", versions=(14, 15))
def batch_normalization(
    X: Tensor,
    scale: Weight,
    B: Weight,
    input_mean: Tensor,
    input_var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, ...]:
    if not training_mode:
        return _normalized(X, scale, B, input_mean, input_var, epsilon=epsilon)
    axes = [0, *range(2, X.ndim)]
    variance, mean = torch.var_mean(X, axes, correction=0)
    y = _normalized(X, scale, B, mean, variance, epsilon=epsilon)
    running_mean = input_mean * momentum + mean * (1 - momentum)
    running_var = input_var * momentum + variance * (1 - momentum)
    return y if outputs == 1 else (y, running_mean, running_var)[:outputs]


def _normalized(
    X: Tensor, scale: Tensor, B: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float
) -> Tensor:
    if not (mean.requires_grad or variance.requires_grad):
        return functional.batch_norm(X, mean, variance, scale, B, False, 0.0, epsilon)
    shape = (1, -1, *(1,) * (X.ndim - 2))  # torch has no gradient to running statistics
    factor = scale * torch.rsqrt(variance + epsilon)
    return (X - mean.reshape(shape)) * factor.reshape(shape) + B.reshape(shape)


@op("InstanceNormalization", versions=(6, 22))
def instance_normalization(
    input: Tensor, scale: Weight, B: Weight, *, epsilon: float = 1e-5
) -> Tensor:
    axes = tuple(range(2, input.ndim))
    shape = (1, -1, *(1,) * len(axes))
    variance, mean = torch.var_mean(input, axes, correction=0, keepdim=True)
    y = (input - mean) / torch.sqrt(variance + epsilon)
    return y * scale.reshape(shape) + B.reshape(shape)


@op("LayerNormalization", versions=(17,))
def layer_normalization(
    X: Tensor,
    Scale: Weight,
    B: Weight | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, ...]:
    first = axis % X.ndim
    shape = X.shape[first:]
    if outputs == 1 and Scale.shape == shape and (B is None or B.shape == shape):
        return functional.layer_norm(X, shape, Scale, B, epsilon)
    axes = tuple(range(first, X.ndim))
    wide = X.float() if stash_type == 1 and X.dtype in (torch.float16, torch.bfloat16) else X
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    y = ((wide - mean) * inverse).to(X.dtype) * Scale
    y = y if B is None else y + B
    return y if outputs == 1 else (y, mean, inverse)[:outputs]


@op("RMSNormalization", versions=(23,))
def rms_normalization(
    X: Tensor, scale: Weight, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    axes = tuple(range(axis % X.ndim, X.ndim))
    wide = X.float() if stash_type == 1 and X.dtype in (torch.float16, torch.bfloat16) else X
    inverse = torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)
    return (wide * inverse).to(X.dtype) * scale


@op("GroupNormalization", versions=(21,))
def group_normalization(
    X: Tensor,
    scale: Weight,
    bias: Weight,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: int = 1,
) -> Tensor:
    return functional.group_norm(X, num_groups, scale, bias, epsilon)


@op("GroupNormalization", versions=(18,))
def group_normalization_18(
    X: Tensor, scale: Weight, bias: Weight, *, epsilon: float = 1e-5, num_groups: int
) -> Tensor:
    per_group = X.shape[1] // num_groups  # scale and bias are one a group here
    return functional.group_norm(
        X,
        num_groups,
        scale.repeat_interleave(per_group),
        bias.repeat_interleave(per_group),
        epsilon,
    )


@op("LRN", versions=(1, 13))
def lrn(
    X: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int
) -> Tensor:
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = X.square().movedim(1, -1)
    total = functional.pad(squares, (before, after)).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return X / (bias + alpha / size * total) ** beta


@op("MeanVarianceNormalization", versions=(9, 13))
def mean_variance_normalization(X: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    centred = X - X.mean(tuple(axes), keepdim=True)
    deviation = centred.square().mean(tuple(axes), keepdim=True).sqrt()
    return centred / (deviation + 1e-9)  # the epsilon of ONNX's own function body


@op("LpNormalization", versions=(1, 22))
def lp_normalization(input: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = input.norm(p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(input), input / norm)
