"""Where a value of the graph is while a module runs, and how an operator reads it.

A value is known when the module is built, or the host has it (shapes and what is computed from
them: see `ops/host.py`), or the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onnxqat.bridge.ops.host import LONGEST
from onnxqat.bridge.ops.registry import Reading

TENSOR_READINGS = {Reading.TENSOR, Reading.WEIGHT, Reading.OPERAND, Reading.MOVED}
NUMBER_READINGS = {Reading.INTS, Reading.FLOATS}
ONE_READINGS = {Reading.SCALAR, Reading.NUMBER}


@dataclass(frozen=True)
class Known:
    """A value that is known when the module is built: a CPU tensor."""

    value: Tensor

    @property
    def host(self) -> Any:
        """As a host value."""
        return simplest(self.value)

    def read(self, reading: Reading) -> Any:
        """As a call reads it that is made while building."""
        if reading is Reading.HOST:
            return self.host
        if reading in NUMBER_READINGS:
            return as_numbers(self.value)
        return as_number(self.value, reading) if reading in ONE_READINGS else self.value


@dataclass(frozen=True)
class Slot:
    """A value that a run of the program keeps in a slot."""

    index: int
    on_host: bool = False

    def conversion(self, reading: Reading) -> Callable[..., Any] | None:
        """What a device operator needs done to the value before it reads it."""
        if reading is Reading.HOST:
            return None if self.on_host else to_host
        if reading in NUMBER_READINGS:
            return as_numbers
        if not self.on_host:
            return None
        convert: Callable[..., Any] = _TO_NUMBER.get(reading, to_device)
        return convert


Value = Known | Slot


def is_shape_arithmetic(values: Sequence[Value | None], readings: Sequence[Reading]) -> bool:
    """Whether an operator with these inputs belongs on the host: no device data, no float array."""
    for value, reading in zip(values, readings, strict=True):
        if reading in NUMBER_READINGS:
            continue
        if isinstance(value, Slot) and not value.on_host:
            return False
        if isinstance(value, Known) and value.value.is_floating_point() and value.value.ndim:
            return False
    return True


def as_tensor(value: Any) -> Any:
    """A host value as a CPU tensor; anything else as it is."""
    if isinstance(value, tuple) and not value:
        return torch.zeros(0, dtype=torch.int64)
    return torch.tensor(value) if isinstance(value, int | tuple) else value


def as_numbers(value: Any) -> tuple[Any, ...]:
    """A tuple of Python numbers; reading them off a device waits for it."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, Tensor):
        return tuple(value.reshape(-1).tolist())
    return (value,)


def as_number(value: Any, reading: Reading) -> Any:
    """The one number of a host value, as `reading` has it; else the value."""
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 and reading is Reading.SCALAR else value
    if isinstance(value, Tensor) and (value.ndim == 0 or reading is Reading.SCALAR):
        return value.item() if value.numel() == 1 else value
    return value


def to_host(value: Any) -> Any:
    """A value of a device as a host value; waits for the device."""
    return simplest(value.cpu()) if isinstance(value, Tensor) else value


def to_device(value: Any, device: torch.device) -> Any:
    """A host value as a tensor on the device, without waiting for it."""
    if isinstance(value, int):
        kind = torch.bool if isinstance(value, bool) else torch.int64
        return torch.full((), value, dtype=kind, device=device)
    if isinstance(value, list):
        return [to_device(item, device) for item in value]
    tensor = as_tensor(value)
    return tensor.to(device, non_blocking=True) if isinstance(tensor, Tensor) else tensor


def to_scalar(value: Any, device: torch.device) -> Any:
    """A host value as a Python number, or as a tensor on the device if it has several."""
    number = as_number(value, Reading.SCALAR)
    return to_device(number, device) if isinstance(number, Tensor | tuple) else number


def to_number(value: Any, device: torch.device) -> Any:
    """A host value as a Python number if it is one of rank 0, else as a tensor on the device."""
    number = as_number(value, Reading.NUMBER)
    return to_device(number, device) if isinstance(number, Tensor | tuple) else number


_TO_NUMBER: dict[Reading, Callable[..., Any]] = {
    Reading.SCALAR: to_scalar,
    Reading.NUMBER: to_number,
}
NEEDS_DEVICE = {to_device, to_scalar, to_number}
"""Conversions that take the device as well."""


def simplest(value: Any) -> Any:
    """A CPU tensor as an int or tuple where that says the same, else itself."""
    if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.bool):
        return value
    if value.ndim == 1 and value.numel() <= LONGEST:
        return tuple(value.tolist())
    return value.item() if value.ndim == 0 else value
