"""ONNX element types as torch's, and conversion between them by ONNX's rules.

torch has the names `int4`, `uint4`, `int2` and `uint2` but no kernels: such a tensor keeps one
code a byte, moves and reshapes, and is read through `view`. Anything else on it is an error.
"""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor

from onnxqat.core.errors import ModelError

_TORCH_NAMES = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "FLOAT8E4M3FN": "float8_e4m3fn",
    "FLOAT8E4M3FNUZ": "float8_e4m3fnuz",
    "FLOAT8E5M2": "float8_e5m2",
    "FLOAT8E5M2FNUZ": "float8_e5m2fnuz",
    "FLOAT8E8M0": "float8_e8m0fnu",
}
"""ONNX's names of element types that torch calls otherwise."""


def _known_to_both() -> dict[int, torch.dtype]:
    found = {
        number: getattr(torch, _TORCH_NAMES.get(name, name.lower()), None)
        for name, number in TensorProto.DataType.items()
    }
    return {number: dtype for number, dtype in found.items() if isinstance(dtype, torch.dtype)}


TORCH_DTYPES = _known_to_both()
"""The torch type of an ONNX element type, as far as the installed versions have both."""
E8M0: torch.dtype | None = getattr(torch, "float8_e8m0fnu", None)
"""Powers of two; torch has it since 2.7."""

_NARROW_LIMITS = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}
NARROW: dict[torch.dtype, tuple[torch.dtype, int, int]] = {
    getattr(torch, name): (torch.uint8 if low == 0 else torch.int8, low, high)
    for name, (low, high) in _NARROW_LIMITS.items()
}
"""Types of less than a byte: the type that they are viewed through, and their limits."""

FLOAT8: dict[torch.dtype, float] = {
    torch.float8_e4m3fn: 448.0,
    torch.float8_e4m3fnuz: 240.0,
    torch.float8_e5m2: 57344.0,
    torch.float8_e5m2fnuz: 57344.0,
}
"""Their largest values. Source: Micikevicius et al. 2022; Noune et al. 2022 for FNUZ."""

LAST_ROUNDED_E4M3FN = 464.0
"""Half-way from the largest value to the next, which is NaN; ties go to even, to the largest."""


def torch_dtype(onnx_type: int) -> torch.dtype:
    """The torch type of an ONNX element type.

    Raises:
        ModelError: torch has none that behaves the same.
    """
    found = TORCH_DTYPES.get(onnx_type)
    if found is None:
        name = TensorProto.DataType.Name(onnx_type)
        raise ModelError(f"element type {name} has no counterpart here in torch")
    return found


def limits(dtype: torch.dtype) -> tuple[int, int]:
    """The smallest and the largest value of an integer type."""
    if dtype in NARROW:
        return NARROW[dtype][1:]
    info = torch.iinfo(dtype)
    return info.min, info.max


def widened(x: Tensor) -> Tensor:
    """Codes of less than a byte as bytes, float8 as float32; anything else as it is."""
    if x.dtype in NARROW:
        return x.view(NARROW[x.dtype][0])
    return x.float() if x.dtype in FLOAT8 or x.dtype == E8M0 else x


def converted(
    x: Tensor, dtype: torch.dtype, *, saturate: bool = True, round_mode: str = "up"
) -> Tensor:
    """A tensor of another type, by ONNX's rules for Cast."""
    if x.dtype == dtype:
        return x
    x = widened(x)
    if dtype == E8M0:
        return _exponents(x.float(), saturate=saturate, round_mode=round_mode).view(dtype)
    if dtype in FLOAT8:
        return _to_float8(x, dtype, saturate=saturate)
    if dtype not in NARROW:
        return x.to(dtype)
    container, _, largest = NARROW[dtype]
    codes = x.to(torch.int64) & (2 * largest + 1 if container == torch.int8 else largest)
    if container == torch.int8:
        codes = torch.where(codes > largest, codes - 2 * (largest + 1), codes)
    return codes.to(container).view(dtype)


def _to_float8(x: Tensor, dtype: torch.dtype, *, saturate: bool) -> Tensor:
    x = x.float()
    if saturate:
        return x.clamp(-FLOAT8[dtype], FLOAT8[dtype]).to(dtype)
    if dtype == torch.float8_e4m3fn:  # torch saturates here in some versions
        x = x.masked_fill(x.abs() > LAST_ROUNDED_E4M3FN, float("nan"))
    return x.to(dtype)


_MANTISSA_BITS, _MANTISSA, _EXPONENT = 23, 0x7FFFFF, 0xFF
_ROUNDS_UP_FROM = {"up": 1, "nearest": 0x400000, "down": _MANTISSA + 1}
"""The smallest mantissa of a float32 that goes to the next power of two."""


def _exponents(x: Tensor, *, saturate: bool, round_mode: str) -> Tensor:
    """The bytes of powers of two near float32 numbers; 255 is NaN, and ONNX asks no sign."""
    bits = x.contiguous().view(torch.int32)
    exponent = (bits >> _MANTISSA_BITS) & _EXPONENT
    is_whole = exponent == _EXPONENT
    rounded = exponent + ((bits & _MANTISSA) >= _ROUNDS_UP_FROM[round_mode]).int()
    if saturate:
        rounded = rounded.clamp(max=_EXPONENT - 1).masked_fill(x.isnan(), _EXPONENT)
    else:
        rounded = rounded.masked_fill(is_whole | (x == 0), _EXPONENT)
    return rounded.to(torch.uint8)
