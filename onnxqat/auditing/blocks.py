"""The repair that stores weights per channel which the file quantizes in blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.auditing.registry import Repair
from onnxqat.auditing.repair import add_weight_pair
from onnxqat.auditing.subject import Subject, axis_of, quantizer_of
from onnxqat.auditing.values import input_of, value_of
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.graph.passes.edit import replace_reads
from onnxqat.graph.query import consumers


def per_channel_repair(subject: Subject, dequantizer: gs.Node) -> Repair | None:
    """Store the values of weights, and quantize them per channel; None where they are not known, or
    read by other nodes than products.
    """
    readers = consumers(dequantizer.outputs[0])
    if not readers or any(node.op not in HEAVY_OPS for node, _ in readers):
        return None
    known = _values(dequantizer) is not None
    return partial(_store_per_channel, subject, dequantizer) if known else None


def _store_per_channel(subject: Subject, dequantizer: gs.Node) -> None:
    values, output = _values(dequantizer), dequantizer.outputs[0]
    edges = list(consumers(output))
    if values is None or not edges:
        return
    stored = gs.Constant(subject.names.tensor(f"{output.name}_float"), values)
    replace_reads(output, stored)
    for node, index in edges:
        if node.inputs[index] is stored:
            add_weight_pair(subject, node, index)


def _values(dequantizer: gs.Node) -> NDArray[Any] | None:
    """What weights are: those that a Q reads, or what stored codes stand for."""
    quantizer = quantizer_of(dequantizer)
    if quantizer is not None:
        return value_of(quantizer.inputs[0])
    codes, scale = value_of(dequantizer.inputs[0]), value_of(input_of(dequantizer, 1))
    if codes is None or scale is None:
        return None
    zero_point = value_of(input_of(dequantizer, 2))
    zeros = np.zeros(scale.shape) if zero_point is None else zero_point
    try:
        spread = [_along_blocks(x, dequantizer, codes.shape) for x in (scale, zeros)]
    except ValueError:  # shapes that do not fit each other are another rule's
        return None
    values = (codes.astype(np.float64) - spread[1]) * spread[0]
    return np.asarray(values, scale.dtype)


def _along_blocks(
    parameter: NDArray[Any], node: gs.Node, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """A scale or zero point for each value.

    Raises:
        ValueError: It does not fit.
    """
    axis, block = axis_of(node), int(node.attrs["block_size"])
    if parameter.ndim != len(shape):
        raise ValueError(f"rank {parameter.ndim} of the parameters, {len(shape)} of the values")
    spread = np.repeat(parameter.astype(np.float64), block, axis=axis)
    fitting = np.take(spread, range(min(shape[axis], spread.shape[axis])), axis=axis)
    return np.broadcast_to(fitting, shape)
