"""Random numbers.

With a `seed` a node draws the same numbers at each call; without one, torch's global generator
goes on. ONNX names no generator, so the numbers of another runtime are others.
"""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnxqat.bridge.ops.dtypes import torch_dtype
from onnxqat.bridge.ops.registry import Outputs, Scalar, op

Sizes = tuple[int, ...]
CPU = torch.device("cpu")


def _generator(seed: float | None, device: torch.device) -> torch.Generator | None:
    return None if seed is None else torch.Generator(device).manual_seed(int(seed))


def _uniform(shape: Sizes, *, like: Tensor | None = None, seed: float | None) -> Tensor:
    device = CPU if like is None else like.device
    return torch.rand(shape, generator=_generator(seed, device), device=device)


def _normal(shape: Sizes, *, like: Tensor | None = None, seed: float | None) -> Tensor:
    device = CPU if like is None else like.device
    return torch.randn(shape, generator=_generator(seed, device), device=device)


def _dtype(like: Tensor, dtype: int | None) -> torch.dtype:
    return like.dtype if dtype is None else torch_dtype(dtype)


@op("RandomUniform", versions=(1, 22), is_random=True)
def random_uniform(
    *,
    dtype: int = 1,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    shape: Sizes,
) -> Tensor:
    return (_uniform(shape, seed=seed) * (high - low) + low).to(torch_dtype(dtype))


@op("RandomUniformLike", versions=(1, 22), is_random=True)
def random_uniform_like(
    input: Tensor,
    *,
    dtype: int | None = None,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
) -> Tensor:
    drawn = _uniform(input.shape, like=input, seed=seed) * (high - low) + low
    return drawn.to(_dtype(input, dtype))


@op("RandomNormal", versions=(1, 22), is_random=True)
def random_normal(
    *,
    dtype: int = 1,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    shape: Sizes,
) -> Tensor:
    return (_normal(shape, seed=seed) * scale + mean).to(torch_dtype(dtype))


@op("RandomNormalLike", versions=(1, 22), is_random=True)
def random_normal_like(
    input: Tensor,
    *,
    dtype: int | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
) -> Tensor:
    drawn = _normal(input.shape, like=input, seed=seed) * scale + mean
    return drawn.to(_dtype(input, dtype))


@op("Bernoulli", versions=(15, 22), is_random=True)
def bernoulli(input: Tensor, *, dtype: int | None = None, seed: float | None = None) -> Tensor:
    return (_uniform(input.shape, like=input, seed=seed) < input).to(_dtype(input, dtype))


@op("Multinomial", versions=(7, 22), is_random=True)
def multinomial(
    input: Tensor, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None
) -> Tensor:
    generator = _generator(seed, input.device)
    chances = input.softmax(-1)  # the input is a logarithm, not normalized
    drawn = torch.multinomial(chances, sample_size, replacement=True, generator=generator)
    return drawn.to(torch_dtype(dtype))


@op("Dropout", versions=(7, 10))
def dropout_by_attribute(data: Tensor, *, ratio: float = 0.5, outputs: Outputs = 1) -> Any:
    return data if outputs == 1 else (data, torch.ones_like(data, dtype=torch.bool))


@op("Dropout", versions=(12, 13, 22), is_random=True)
def dropout(
    data: Tensor,
    ratio: Scalar | None = None,
    training_mode: Scalar | None = None,
    *,
    seed: int | None = None,
    outputs: Outputs = 1,
) -> Any:
    """Data is dropped where the graph itself says so, not where the module is in training mode."""
    if training_mode is None or not bool(training_mode):
        return data if outputs == 1 else (data, torch.ones_like(data, dtype=torch.bool))
    dropped = 0.5 if ratio is None else float(ratio)
    kept = _uniform(data.shape, like=data, seed=seed) >= dropped
    y = data * kept / (1 - dropped) if dropped < 1 else torch.zeros_like(data)
    return y if outputs == 1 else (y, kept)
