"""QDQ1xx: legal Q/DQ that TensorRT compiles to float."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, rule
from onnxqat.auditing.subject import (
    DEQUANTIZE,
    QUANTIZE,
    Subject,
    axis_of,
    dequantizer_behind,
    input_of,
    is_known_at_build_time,
    label,
    movers_between,
    value_of,
)
from onnxqat.core.finding import Severity
from onnxqat.graph.query import producer

FOUR_BIT = frozenset({"float4_e2m1fn", "int4", "uint4"})
"""Numpy (ml_dtypes) names of the types that are meant for weights alone."""

_SIDES = ("data", "weights")


@rule("QDQ101", Severity.WARNING)
def one_sided(subject: Subject) -> Iterator[Objection]:
    """A Conv, Gemm or MatMul is quantized on one side only.

    Why it matters: TensorRT multiplies INT8 with INT8. With Q/DQ on the data or the weights alone
    the kernel runs in float, and quantizing the one side is work on top.

    How to fix: quantize both, or neither. 4-bit weights with float data are meant that way, and are
    no finding.

    Source: TensorRT developer guide, Q/DQ layer placement; measured: float convolution, one kernel
    more.
    """
    for node in subject.heavy:
        sides = [dequantizer_behind(input_of(node, index)) for index in (0, 1)]
        quantized = [side for side in sides if side is not None]
        if len(quantized) != 1 or _is_four_bit(quantized[0]):
            continue
        bare = 0 if sides[0] is None else 1
        yield Objection(
            f"the {_SIDES[1 - bare]} of this {node.op} are quantized, the {_SIDES[bare]} are not: "
            "it runs in float",
            node=label(node),
            tensor=node.inputs[bare].name,
            fix=f"put Q/DQ on the {_SIDES[bare]} too, or take it off the {_SIDES[1 - bare]}",
        )


@rule("QDQ103", Severity.WARNING)
def wrong_weight_axis(subject: Subject) -> Iterator[Objection]:
    """Weights are quantized per channel along another axis than the output channels.

    Why it matters: the model compiles, and the Conv, Gemm or MatMul runs in float: an INT8 kernel
    can only scale its output channels.

    How to fix: set `axis` of both nodes of the pair to the output channels, and calibrate the
    weights again: Conv 0; ConvTranspose 1; Gemm 0 with transB=1, else 1; MatMul the last axis.

    Source: measured; `axis` left out on a Conv's weights (ONNX's default is 1) is such a case.
    """
    for node in subject.heavy:
        weights = input_of(node, 1)
        dequantizer = dequantizer_behind(weights)
        if weights is None or dequantizer is None or not is_known_at_build_time(weights):
            continue
        axis = _channel_axis(dequantizer, weights)
        wanted = _output_axis(node, weights)
        if axis is not None and wanted is not None and axis != wanted:
            yield Objection(
                f"the scales of the weights lie along axis {axis}, the output channels of this "
                f"{node.op} along axis {wanted}: it runs in float",
                node=label(node),
                tensor=dequantizer.inputs[0].name,
                fix=f"quantize the weights along axis {wanted}",
            )


@rule("QDQ114", Severity.WARNING)
def quantized_output(subject: Subject) -> Iterator[Objection]:
    """A graph output is quantized.

    Why it matters: Q/DQ at the end rounds what the user reads, gains no INT8 kernel, and costs one
    step more. A Q without DQ changes the output's type.

    How to fix: take the pair off.

    Source: ModelOpt's placement for TensorRT leaves outputs bare too.
    """
    for output in subject.graph.outputs:
        source = producer(output)
        if source is not None and source.op in (QUANTIZE, DEQUANTIZE):
            yield Objection(
                f"a {source.op} makes the graph output",
                node=label(source),
                tensor=output.name,
                fix="take the Q/DQ pair off the output",
            )


def _is_four_bit(dequantizer: gs.Node) -> bool:
    dtype = dequantizer.inputs[0].dtype
    return dtype is not None and np.dtype(dtype).name in FOUR_BIT


def _channel_axis(dequantizer: gs.Node, weights: gs.Tensor) -> int | None:
    """The axis of the weights along which the scales differ.

    None for per-tensor scales, and where the axis is lost between the two, in a Reshape say.
    """
    scale = value_of(input_of(dequantizer, 1))
    shape = dequantizer.inputs[0].shape
    if scale is None or scale.ndim != 1 or scale.size == 1 or shape is None:
        return None
    axis: int | None = axis_of(dequantizer) % len(shape)
    for mover in reversed(movers_between(dequantizer, weights)):
        axis = _moved_axis(mover, axis)
    return axis


def _moved_axis(mover: gs.Node, axis: int | None) -> int | None:
    if axis is None or mover.op == "Identity":
        return axis
    perm = mover.attrs.get("perm") if mover.op == "Transpose" else None
    return list(perm).index(axis) if perm is not None else None


def _output_axis(node: gs.Node, weights: gs.Tensor) -> int | None:
    """The axis of the output channels in the weights; None where the rank is not known."""
    if node.op == "MatMul":
        return len(weights.shape) - 1 if weights.shape is not None else None
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return 0 if node.op == "Conv" else 1
