"""Values between the host and a device: see `ops/host.py` for what a host value is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnxqat.bridge.ops.host import LONGEST


def as_tensor(value: Any) -> Any:
    """A host value as a CPU tensor; anything else as it is."""
    return torch.tensor(value) if isinstance(value, int | tuple) and value != () else _empty(value)


def _empty(value: Any) -> Any:
    return torch.zeros(0, dtype=torch.int64) if value == () else value


def as_ints(value: Any) -> tuple[int, ...]:
    """Host integers; reading them off a device waits for it."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, Tensor):
        return tuple(value.reshape(-1).tolist())
    return (value,)


def as_scalar(value: Any) -> Any:
    """A Python number, if the host knows it."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return value


def to_device(value: Any, device: torch.device) -> Any:
    """A host value as a tensor on the device, without waiting for it."""
    if isinstance(value, int):
        return torch.full(
            (),
            value,
            dtype=torch.bool if value is True or value is False else torch.int64,
            device=device,
        )
    tensor = as_tensor(value)
    return tensor.to(device, non_blocking=True) if isinstance(tensor, Tensor) else tensor


def simplest(value: Any) -> Any:
    """A CPU tensor as an int or tuple where that says the same, else itself."""
    if (
        isinstance(value, Tensor)
        and value.dtype in (torch.int64, torch.bool)
        and value.ndim < 2
        and value.numel() <= LONGEST
    ):
        numbers = value.tolist()
        return tuple(numbers) if value.ndim else numbers
    return value
