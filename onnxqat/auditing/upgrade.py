"""The repair that raises a model to an opset whose Q/DQ have an axis, and writes the axis."""

from __future__ import annotations

from functools import partial

import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Repair
from onnxqat.auditing.repair import pair_of, write_axis
from onnxqat.auditing.subject import Subject
from onnxqat.core.errors import OnnxqatError
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.core.spec import PerChannel
from onnxqat.graph.passes.opset import raise_opset
from onnxqat.graph.query import consumers
from onnxqat.placement.weights import weight_granularity


def axis_repair(subject: Subject, node: gs.Node, channels: int, opset: int) -> Repair | None:
    """Raise the model to `opset`, and write the axis of a pair with this many scales; None where
    its axis is not clear.
    """
    axis = _axis(node, channels)
    return None if axis is None else partial(_raise, subject, node, axis=axis, opset=opset)


def _raise(subject: Subject, node: gs.Node, *, axis: int, opset: int) -> None:
    for _ in raise_opset(subject.graph, opset):
        pass  # what it rewrites is told by the audit that follows
    write_axis(node, axis)


def can_be_raised(subject: Subject, opset: int) -> bool:
    """Whether each operator has an equal in `opset`. A dry run: what fails must not leave half."""
    try:
        return bool(list(raise_opset(subject.graph.copy(), opset)))
    except OnnxqatError:
        return False


def _axis(node: gs.Node, channels: int) -> int | None:
    """What the file says though its opset has no such attribute; else the output channels of the
    weights that they scale; else the only axis of that size.
    """
    shape = node.inputs[0].shape
    if shape is None:
        return None
    if "axis" in node.attrs:
        return int(node.attrs["axis"])
    fitting = [axis for axis, size in enumerate(shape) if size == channels]
    wanted = _output_axis(node)
    if wanted in fitting:
        return wanted
    return fitting[0] if len(fitting) == 1 else None


def _output_axis(node: gs.Node) -> int | None:
    for member in pair_of(node):
        for reader, index in consumers(member.outputs[0]):
            if reader.op in HEAVY_OPS and index in (0, 1) and reader.inputs[index].shape:
                granularity = weight_granularity(reader, index)
                return granularity.axis if isinstance(granularity, PerChannel) else None
    return None
