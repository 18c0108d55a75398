"""QDQ018, QDQ019, QDQ123: a Q and its DQ, the two sides of a product, and no Q/DQ at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, rule
from onnxqat.auditing.rules.formats import code_type
from onnxqat.auditing.rules.legality import is_refused
from onnxqat.auditing.subject import (
    Subject,
    axis_of,
    dequantizer_behind,
    quantizer_of,
    scalar_scale,
)
from onnxqat.auditing.values import input_of, label, value_of
from onnxqat.core.finding import Severity


@rule("QDQ018", Severity.WARNING)
def unlike_pair(subject: Subject) -> Iterator[Objection]:
    """A DequantizeLinear has another scale, zero point or axis than the QuantizeLinear before it.

    Why it matters: the pair does not only round, it multiplies or shifts the values. TensorRT and
    ONNX Runtime compute that faithfully, so that nothing tells of the mistake but the accuracy;
    fine-tuning and other tools take a pair to have one scale.

    How to fix: give both nodes the same scale and zero point, in the same initializers at best.
    Where the factor is meant, write it as a Mul.

    Source: the TensorRT guide on explicit quantization: a Q/DQ pair; measured: compiles to INT8.
    """
    for node in subject.dequantizers:
        quantizer = quantizer_of(node)
        what = None if quantizer is None else _difference(quantizer, node)
        if what is not None:
            yield Objection(
                f"it has another {what} than the QuantizeLinear before it",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="give both nodes the same scale, zero point and axis",
            )


def _difference(quantizer: gs.Node, dequantizer: gs.Node) -> str | None:
    for index, what in ((1, "scale"), (2, "zero point")):
        one, other = (value_of(input_of(node, index)) for node in (quantizer, dequantizer))
        if one is not None and other is not None and not np.array_equal(one, other):
            return what
    if scalar_scale(quantizer) is None and axis_of(quantizer) != axis_of(dequantizer):
        rank = len(quantizer.inputs[0].shape or ())
        if not rank or (axis_of(quantizer) - axis_of(dequantizer)) % rank:
            return "axis"
    return None


@rule("QDQ019", Severity.ERROR)
def unlike_sides(subject: Subject) -> Iterator[Objection]:
    """A Conv, Gemm or MatMul reads FP8 on one side, and integers on the other.

    Why it matters: TensorRT multiplies FP8 with FP8, and INT8 with INT8. With one of each its
    compiler fails.

    How to fix: quantize both sides to the same type.

    Source: measured: "CHECK(opndA->type() == opndB->type()) failed. Input and filter have to be
    the same type", with INT8 and with INT4 on the other side.
    """
    for node in subject.heavy:
        sides = [dequantizer_behind(input_of(node, index)) for index in (0, 1)]
        types = [code_type(side) for side in sides if side is not None]
        known = [name for name in types if name is not None]
        if len(known) == 2 and len({name.startswith("float8") for name in known}) == 2:
            yield Objection(
                f"this {node.op} reads {known[0]} data and {known[1]} weights",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="quantize both sides to the same type",
            )


@rule("QDQ123", Severity.NOTE)
def nothing_quantized(subject: Subject) -> Iterator[Objection]:
    """The file has no Q/DQ at all.

    Why it matters: TensorRT runs every Conv, Gemm and MatMul in float then: explicit quantization
    is all that it reads, calibration tables belong to the past. What this audit says of such a file
    is about its deployment in float.

    How to fix: `onnxqat quantize`, or `onnxqat run` with training.

    Source: TensorRT 11's migration notes: implicit quantization is gone.
    """
    is_quantized = any("quantize" in n.op.lower() or is_refused(n) for n in subject.nodes)
    if subject.heavy and not is_quantized:
        count = len(subject.heavy)
        yield Objection(
            f"nothing is quantized: {count} matrix product{'s run' if count > 1 else ' runs'} in "
            "float",
            fix="quantize the model, if it is meant to run in INT8",
        )
