"""Operators as they were before opset 7, when an attribute said how to broadcast.

PyTorch's first exporters wrote opset 6.
"""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from onnxqat.bridge.ops import elementwise
from onnxqat.bridge.ops.matmul import gemm
from onnxqat.bridge.ops.norm import batch_normalization_7
from onnxqat.bridge.ops.registry import Operand, Outputs, Weight, op
from onnxqat.core.errors import ModelError


def _register(name: str, version: int, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """An operator of two tensors whose second one fits the axes of the first from `axis` on."""

    def by_axis(A: Operand, B: Operand, *, axis: int | None = None, broadcast: int = 0) -> Tensor:
        return function(A, _from_axis(B, A.ndim, axis) if broadcast else B)

    op(name, versions=(version,))(by_axis)


def _from_axis(x: Tensor, rank: int, axis: int | None) -> Tensor:
    after = 0 if axis is None else rank - axis % rank - x.ndim
    return x.reshape((*x.shape, *(1,) * after))


_register("Add", 6, elementwise.add)
_register("Sub", 6, elementwise.sub)
_register("Mul", 6, elementwise.mul)
_register("Div", 6, elementwise.div)


@op("Pow", versions=(1,))
def pow_by_axis(X: Tensor, Y: Tensor, *, axis: int | None = None, broadcast: int = 0) -> Tensor:
    return elementwise.pow_(X, _from_axis(Y, X.ndim, axis) if broadcast else Y)


@op("Gemm", versions=(6,))
def gemm_6(
    A: Weight,
    B: Weight,
    C: Weight,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    broadcast: int = 0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    return gemm(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)


@op("PRelu", versions=(6,))
def prelu_of_channels(X: Tensor, slope: Weight) -> Tensor:
    if slope.numel() > 1:
        slope = slope.reshape(-1, *(1,) * (X.ndim - 2))
    return X.clamp(min=0) + slope * X.clamp(max=0)


@op("BatchNormalization", versions=(6,))
def batch_normalization_6(
    X: Tensor,
    scale: Weight,
    B: Weight,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    is_test: int = 0,
    momentum: float = 0.9,
    spatial: int = 1,
    outputs: Outputs = 1,
) -> Tensor:
    if not is_test:
        raise ModelError(
            "BatchNormalization without is_test is a training graph",
            fix="export the model for inference",
        )
    return batch_normalization_7(
        X, scale, B, mean, var, epsilon=epsilon, spatial=spatial, outputs=outputs
    )
