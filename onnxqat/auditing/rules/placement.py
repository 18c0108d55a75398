"""QDQ101 … QDQ104: Conv, ConvTranspose, Gemm and MatMul whose Q/DQ make no INT8 kernel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, Repair, rule
from onnxqat.auditing.repair import add_weight_pair, requantize_weights, skip_pair, store_float
from onnxqat.auditing.subject import (
    Subject,
    axis_of,
    dequantizer_behind,
    dequantizer_of,
    movers_between,
    quantizer_of,
)
from onnxqat.auditing.values import dtype_name, input_of, label, value_of
from onnxqat.core.finding import Severity
from onnxqat.placement.config import PROFILES

FOUR_BIT = frozenset({"float4_e2m1fn", "int4", "uint4"})
"""Numpy (ml_dtypes) names of the types that are meant for weights alone."""

PER_CHANNEL_OPSET = 13
"""The first in which Q/DQ have an axis."""

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
        if len(quantized) != 1 or dtype_name(quantized[0].inputs[0]) in FOUR_BIT:
            continue
        bare = 0 if sides[0] is None else 1
        yield Objection(
            f"the {_SIDES[1 - bare]} of this {node.op} are quantized, the {_SIDES[bare]} are not: "
            "it runs in float",
            node=label(node),
            tensor=node.inputs[bare].name,
            fix=f"put Q/DQ on the {_SIDES[bare]} too, or take it off the {_SIDES[1 - bare]}",
            repair=_quantize_weights(subject, node, bare),
        )


def _quantize_weights(subject: Subject, node: gs.Node, index: int) -> Repair | None:
    """Weights are known, and so are their ranges; those of data only calibration tells."""
    if value_of(node.inputs[index]) is None or dtype_name(node.inputs[index]) != "float32":
        return None
    return partial(add_weight_pair, subject, node, index)


@rule("QDQ103", Severity.WARNING)
def wrong_weight_axis(subject: Subject) -> Iterator[Objection]:
    """Weights are quantized per channel along another axis than the output channels.

    Why it matters: the model compiles, and the Conv, Gemm or MatMul runs in float: an INT8 kernel
    can only scale its output channels.

    How to fix: set `axis` of both nodes of the pair to the output channels, and calibrate the
    weights again: Conv 0; ConvTranspose 1; Gemm 0 with transB=1, else 1; MatMul the last axis.

    Source: measured; `axis` left out on a Conv's weights (ONNX's default is 1) is such a case.
    """
    if subject.opset() < PER_CHANNEL_OPSET:
        return  # QDQ014 tells it
    for node in subject.heavy:
        weights = input_of(node, 1)
        dequantizer = dequantizer_behind(weights)
        if weights is None or dequantizer is None or subject.is_fed(weights):
            continue
        axis = _channel_axis(dequantizer, weights)
        wanted = _output_axis(node, weights)
        if axis is not None and wanted is not None and axis != wanted:
            is_direct = dequantizer_of(weights) is dequantizer
            yield Objection(
                f"the scales of the weights lie along axis {axis}, the output channels of this "
                f"{node.op} along axis {wanted}: it runs in float",
                node=label(node),
                tensor=dequantizer.inputs[0].name,
                fix=f"quantize the weights along axis {wanted}",
                repair=partial(requantize_weights, subject, dequantizer, axis=wanted)
                if is_direct
                else None,
            )


@rule("QDQ104", Severity.WARNING)
def transposed_convolution(subject: Subject) -> Iterator[Objection]:
    """A ConvTranspose is quantized for which the compiler has no INT8 kernel.

    Why it matters: TensorRT for RTX runs every ConvTranspose in float, TensorRT those with groups.
    Q/DQ on them rounds for nothing, and adds kernels.

    How to fix: take the pairs off its data and weights.

    Source: NVIDIA's tensorflow-quantization and ModelOpt leave grouped ones out; measured: TensorRT
    for RTX 1.7.1 runs each one in FP32.
    """
    has_kernel = "ConvTranspose" in PROFILES[subject.config.profile].weighted_ops
    for node in subject.heavy:
        is_grouped = node.attrs.get("group", 1) != 1
        is_quantized = any(dequantizer_behind(input_of(node, i)) is not None for i in (0, 1))
        if node.op != "ConvTranspose" or not is_quantized or (has_kernel and not is_grouped):
            continue
        why = "with groups" if is_grouped else f"for profile '{subject.config.profile}'"
        yield Objection(
            f"a ConvTranspose {why} runs in float in spite of its Q/DQ",
            node=label(node),
            tensor=node.inputs[0].name,
            fix="take the Q/DQ pairs off its data and weights",
            repair=partial(_leave_in_float, subject, node),
        )


def _leave_in_float(subject: Subject, node: gs.Node) -> None:
    for index in (0, 1):
        dequantizer = dequantizer_of(input_of(node, index))
        if dequantizer is not None and quantizer_of(dequantizer) is None:
            store_float(subject, dequantizer)
        elif dequantizer is not None:
            skip_pair(subject, node, index)


def _channel_axis(dequantizer: gs.Node, weights: gs.Tensor) -> int | None:
    """The axis of the weights along which the scales differ.

    None for per-tensor scales, and where the axis is lost between the two, in a Reshape say.
    """
    scale = value_of(input_of(dequantizer, 1))
    shape = dequantizer.inputs[0].shape
    if scale is None or scale.ndim != 1 or scale.size == 1 or not shape:
        return None
    axis: int | None = axis_of(dequantizer) % len(shape)
    for mover in reversed(movers_between(dequantizer, weights)):
        axis = _moved_axis(mover, axis)
    return axis


def _moved_axis(mover: gs.Node, axis: int | None) -> int | None:
    if axis is None or mover.op == "Identity":
        return axis
    perm = mover.attrs.get("perm") if mover.op == "Transpose" else None
    return list(perm).index(axis) if perm is not None and axis in perm else None


def _output_axis(node: gs.Node, weights: gs.Tensor) -> int | None:
    """The axis of the output channels in the weights; None where the rank is not known."""
    if node.op == "MatMul":
        return len(weights.shape) - 1 if weights.shape is not None else None
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return 0 if node.op == "Conv" else 1
