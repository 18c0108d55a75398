"""Activation functions."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Weight, op
from onnxqat.core.errors import ModelError


@op("Relu", versions=(6, 13, 14))
def relu(X: Tensor) -> Tensor:
    return torch.relu(X)


@op("Sigmoid", versions=(6, 13))
def sigmoid(X: Tensor) -> Tensor:
    return X.sigmoid()


@op("Tanh", versions=(6, 13))
def tanh(input: Tensor) -> Tensor:
    return input.tanh()


@op("LeakyRelu", versions=(6, 16))
def leaky_relu(X: Tensor, *, alpha: float = 0.01) -> Tensor:
    return functional.leaky_relu(X, alpha)


@op("PRelu", versions=(7, 9, 16))
def prelu(X: Tensor, slope: Weight) -> Tensor:
    return torch.where(X < 0, X * slope, X)


@op("Elu", versions=(6, 22))
def elu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.elu(X, alpha)


@op("Celu", versions=(12, 28))
def celu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.celu(X, alpha)


@op("Selu", versions=(6, 22))
def selu(
    X: Tensor, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323
) -> Tensor:
    return torch.where(X > 0, gamma * X, gamma * alpha * torch.expm1(X))


@op("Softplus", versions=(1, 22))
def softplus(X: Tensor) -> Tensor:
    return functional.softplus(X)


@op("Softsign", versions=(1, 22))
def softsign(input: Tensor) -> Tensor:
    return functional.softsign(input)


@op("HardSigmoid", versions=(6, 22))
def hard_sigmoid(X: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * X + beta).clamp(0, 1)


@op("HardSwish", versions=(14, 22))
def hard_swish(X: Tensor) -> Tensor:
    return functional.hardswish(X)


@op("Gelu", versions=(20,))
def gelu(X: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(X, approximate=approximate)


@op("Mish", versions=(18, 22))
def mish(X: Tensor) -> Tensor:
    return functional.mish(X)


@op("Swish", versions=(24,))
def swish(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    return X * torch.sigmoid(alpha * X)


@op("SwiGLU", versions=(28,))
def swiglu(A: Tensor, B: Tensor, *, alpha: float = 1.0) -> Tensor:
    if A.shape != B.shape:
        raise ModelError("SwiGLU does not broadcast its inputs")
    return swish(A, alpha=alpha) * B


@op("ThresholdedRelu", versions=(10, 22))
def thresholded_relu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(alpha < X, X, torch.zeros_like(X))


@op("Shrink", versions=(9,))
def shrink(input: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    inner = torch.where(input > lambd, input - bias, torch.zeros_like(input))
    return torch.where(input < -lambd, input + bias, inner)


@op("Softmax", versions=(13,))
def softmax(input: Tensor, *, axis: int = -1) -> Tensor:
    return input.softmax(axis)


@op("Softmax", versions=(1, 11))
def softmax_of_matrix(input: Tensor, *, axis: int = 1) -> Tensor:
    return _as_matrix(input, axis).softmax(-1).reshape(input.shape)


@op("LogSoftmax", versions=(13,))
def log_softmax(input: Tensor, *, axis: int = -1) -> Tensor:
    return input.log_softmax(axis)


@op("LogSoftmax", versions=(1, 11))
def log_softmax_of_matrix(input: Tensor, *, axis: int = 1) -> Tensor:
    return _as_matrix(input, axis).log_softmax(-1).reshape(input.shape)


@op("Hardmax", versions=(13,))
def hardmax(input: Tensor, *, axis: int = -1) -> Tensor:
    first = input.argmax(axis, keepdim=True)
    return torch.zeros_like(input).scatter_(axis, first, 1)


@op("Hardmax", versions=(1, 11))
def hardmax_of_matrix(input: Tensor, *, axis: int = 1) -> Tensor:
    return hardmax(_as_matrix(input, axis)).reshape(input.shape)


def _as_matrix(x: Tensor, axis: int) -> Tensor:
    """Before opset 13 everything from `axis` on is one axis.

    `x.flatten(axis)` keeps the axes before it apart, which the functions over the last axis allow.
    """
    return x.unsqueeze(-1) if axis == x.ndim else x.flatten(axis)
