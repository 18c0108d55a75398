"""QDQ107 … QDQ109: operators that only move values, with one scale before and another behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, Repair, rule
from onnxqat.auditing.repair import skip_pair
from onnxqat.auditing.rules.residual import share_largest
from onnxqat.auditing.subject import (
    QUANTIZE,
    Subject,
    dequantizer_behind,
    dequantizer_of,
    quantizer_of,
    scalar_scale,
)
from onnxqat.auditing.values import label
from onnxqat.core.finding import Severity
from onnxqat.graph.query import consumers, producer
from onnxqat.placement.scene import value_inputs

ONE_BIT = 2.0
"""By how much a repair may coarsen a scale."""


@rule("QDQ107", Severity.WARNING)
def requantized_move(subject: Subject) -> Iterator[Objection]:
    """An operator that only moves values has another scale behind it than before it.

    Why it matters: Transpose, Reshape, Slice, Pad by 0, nearest Resize and the like run in INT8 as
    they are. With another scale behind them every value is rounded once more; TensorRT has to
    requantize it, in a step of its own where no kernel beside it can take that in.

    How to fix: give the Q behind the operator the scale of the DQ before it, or take one pair off.

    Source: TensorRT developer guide, Q/DQ propagation; ModelOpt. Measured on TensorRT for RTX,
    a U-Net and a ViT: kernels beside it took the rounding in, no byte more; the error remains.
    """
    return _unequal(subject, lambda op: op not in ("Concat", "MaxPool"))


@rule("QDQ108", Severity.WARNING)
def unequal_concat(subject: Subject) -> Iterator[Objection]:
    """The inputs and the output of a Concat have different scales.

    Why it matters: with one scale a Concat costs nothing, for its inputs are written right into
    their places. With several each branch is requantized, and rounded once more.

    How to fix: give all quantized inputs and the Q behind the Concat one scale, the largest; or put
    a single Q behind it.

    Source: ModelOpt; NVIDIA's guidance for YOLO; measured on TensorRT for RTX: a requantizing
    step a branch, which the kernels before an Inception's and a DenseNet's Concat took in.
    """
    return _unequal(subject, lambda op: op == "Concat")


@rule("QDQ109", Severity.WARNING)
def requantized_pool(subject: Subject) -> Iterator[Objection]:
    """A MaxPool has another scale behind it than before it.

    Why it matters: a MaxPool chooses among INT8 codes. In SPP and CSP blocks its input and output
    meet again in a Concat: with different scales each of them is requantized.

    How to fix: give the MaxPool's output the scale of its input.

    Source: NVIDIA's guidance for YOLO. Measured on TensorRT for RTX 1.7.1, a U-Net: the kernel
    before it took the rounding in, no byte more; the error remains.
    """
    return _unequal(subject, lambda op: op == "MaxPool")


def _unequal(subject: Subject, is_meant: Callable[[str], bool]) -> Iterator[Objection]:
    for node in subject.nodes:
        if not is_meant(node.op) or not (moved := value_inputs(node)):
            continue
        before = [dq for t in moved if (dq := dequantizer_behind(t)) is not None and _is_pair(dq)]
        behind = [q for t in node.outputs for q, i in consumers(t) if q.op == QUANTIZE and i == 0]
        if not before or not all(subject.is_fed(t) for t in node.outputs):
            continue
        pairs = list({id(x): x for x in (*before, *behind)}.values())
        scales = {scale for pair in pairs if (scale := scalar_scale(pair)) is not None}
        if len(scales) > 1:
            yield _objection(subject, node, pairs, scales)


def _objection(
    subject: Subject, node: gs.Node, pairs: list[gs.Node], scales: set[float]
) -> Objection:
    shown = ", ".join(f"{scale:.4g}" for scale in sorted(scales))
    return Objection(
        f"this {node.op} only moves values, between the scales {shown}",
        node=label(node),
        tensor=node.outputs[0].name,
        fix="give what it reads and writes one scale",
        repair=_repair(subject, node, pairs, scales),
    )


def _repair(
    subject: Subject, node: gs.Node, pairs: list[gs.Node], scales: set[float]
) -> Repair | None:
    """Leave the rounding to the Q behind, where the pairs before it serve nothing else; without a Q
    behind give all one scale, unless that costs more than a bit.

    A Q behind moves back over the operator, so that the pairs before it only round once more. With
    the largest of all scales instead a chain of such operators ends up with a single one: a
    ShuffleNet lost 3 to 5 dB.
    """
    readers = [reader for tensor in node.outputs for reader, _ in consumers(tensor)]
    if all(reader.op == QUANTIZE for reader in readers):
        edges = [_edge_of_pair(node, index) for index in range(len(node.inputs))]
        known = [edge for edge in edges if edge is not None]
        return partial(_take_off, subject, known) if len(known) == len(edges) else None
    is_near = max(scales) <= ONE_BIT * min(scales)
    return partial(share_largest, subject, pairs) if is_near else None


def _take_off(subject: Subject, edges: list[tuple[gs.Node, int]]) -> None:
    for edge in edges:
        skip_pair(subject, *edge)


def _edge_of_pair(node: gs.Node, index: int) -> tuple[gs.Node, int] | None:
    """Where a DQ is read on the way to an input; the input itself where there is none.

    None where nodes on that way have other readers, which the pair may be for.
    """
    edge = node, index
    tensor = node.inputs[index]
    while dequantizer_of(tensor) is None:
        mover = producer(tensor)
        is_moved = mover is not None and value_inputs(mover) and mover.op != "Concat"
        if mover is None or not is_moved or len(consumers(mover.outputs[0])) > 1:
            return edge if dequantizer_behind(tensor) is None else None
        edge, tensor = (mover, 0), mover.inputs[0]
    return edge


def _is_pair(dequantizer: gs.Node) -> bool:
    return quantizer_of(dequantizer) is not None
