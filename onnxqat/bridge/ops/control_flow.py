"""Operators that run a subgraph."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from onnxqat.bridge.ops.registry import Outputs, Scalar, op

Body = Callable[..., tuple[Any, ...]]


@op("If", versions=(1, 11, 13, 16, 19, 21, 23, 24, 25))
def if_(cond: Scalar, *, else_branch: Body, then_branch: Body, outputs: Outputs = 1) -> Any:
    chosen = bool(cond.item() if isinstance(cond, Tensor) else cond)
    results = (then_branch if chosen else else_branch)()
    return results if outputs > 1 else results[0]
