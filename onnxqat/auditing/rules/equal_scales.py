"""QDQ107 … QDQ109: operators that only move values, with one scale before and another behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, Repair, rule
from onnxqat.auditing.repair import add_pair, skip_pair
from onnxqat.auditing.rules.residual import share_largest
from onnxqat.auditing.subject import (
    QUANTIZE,
    Subject,
    dequantizer_behind,
    dequantizer_of,
    movers_between,
    quantizer_of,
    quantizers_behind,
    scalar_scale,
)
from onnxqat.auditing.values import label
from onnxqat.core.finding import Severity
from onnxqat.graph.query import consumers, producer
from onnxqat.placement.config import PROFILES
from onnxqat.placement.scene import chooses_part, value_inputs

Edge = tuple[gs.Node, int]

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
    a single Q behind it. An input that is a part of a larger quantized tensor, as the half of the
    channels that goes by in a ShuffleNet, keeps the scale of the whole, and is no finding.

    Source: ModelOpt; NVIDIA's guidance for YOLO; measured on TensorRT for RTX: a requantizing
    step a branch, which the kernels before an Inception's and a DenseNet's Concat took in. A
    ShuffleNet with one scale a unit moves 8 % fewer bytes than without Q/DQ on what goes by.
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
        before = [dq for t in moved if (dq := _moved_whole(t)) is not None and _is_pair(dq)]
        behind = [q for t in node.outputs for q, i in consumers(t) if q.op == QUANTIZE and i == 0]
        if not before or not all(subject.is_fed(t) for t in node.outputs):
            continue
        pairs = list({id(x): x for x in (*before, *behind)}.values())
        scales = {scale for pair in pairs if (scale := scalar_scale(pair)) is not None}
        if len(scales) > 1:
            yield _objection(subject, node, pairs, scales)


def _moved_whole(tensor: gs.Tensor) -> gs.Node | None:
    """The DQ whose values a tensor holds, all of them."""
    dequantizer = dequantizer_behind(tensor)
    if dequantizer is None or any(map(chooses_part, movers_between(dequantizer, tensor))):
        return None
    return dequantizer


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
    """Leave the rounding to the Qs behind, where the pairs before it serve nothing else; without Qs
    behind give all one scale, unless that costs more than a bit.

    A Q behind moves back over the operator, so that the pairs before it only round once more. With
    the largest of all scales instead a chain of such operators ends up with a single one: a
    ShuffleNet lost 3 to 5 dB.
    """
    if _is_rounded(subject, node):
        edges = _edges_of_pairs(subject, node)
        behind = {scalar_scale(x) for output in node.outputs for x in quantizers_behind(output)}
        last = behind.pop() if len(behind) == 1 else None
        return partial(_round_once, subject, edges, last) if edges is not None else None
    is_near = max(scales) <= ONE_BIT * min(scales)
    return partial(share_largest, subject, pairs) if is_near else None


def _round_once(subject: Subject, edges: list[Edge], scale: float | None) -> None:
    """Take pairs off; one that a pool needs right behind it gets the scale of the Q that follows,
    which cuts off what is beyond it anyway.
    """
    for node, index in edges:
        is_needed = _is_of_pool(subject, node.inputs[index])
        if not is_needed or scale is not None:
            skip_pair(subject, node, index)
        if is_needed and scale is not None:
            add_pair(subject, [(node, index)], np.asarray(scale, np.float32))


def _is_of_pool(subject: Subject, tensor: gs.Tensor) -> bool:
    """Whether a DQ's pair is right behind a pool that runs in INT8 for that (QDQ110)."""
    dequantizer = dequantizer_of(tensor)
    quantizer = quantizer_of(dequantizer) if dequantizer is not None else None
    pool = producer(quantizer.inputs[0]) if quantizer is not None else None
    is_pool = pool is not None and pool.op in PROFILES[subject.config.profile].pool_ops
    return is_pool and subject.wanted.is_placed(pool, 0)


def _is_rounded(subject: Subject, node: gs.Node) -> bool:
    """Whether nothing but Qs reads what a node moves, at once or behind more that only move it."""
    pending, seen = [node], {id(node)}
    while pending:
        for output in pending.pop().outputs:
            readers = [(x, i) for x, i in consumers(output) if x.op != QUANTIZE or i != 0]
            if id(output) in subject.outputs or not consumers(output):
                return False
            if not all(any(x is output for x in value_inputs(reader)) for reader, _ in readers):
                return False
            new = [reader for reader, _ in readers if id(reader) not in seen]
            seen.update(id(reader) for reader in new)
            pending.extend(new)
    return True


def _edges_of_pairs(subject: Subject, node: gs.Node) -> list[Edge] | None:
    """Where DQs are read on the ways to what a node moves; None where one may be for others."""
    edges: list[Edge] = []
    pending, seen = [node], {id(node)}
    while pending:
        mover = pending.pop()
        for index, tensor in enumerate(mover.inputs):
            if not any(tensor is moved for moved in value_inputs(mover)):
                continue
            dequantizer = dequantizer_of(tensor)
            edges += [(mover, index)] if dequantizer is not None else []
            source = _moved_by(tensor)
            if source is None or id(source) in seen:
                continue
            seen.add(id(source))
            if _is_rounded(subject, source):
                pending.append(source)
            elif dequantizer is None and _moved_whole(tensor) is not None:
                return None
    return edges


def _moved_by(tensor: gs.Tensor) -> gs.Node | None:
    """The node that moved a tensor's values before they were quantized and dequantized, if they
    were; None if none did, or chose a part: the whole keeps its scale.
    """
    dequantizer = dequantizer_of(tensor)
    quantizer = quantizer_of(dequantizer) if dequantizer is not None else None
    source = producer(tensor if quantizer is None else quantizer.inputs[0])
    is_whole = source is not None and bool(value_inputs(source)) and not chooses_part(source)
    return source if is_whole else None


def _is_pair(dequantizer: gs.Node) -> bool:
    return quantizer_of(dequantizer) is not None
