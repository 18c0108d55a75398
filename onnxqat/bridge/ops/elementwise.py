"""Arithmetic, comparisons, logic and the plain mathematical functions, element by element."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops import host
from onnxqat.bridge.ops.registry import Ints, Number, Operand, Scalar, op
from onnxqat.bridge.ops.unsigned import or_numpy
from onnxqat.bridge.ops.window import is_float


def _numpy_mod(a: Any, b: Any, *, fmod: int = 0) -> Any:
    return np.fmod(a, b) if fmod else np.mod(a, b)


def _numpy_max(*values: Any) -> Any:
    return reduce(np.maximum, values)


def _numpy_min(*values: Any) -> Any:
    return reduce(np.minimum, values)


@op("Add", versions=(7, 13, 14), host=host.elementwise(operator.add))
@or_numpy(np.add)
def add(A: Operand, B: Operand) -> Tensor:
    return A + B


@op("Sub", versions=(7, 13, 14), host=host.elementwise(operator.sub))
@or_numpy(np.subtract)
def sub(A: Operand, B: Operand) -> Tensor:
    return A - B


@op("Mul", versions=(7, 13, 14), host=host.elementwise(operator.mul))
@or_numpy(np.multiply)
def mul(A: Operand, B: Operand) -> Tensor:
    return A * B


@op("Div", versions=(7, 13, 14), host=host.elementwise(host.truncated_division))
@or_numpy(np.floor_divide)
def div(A: Operand, B: Operand) -> Tensor:
    if A.is_floating_point():
        return A / B
    return torch.div(A, B, rounding_mode="trunc")


@op("Pow", versions=(7, 12, 13, 15))
def pow_(X: Tensor, Y: Number) -> Tensor:
    return torch.pow(X, Y).to(X.dtype)


@op("Mod", versions=(10, 13, 28))
@or_numpy(_numpy_mod)
def mod(A: Tensor, B: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(A, B) if fmod else torch.remainder(A, B)


@op("Neg", versions=(6, 13), host=host.elementwise(operator.neg))
def neg(X: Tensor) -> Tensor:
    return -X


@op("Abs", versions=(6, 13), host=host.elementwise(abs))
@or_numpy(np.abs)
def abs_(X: Tensor) -> Tensor:
    return X.abs()


@op("Sqrt", versions=(6, 13))
def sqrt(X: Tensor) -> Tensor:
    return X.sqrt()


@op("Exp", versions=(6, 13))
def exp(input: Tensor) -> Tensor:
    return input.exp()


@op("Log", versions=(6, 13))
def log(input: Tensor) -> Tensor:
    return input.log()


@op("Reciprocal", versions=(6, 13))
def reciprocal(X: Tensor) -> Tensor:
    return X.reciprocal()


@op("Floor", versions=(6, 13))
def floor(X: Tensor) -> Tensor:
    return X.floor()


@op("Ceil", versions=(6, 13))
def ceil(X: Tensor) -> Tensor:
    return X.ceil()


@op("Round", versions=(11, 22))
def round_(X: Tensor) -> Tensor:
    return X.round()


@op("Sign", versions=(9, 13))
@or_numpy(np.sign)
def sign(input: Tensor) -> Tensor:
    signs = input.sign()
    return torch.where(input.isnan(), input, signs) if input.is_floating_point() else signs


@op("Erf", versions=(9, 13))
def erf(input: Tensor) -> Tensor:
    return input.erf()


@op("Sin", versions=(7, 22))
def sin(input: Tensor) -> Tensor:
    return input.sin()


@op("Cos", versions=(7, 22))
def cos(input: Tensor) -> Tensor:
    return input.cos()


@op("Tan", versions=(7, 22))
def tan(input: Tensor) -> Tensor:
    return input.tan()


@op("Asin", versions=(7, 22))
def asin(input: Tensor) -> Tensor:
    return input.asin()


@op("Acos", versions=(7, 22))
def acos(input: Tensor) -> Tensor:
    return input.acos()


@op("Atan", versions=(7, 22))
def atan(input: Tensor) -> Tensor:
    return input.atan()


@op("Sinh", versions=(9, 22))
def sinh(input: Tensor) -> Tensor:
    return input.sinh()


@op("Cosh", versions=(9, 22))
def cosh(input: Tensor) -> Tensor:
    return input.cosh()


@op("Asinh", versions=(9, 22))
def asinh(input: Tensor) -> Tensor:
    return input.asinh()


@op("Acosh", versions=(9, 22))
def acosh(input: Tensor) -> Tensor:
    return input.acosh()


@op("Atanh", versions=(9, 22))
def atanh(input: Tensor) -> Tensor:
    return input.atanh()


@op("IsNaN", versions=(9, 13, 20))
def is_nan(X: Tensor) -> Tensor:
    return X.isnan()


@op("IsInf", versions=(10, 20))
def is_inf(X: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.zeros_like(X, dtype=torch.bool)
    if detect_negative:
        found = found | X.isneginf()
    return found | X.isposinf() if detect_positive else found


@op("Equal", versions=(7, 11, 13, 19), host=host.elementwise(operator.eq))
@or_numpy(np.equal)
def equal(A: Tensor, B: Tensor) -> Tensor:
    same = A == B
    return same if isinstance(same, Tensor) else torch.from_numpy(np.asarray(same))  # strings


@op("Greater", versions=(7, 9, 13), host=host.elementwise(operator.gt))
@or_numpy(np.greater)
def greater(A: Tensor, B: Tensor) -> Tensor:
    return A > B


@op("GreaterOrEqual", versions=(12, 16), host=host.elementwise(operator.ge))
@or_numpy(np.greater_equal)
def greater_or_equal(A: Tensor, B: Tensor) -> Tensor:
    return A >= B


@op("Less", versions=(7, 9, 13), host=host.elementwise(operator.lt))
@or_numpy(np.less)
def less(A: Tensor, B: Tensor) -> Tensor:
    return A < B


@op("LessOrEqual", versions=(12, 16), host=host.elementwise(operator.le))
@or_numpy(np.less_equal)
def less_or_equal(A: Tensor, B: Tensor) -> Tensor:
    return A <= B


@op("And", versions=(7,), host=host.elementwise(lambda a, b: a and b))
def and_(A: Tensor, B: Tensor) -> Tensor:
    return A & B


@op("Or", versions=(7,), host=host.elementwise(lambda a, b: a or b))
def or_(A: Tensor, B: Tensor) -> Tensor:
    return A | B


@op("Xor", versions=(7,))
def xor(A: Tensor, B: Tensor) -> Tensor:
    return A ^ B


@op("Not", versions=(1,), host=host.elementwise(operator.not_))
def not_(X: Tensor) -> Tensor:
    return ~X


@op("Where", versions=(9, 16), host=host.where)
def where(condition: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    return torch.where(condition, X, Y)


@op("Clip", versions=(6,))
def clip_by_attributes(
    input: Tensor,
    *,
    max: float = 3.4028234663852886e38,
    min: float = -3.4028234663852886e38,
) -> Tensor:
    return clip(input, min, max)


@op("Clip", versions=(11, 12, 13))
def clip(input: Tensor, min: Scalar | None = None, max: Scalar | None = None) -> Tensor:
    if min is None and max is None:
        return input
    has_both = min is not None and max is not None
    if has_both and isinstance(min, Tensor) != isinstance(max, Tensor):
        low, high = (torch.as_tensor(v, dtype=input.dtype, device=input.device) for v in (min, max))
        return torch.clamp(input, low, high)
    if isinstance(min, float) and isinstance(max, float) and min <= max and is_float(input):
        return functional.hardtanh(input, min, max)  # one pass backward, where clamp takes four
    clamped: Tensor = torch.clamp(input, min, max)  # type: ignore[arg-type]
    return clamped


@op("Max", versions=(6, 8, 12, 13), host=host.elementwise(max))
@or_numpy(_numpy_max)
def max_(*data_0: Tensor) -> Tensor:
    return reduce(torch.maximum, data_0)


@op("Min", versions=(6, 8, 12, 13), host=host.elementwise(min))
@or_numpy(_numpy_min)
def min_(*data_0: Tensor) -> Tensor:
    return reduce(torch.minimum, data_0)


@op("Sum", versions=(6, 8, 13))
def sum_(*data_0: Tensor) -> Tensor:
    return reduce(torch.add, data_0)


@op("Mean", versions=(6, 8, 13))
def mean(*data_0: Tensor) -> Tensor:
    return reduce(torch.add, data_0) / len(data_0)


@op("CumSum", versions=(11, 14))
def cumsum(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulated(
        torch.cumsum, x, axis[0], start=0, is_exclusive=bool(exclusive), is_reverse=bool(reverse)
    )


@op("CumProd", versions=(26,))
def cumprod(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulated(
        torch.cumprod, x, axis[0], start=1, is_exclusive=bool(exclusive), is_reverse=bool(reverse)
    )


def _cumulated(
    run: Callable[..., Tensor],
    x: Tensor,
    dim: int,
    *,
    start: int,
    is_exclusive: bool,
    is_reverse: bool,
) -> Tensor:
    ordered = x.flip(dim) if is_reverse else x
    total = run(ordered, dim, dtype=x.dtype)
    if is_exclusive:
        first = torch.full_like(total.narrow(dim, 0, min(1, total.shape[dim])), start)
        total = torch.cat((first, total.narrow(dim, 0, max(total.shape[dim] - 1, 0))), dim)
    return total.flip(dim) if is_reverse else total
