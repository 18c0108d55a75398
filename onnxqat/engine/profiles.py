"""Input shapes that an engine is compiled for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxqat.core.errors import BuildError
from onnxqat.core.signature import InputSpec


@dataclass(frozen=True)
class ShapeRange:
    """An input's smallest, most frequent and largest shape, as a TensorRT optimization profile."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


Shapes = Mapping[str, Sequence[int] | ShapeRange]
"""Input name -> the one shape that it has, or a range of them."""


def shape_profile(inputs: Sequence[InputSpec], shapes: Shapes) -> dict[str, ShapeRange]:
    """The shapes of every input with a dynamic dimension: those given, else batch 1.

    Batch is the first dimension, and every dimension of its ONNX name.

    Raises:
        BuildError: A name or a shape does not fit the model, or a dynamic dimension other than the
            batch has no shape given.
    """
    names = sorted(spec.name for spec in inputs)
    for unknown in sorted(set(shapes) - set(names)):
        raise BuildError(
            f"shapes were given for '{unknown}', which is no input of the model",
            fix=f"the inputs are: {', '.join(names)}",
        )
    batch = frozenset(str(spec.shape[0]) for spec in inputs if spec.shape)
    ranges = {
        spec.name: _given(spec, shapes[spec.name]) if spec.name in shapes else _default(spec, batch)
        for spec in inputs
    }
    return {spec.name: ranges[spec.name] for spec in inputs if _is_dynamic(spec)}


def _is_dynamic(spec: InputSpec) -> bool:
    return any(not isinstance(size, int) for size in spec.shape)


def _given(spec: InputSpec, shape: Sequence[int] | ShapeRange) -> ShapeRange:
    if not isinstance(shape, ShapeRange):
        shape = ShapeRange(tuple(shape), tuple(shape), tuple(shape))
    for given in (shape.minimum, shape.optimum, shape.maximum):
        if not _fits(spec, given):
            raise BuildError(
                f"the shape {list(given)} does not fit the model's input",
                tensor=spec.name,
                fix=f"the model says {list(spec.shape)}",
            )
    if not _in_order(shape):
        raise BuildError(
            f"the smallest shape {list(shape.minimum)}, the most frequent {list(shape.optimum)} "
            f"and the largest {list(shape.maximum)} are not in order",
            tensor=spec.name,
        )
    return shape


def _in_order(shape: ShapeRange) -> bool:
    bounds = zip(shape.minimum, shape.optimum, shape.maximum, strict=True)
    return all(0 < low <= usual <= high for low, usual, high in bounds)


def _fits(spec: InputSpec, shape: tuple[int, ...]) -> bool:
    """Same rank, and the same size wherever the model fixes one."""
    return len(shape) == len(spec.shape) and all(
        size == fixed or not isinstance(fixed, int)
        for size, fixed in zip(shape, spec.shape, strict=True)
    )


def _default(spec: InputSpec, batch: frozenset[str]) -> ShapeRange:
    shape: list[int] = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            shape.append(size)
        elif axis == 0 or size in batch:
            shape.append(1)
        else:
            raise BuildError(
                f"dimension {axis} ('{size}') of an input is dynamic and has no default",
                tensor=spec.name,
                fix=f"give the shape, as --shape {spec.name}={'x'.join(_example(spec))}, or in a "
                "recipe under [build.shapes]",
            )
    fixed = tuple(shape)
    return ShapeRange(fixed, fixed, fixed)


def _example(spec: InputSpec) -> list[str]:
    return [str(size) if isinstance(size, int) else "1" for size in spec.shape]
