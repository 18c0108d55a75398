"""What `fuse` puts in the place of several ONNX nodes: the torch kernel that does all of them."""

# ruff: noqa: D103 - each says which nodes it stands for in `fuse`
from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Weight, op

DOMAIN = "onnxqat"
"""Of these operators; no file has them."""


@op("Linear", domain=DOMAIN, versions=(1,))
def linear(A: Weight, B: Weight, C: Weight) -> Tensor:
    """A @ B + C, in one kernel where C has one number for each column of B."""
    if B.ndim == 2 and C.ndim == 1 and A.ndim >= 2 and C.shape[0] == B.shape[1]:
        return functional.linear(A, B.t(), C)
    return A @ B + C


@op("Gelu", domain=DOMAIN, versions=(1,))
def gelu(X: Tensor, *, approximate: str) -> Tensor:
    return functional.gelu(X, approximate=approximate)


@op("LayerNormalization", domain=DOMAIN, versions=(1,))
def layer_normalization(X: Tensor, Scale: Weight, B: Weight, *, epsilon: float) -> Tensor:
    """Over the last axis, which the scale may also stretch if it has one element."""
    if X.shape[-1:] == Scale.shape:
        return functional.layer_norm(X, Scale.shape, Scale, B, epsilon)
    return functional.layer_norm(X, X.shape[-1:], None, None, epsilon) * Scale + B
