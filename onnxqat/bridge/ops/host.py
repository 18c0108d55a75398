"""Shape arithmetic on Python ints and tuples, so that it never waits for a device.

A host value is an int (rank 0), a tuple of ints (rank 1) or a CPU tensor (anything else). These
functions take the first two and return NotImplemented for what they leave to the tensor version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Number = int | bool
LONGEST = 64
"""Longest tuple; longer values are data, not shapes, and stay tensors."""
INT64 = 7
"""ONNX's number for the type that a Python int stands for."""
Host = int | tuple[int, ...]


def elementwise(function: Callable[..., Number]) -> Callable[..., Any]:
    """A function of ints, broadcast over ints and tuples."""

    def broadcast(*values: Any, **attributes: Any) -> Any:
        if attributes or not all(isinstance(v, int | tuple) for v in values):
            return NotImplemented
        lengths = {len(v) for v in values if isinstance(v, tuple)}
        if not lengths:
            return function(*values)
        length = max(lengths) if 0 not in lengths else 0
        if not lengths <= {1, length}:
            return NotImplemented
        rows = [_stretch(v, length) for v in values]
        return tuple(function(*row) for row in zip(*rows, strict=True))

    return broadcast


def _stretch(value: Host, length: int) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        return (value,) * length
    return value * length if len(value) == 1 else value


def truncated_division(a: int, b: int) -> int:
    """a / b towards zero, as C and ONNX divide integers."""
    return a // b if (a >= 0) == (b >= 0) else -(-a // b)


def concat(*inputs: Any, axis: int) -> Any:
    """Tuples one after the other."""
    if axis not in (0, -1) or not all(isinstance(v, tuple) for v in inputs):
        return NotImplemented
    return tuple(number for value in inputs for number in value)


def gather(data: Any, indices: Any, *, axis: int = 0) -> Any:
    """One number, or some, of a tuple."""
    if axis not in (0, -1) or not isinstance(data, tuple):
        return NotImplemented
    if isinstance(indices, int):
        return data[indices]
    return tuple(data[i] for i in indices) if isinstance(indices, tuple) else NotImplemented


def slice_by_inputs(data: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """A slice of a tuple."""
    if not isinstance(data, tuple) or not all(
        isinstance(v, tuple) and len(v) == 1 for v in (starts, ends)
    ):
        return NotImplemented
    step = 1 if steps is None else steps[0]
    return _slice(data, starts[0], ends[0], step)


def slice_by_attributes(
    data: Any,
    *,
    axes: tuple[int, ...] | None = None,
    ends: tuple[int, ...],
    starts: tuple[int, ...],
) -> Any:
    """A slice of a tuple."""
    if not isinstance(data, tuple) or len(starts) != 1:
        return NotImplemented
    return _slice(data, starts[0], ends[0], 1)


def _slice(data: tuple[int, ...], start: int, end: int, step: int) -> Any:
    if step > 0:
        return data[start:end:step]
    length = len(data)
    start, end = (v + length if v < 0 else v for v in (start, end))
    return data[min(max(start, 0), length - 1) : (end if end >= 0 else None) : step]


def unsqueeze(data: Any, axes: Any) -> Any:
    """A number as a tuple of one."""
    if isinstance(data, int) and tuple(_as_tuple(axes)) in ((0,), (-1,)):
        return (data,)
    return NotImplemented


def squeeze(data: Any, axes: Any = None) -> Any:
    """A tuple of one as its number."""
    if isinstance(data, tuple) and len(data) == 1:
        return data[0]
    return NotImplemented


def reshape(data: Any, shape: Any, *, allowzero: int = 0) -> Any:
    """A number or tuple as a tuple, or a tuple of one as its number."""
    numbers = data if isinstance(data, tuple) else (data,)
    if not all(isinstance(v, int) for v in numbers) or not isinstance(shape, tuple):
        return NotImplemented
    if shape in ((-1,), (len(numbers),)):
        return numbers
    return numbers[0] if shape == () and len(numbers) == 1 else NotImplemented


def same(data: Any) -> Any:
    """The value itself."""
    return data if isinstance(data, int | tuple) else NotImplemented


def where(condition: Any, X: Any, Y: Any) -> Any:
    """X where the condition holds, else Y."""
    return elementwise(lambda c, x, y: x if c else y)(condition, X, Y)


def product(data: Any, *, axes: Any = None, keepdims: int = 1) -> Any:
    """The product of a tuple's numbers."""
    if not isinstance(data, tuple):
        return NotImplemented
    result = 1
    for number in data:
        result *= number
    return (result,) if keepdims else result


def _as_tuple(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def squeeze_by_attribute(data: Any, *, axes: tuple[int, ...] | None = None) -> Any:
    """A tuple of one as its number."""
    return squeeze(data, axes)


def unsqueeze_by_attribute(data: Any, *, axes: tuple[int, ...]) -> Any:
    """A number as a tuple of one."""
    return unsqueeze(data, axes)


def shape(data: Any, *, end: int | None = None, start: int = 0) -> Any:
    """The shape of a number or tuple."""
    if isinstance(data, tuple):
        return (len(data),)[start:end]
    return () if isinstance(data, int) else NotImplemented


def size(data: Any) -> Any:
    """How many numbers there are."""
    if isinstance(data, tuple):
        return len(data)
    return 1 if isinstance(data, int) else NotImplemented


def constant_of_shape(input: Any, *, value: Any = None) -> Any:
    """A short tuple, or a number, of one int64 value."""
    if not isinstance(input, tuple) or len(input) > 1 or value is None:
        return NotImplemented
    if not isinstance(value.number, int) or value.dtype != torch.int64:
        return NotImplemented
    if not input:
        return value.number
    return (value.number,) * input[0] if input[0] <= LONGEST else NotImplemented


def range_(start: Any, limit: Any, delta: Any, *, stash_type: int = 1) -> Any:
    """A short tuple of numbers at equal distances."""
    if not all(isinstance(v, int) for v in (start, limit, delta)):
        return NotImplemented
    numbers = range(start, limit, delta)
    return tuple(numbers) if len(numbers) <= LONGEST else NotImplemented


def expand(input: Any, shape: Any) -> Any:
    """A number or a tuple of one, repeated."""
    if not isinstance(shape, tuple) or len(shape) != 1 or shape[0] > LONGEST:
        return NotImplemented
    if isinstance(input, tuple) and len(input) != 1:
        return input if shape[0] in (1, len(input)) else NotImplemented
    return input * shape[0] if isinstance(input, tuple) else (input,) * shape[0]


def cast(data: Any, *, round_mode: str = "up", saturate: int = 1, to: int) -> Any:
    """The value itself, when int64 is wanted."""
    if to != INT64 or not isinstance(data, int | tuple):
        return NotImplemented
    return tuple(int(v) for v in data) if isinstance(data, tuple) else int(data)
