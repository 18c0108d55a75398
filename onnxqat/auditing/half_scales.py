"""The repair that gives a float16 tensor float16 scales, without Casts beside its Q/DQ."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.auditing.repair import drop_unread, write_scale
from onnxqat.auditing.subject import Subject, dequantizers_of, is_cast_to_half
from onnxqat.auditing.values import dtype_name, input_of, value_of
from onnxqat.graph.passes.edit import replace_reads
from onnxqat.graph.query import consumers, producer

HALF_SCALE_OPSET = 19
"""The first opset whose Q/DQ take float16, and scales of that type."""

HALF = np.dtype(np.float16)


def can_be_half(subject: Subject, quantizer: gs.Node) -> bool:
    """Whether float16 scales do for a pair, and nothing reads float32 of it."""
    scale, dequantizers = value_of(input_of(quantizer, 1)), dequantizers_of(quantizer)
    if subject.opset() < HALF_SCALE_OPSET or scale is None or not dequantizers:
        return False
    if any(node.attrs.get("output_dtype") for node in dequantizers):
        return False
    limits = np.finfo(HALF)
    fits = bool(np.all((scale >= limits.tiny) & (scale <= limits.max)))
    return fits and all(_is_read_in_half(subject, node) for node in dequantizers)


def _is_read_in_half(subject: Subject, dequantizer: gs.Node) -> bool:
    output = dequantizer.outputs[0]
    readers = [node for node, _ in consumers(output)]
    is_cast = all(map(is_cast_to_half, readers))
    is_output = any(id(tensor) in subject.outputs for node in readers for tensor in node.outputs)
    return bool(readers) and is_cast and id(output) not in subject.outputs and not is_output


def halve(subject: Subject, quantizer: gs.Node) -> None:
    """Quantize the float16 tensor itself, with float16 scales that are no smaller."""
    scale = value_of(input_of(quantizer, 1))
    if scale is None or scale.dtype == HALF:
        return
    write_scale(subject, quantizer, _rounded_up(scale))
    cast = producer(quantizer.inputs[0])
    if cast is not None and cast.op == "Cast" and dtype_name(cast.inputs[0]) == HALF.name:
        quantizer.inputs[0] = cast.inputs[0]
        drop_unread(subject, cast)
    for dequantizer in dequantizers_of(quantizer):
        output = dequantizer.outputs[0]
        output.dtype = HALF
        for reader in [node for node, _ in consumers(output)]:
            replace_reads(reader.outputs[0], output)
            drop_unread(subject, reader)


def _rounded_up(scale: NDArray[Any]) -> NDArray[Any]:
    half = scale.astype(HALF)
    up: NDArray[Any] = np.where(half < scale, np.nextafter(half, HALF.type(np.inf)), half)
    return up.astype(HALF)
