"""Matrix products."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Weight, op


@op("MatMul", versions=(1, 9, 13))
def matmul(A: Weight, B: Weight) -> Tensor:
    return torch.matmul(A, B)


@op("Gemm", versions=(7, 9, 11, 13))
def gemm(
    A: Weight,
    B: Weight,
    C: Weight | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    left = A.t() if transA else A
    right = B if transB else B.t()
    if alpha == 1.0 and (C is None or (beta == 1.0 and C.ndim == 1 and len(C) == len(right))):
        return functional.linear(left, right, C)
    product = functional.linear(left, right) * alpha
    if not A.is_floating_point():
        product = product.to(A.dtype)
    return product if C is None else product + (C if beta == 1.0 else (C * beta).to(C.dtype))


@op("Einsum", versions=(12, 28))
def einsum(*Inputs: Weight, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *Inputs)


@op("Det", versions=(11, 22))
def det(X: Tensor) -> Tensor:
    return torch.det(X)
