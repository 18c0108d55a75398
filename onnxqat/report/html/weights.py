"""How the quantizers of weights use their ranges: told by the file alone, no data is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, log10
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.core.distribution import Distribution
from onnxqat.core.qdq import along, fake_quantize
from onnxqat.core.spec import QuantDtype
from onnxqat.graph import Graph
from onnxqat.graph.qdq_pairs import CODE_TYPES, QdqPair, qdq_pairs
from onnxqat.graph.query import constant_value

BINS = 96
"""Bins of a picture: about what a column of text is wide."""


@dataclass(frozen=True)
class WeightsShown:
    """The weights of one quantizer, each in units of its channel's clip point."""

    shown: Distribution
    """Its clip point is 1; a step is 1 / qmax."""
    channels: int
    """How many scales there are."""
    clip_points: tuple[float, float]
    """The smallest and the largest, in the weights' own unit."""


def noisiest_weights(graph: Graph, count: int) -> tuple[WeightsShown, ...]:
    """The weights that lose most by their quantizer alone, worst first; one tensor at a time is
    looked at. Weights of which the file holds the codes alone are left out.
    """
    worst: list[WeightsShown] = []
    for found in _each(graph):
        worst = sorted((*worst, found), key=_noisiest_first)[:count]
    return tuple(worst)


def _noisiest_first(found: WeightsShown) -> tuple[float, str]:
    return found.shown.sqnr_db, found.shown.tensor


def _each(graph: Graph) -> Iterator[WeightsShown]:
    tensors, seen = graph.tensors(), set()
    for pair in qdq_pairs(graph):
        if not pair.is_weight or pair.q_node is None or pair.dtype == "uint8":
            continue
        key = (pair.tensor, pair.scale, pair.axis)
        dtype = CODE_TYPES.get(pair.dtype)
        if dtype is not None and key not in seen:
            seen.add(key)
            yield from _shown(pair, tensors, dtype)


def _shown(
    pair: QdqPair, tensors: dict[str, gs.Tensor], dtype: QuantDtype
) -> Iterator[WeightsShown]:
    values = constant_value(tensors[pair.tensor])
    scale = constant_value(tensors[pair.scale]) if pair.scale in tensors else None
    zero_point = constant_value(tensors[pair.zero_point]) if pair.zero_point in tensors else None
    if values is None or scale is None or (zero_point is not None and np.any(zero_point != 0)):
        return
    if values.size and _fits(values, scale, pair.axis):
        weights, steps = values.astype(np.float32), scale.astype(np.float32)
        yield _counted(pair, (weights, steps), dtype)


def _fits(values: NDArray[Any], scale: NDArray[Any], axis: int | None) -> bool:
    """Whether the scales are such as make sense: rules of the audit tell of others."""
    is_positive = bool(np.all(scale > 0) and np.all(np.isfinite(values)))
    if axis is None or not is_positive:
        return is_positive and scale.size == 1
    return scale.ndim == 1 and axis < values.ndim and values.shape[axis] == scale.size


def _counted(
    pair: QdqPair, tensors: tuple[NDArray[np.float32], NDArray[np.float32]], dtype: QuantDtype
) -> WeightsShown:
    values, scale = tensors
    error = values - fake_quantize(values, scale, dtype=dtype, axis=pair.axis)
    power, noise = (float((x.astype(np.float64) ** 2).sum()) for x in (values, error))
    clip_points = scale.astype(np.float64).reshape(-1) * dtype.qmax
    relative = values / along(scale * np.float32(dtype.qmax), pair.axis, values.ndim)
    extent = max(float(np.abs(relative).max()), 1.0)
    counts, _ = np.histogram(np.abs(relative), bins=BINS, range=(0.0, extent))
    shown = Distribution(
        tensor=pair.tensor,
        minimum=float(relative.min()),
        maximum=float(relative.max()),
        amax=1.0,
        qmax=dtype.qmax,
        clipped=float(np.mean(np.abs(relative) > 1 + 0.5 / dtype.qmax)),
        sqnr_db=10 * log10(power / noise) if noise > 0 and power > 0 else inf,
        counts=tuple(int(count) for count in counts),
    )
    return WeightsShown(shown, scale.size, (float(clip_points.min()), float(clip_points.max())))
