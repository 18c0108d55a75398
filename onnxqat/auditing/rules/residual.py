"""QDQ105, QDQ106, QDQ122: the branches of a residual Add, and the scale of a skip."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, rule
from onnxqat.auditing.repair import add_pair, skip_pair, write_scale
from onnxqat.auditing.subject import (
    QUANTIZE,
    Subject,
    dequantizer_behind,
    dequantizer_of,
    dequantizers_of,
    scalar_scale,
)
from onnxqat.auditing.values import input_of, label, value_of
from onnxqat.core.finding import Severity
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.graph.query import consumers, producer
from onnxqat.placement.scene import value_inputs


@rule("QDQ105", Severity.WARNING)
def missing_on_residual(subject: Subject) -> Iterator[Objection]:
    """A branch of a residual Add is not quantized.

    Why it matters: the branch waits for the other one in memory. Without Q/DQ it does so in float,
    four times the bytes; on ResNet-20 the activations grow by 27 %.

    How to fix: put Q/DQ on the branch that does not fuse into a kernel, with the scale that the
    tensor has elsewhere. The branch that the Add fuses into stays bare.

    Source: TensorRT developer guide, Q/DQ layer placement; measured on TensorRT for RTX: 2.57 MB of
    activations instead of 1.99 MB.
    """
    for node in subject.nodes:
        if node.op != "Add" or len(node.inputs) != 2:
            continue
        for index in (0, 1):
            tensor = node.inputs[index]
            if not subject.wanted.is_placed(node, index) or dequantizer_behind(tensor) is not None:
                continue
            if _is_the_other_way_round(subject, node, index):
                continue
            scale = _scale_elsewhere(tensor)
            yield Objection(
                f"the branch '{tensor.name}' of this residual Add is not quantized: it crosses "
                "memory in float",
                node=label(node),
                tensor=tensor.name,
                fix="put Q/DQ on the branch, with the scale that the tensor has elsewhere",
                repair=None
                if scale is None
                else partial(add_pair, subject, [(node, index)], np.asarray(scale, np.float32)),
            )


def _is_the_other_way_round(subject: Subject, node: gs.Node, index: int) -> bool:
    """Whether both branches end in a kernel, and the file quantizes the other one."""
    if dequantizer_behind(node.inputs[1 - index]) is None:
        return False
    twin = subject.wanted.twin(node)
    return twin is not None and all(_ends_in_kernel(tensor) for tensor in twin.inputs)


def _ends_in_kernel(tensor: gs.Tensor) -> bool:
    node = producer(tensor)
    while node is not None and node.op in ("Add", "BatchNormalization", "Mul"):
        node = producer(node.inputs[0])
    return node is not None and node.op in HEAVY_OPS


def _scale_elsewhere(tensor: gs.Tensor) -> float | None:
    """The scale that a tensor, or what it was moved from, is quantized with for another reader."""
    pending = [tensor]
    while pending:
        current = pending.pop()
        for reader, index in consumers(current):
            scale = scalar_scale(reader) if reader.op == QUANTIZE and index == 0 else None
            if scale is not None:
                return scale
        node = producer(current)
        if node is not None and node.op != "Concat":
            pending.extend(value_inputs(node))
    return None


@rule("QDQ122", Severity.NOTE)
def both_residual_branches(subject: Subject) -> Iterator[Objection]:
    """Both branches of a residual Add are quantized, though it fuses into one of them.

    Why it matters: the Add fuses into the kernel of the Conv or MatMul that is computed last. Q/DQ
    between that kernel and the Add rounds a value that never leaves the kernel's accumulator.

    How to fix: leave the branch bare that comes right out of the last Conv or MatMul.

    Source: TensorRT developer guide, Q/DQ layer placement; NVIDIA's tensorflow-quantization.
    """
    for node in subject.nodes:
        if node.op != "Add" or len(node.inputs) != 2:
            continue
        placed = [subject.wanted.is_placed(node, index) for index in (0, 1)]
        if sum(placed) != 1 or any(dequantizer_of(tensor) is None for tensor in node.inputs):
            continue
        index = placed.index(False)
        if subject.wanted.at(node, index) is None:
            continue
        yield Objection(
            "both branches of this residual Add are quantized; the one that it fuses into is "
            "rounded for nothing",
            node=label(node),
            tensor=node.inputs[index].name,
            fix="take the Q/DQ pair off this branch",
            repair=partial(skip_pair, subject, node, index),
        )


@rule("QDQ106", Severity.WARNING)
def own_scale(subject: Subject) -> Iterator[Objection]:
    """A tensor is quantized twice, with different scales.

    Why it matters: a tensor that a Conv and a residual Add both read is stored once, in INT8, if
    both read it with one scale. With a scale of its own for the skip it is stored as float, or
    quantized and stored twice.

    How to fix: give all Q on a tensor the same scale, the largest of theirs.

    Source: NVIDIA's tensorflow-quantization; measured: the block keeps an extra float tensor, which
    is as bad as a skip without Q/DQ (32 % more bytes in a small residual network).
    """
    seen: set[int] = set()
    for first in subject.quantizers:
        tensor = first.inputs[0]
        if id(tensor) in seen or not subject.is_fed(tensor):
            continue
        seen.add(id(tensor))
        scales = {id(q): (q, s) for q in _quantizers(tensor) if (s := scalar_scale(q)) is not None}
        if len({scale for _, scale in scales.values()}) > 1:
            yield _unequal(subject, tensor, list(scales.values()))


def _quantizers(tensor: gs.Tensor) -> list[gs.Node]:
    return [node for node, i in consumers(tensor) if node.op == QUANTIZE and i == 0]


def _unequal(subject: Subject, tensor: gs.Tensor, scales: list[tuple[gs.Node, float]]) -> Objection:
    odd = min(scales, key=lambda found: (_feeds_kernel(found[0]), found[0].name))[0]
    shown = ", ".join(sorted(f"{scale:.4g}" for _, scale in scales))
    return Objection(
        f"'{tensor.name}' is quantized {len(scales)} times, with the scales {shown}",
        node=label(odd),
        tensor=tensor.name,
        fix="give all of them the same scale",
        repair=partial(share_largest, subject, [node for node, _ in scales]),
    )


def _feeds_kernel(quantizer: gs.Node) -> bool:
    behind = (dq.outputs[0] for dq in dequantizers_of(quantizer))
    return any(node.op in HEAVY_OPS for tensor in behind for node, _ in consumers(tensor))


def share_largest(subject: Subject, nodes: list[gs.Node]) -> None:
    """Give Q and DQ nodes, and their partners, the largest of their scales."""
    values = [value_of(input_of(node, 1)) for node in nodes]
    known = [value.reshape(()) for value in values if value is not None and value.size == 1]
    for node in nodes:
        write_scale(subject, node, np.asarray(max(known)))
