"""What a model wants to be fed: names, types and shapes of its inputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputSpec:
    """One graph input."""

    name: str
    dtype: str
    """The numpy name: float32, int64, …"""
    shape: tuple[int | str | None, ...]
    """A number where the dimension is fixed, else its ONNX name (dim_param), or None."""
