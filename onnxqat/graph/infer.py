"""ONNX shape inference, on a copy of the graph without the big weights (see check.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, ValueInfoProto, helper

from onnxqat.graph.check import BIG
from onnxqat.graph.exporter import export_model, tensor_proto
from onnxqat.graph.graph import Graph, carry, tensors_of
from onnxqat.graph.importer import copy_proto, type_of
from onnxqat.graph.query import constant_value, is_output

Shape = list[int | str | None]

LONG_LIST = 2**16
"""Numbers in a list up to which ONNX may follow them in search of shapes."""


def infer_shapes(graph: Graph) -> tuple[str, ...]:
    """Give the graph's inner variables the types and shapes that ONNX infers; changes the graph.

    Known types and dimensions stay and unknown ones are filled in. Inputs and outputs stay as they
    are declared; an output of which the file says no type or shape gets one.

    Returns:
        The variables whose declared shape is not what the nodes make, and was corrected.
    """
    return tuple(_learn(graph, inferred_skeleton_of(graph).graph))


def inferred_skeleton_of(graph: gs.Graph) -> onnx.ModelProto:
    """The model of a graph without its big weights, with the types and shapes that ONNX infers."""
    return _inferred(skeleton_of(graph), follow_values=not _makes_long_list(graph))


def skeleton_of(graph: gs.Graph) -> onnx.ModelProto:
    """The model of a graph, in which big initializers are graph inputs."""
    big: dict[str, gs.Constant] = {}

    def write_small(constant: gs.Constant) -> TensorProto | None:
        if prod(constant.shape) <= BIG:
            return tensor_proto(constant)
        big[constant.name] = constant
        return None

    model = export_model(graph, write_small)
    present = {entry.name for entry in model.graph.input}
    for name, constant in big.items():
        if name not in present:
            kind = helper.np_dtype_to_tensor_dtype(constant.dtype)
            model.graph.input.append(helper.make_tensor_value_info(name, kind, constant.shape))
    return model


def _makes_long_list(graph: gs.Graph) -> bool:
    """Whether constants make a long list of numbers, each of which would cost ONNX 140 bytes."""
    return any(_list_length(node) > LONG_LIST for node in graph.nodes)


def _list_length(node: gs.Node) -> float:
    """How many numbers a node makes, where constants say so; else 0."""
    if node.op not in ("ConstantOfShape", "Range"):
        return 0.0
    values = [constant_value(tensor) for tensor in node.inputs]
    if any(value is None for value in values):
        return 0.0
    numbers = [np.asarray(value, np.float64) for value in values]
    if node.op == "ConstantOfShape":
        return float(np.prod(numbers[0]))
    start, limit, delta = (number.item() for number in numbers)
    return (limit - start) / (delta or 1.0)


def _inferred(model: onnx.ModelProto, *, follow_values: bool) -> onnx.ModelProto:
    """The model with what ONNX infers of it, by the first of four ways that it does not refuse.

    Following the values of shapes finds most, but trips over names that two branches both use.
    Without what the file states about inner tensors, a wrong statement harms nobody. Not strict,
    ONNX goes on behind a contradiction: it sees some in models that run, so that they are no error
    here.
    """
    with suppress(onnx.shape_inference.InferenceError):
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=follow_values)
    with suppress(onnx.shape_inference.InferenceError):
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)
    without_statements = onnx.ModelProto()
    without_statements.CopyFrom(model)
    _forget_declared(without_statements.graph)
    with suppress(onnx.shape_inference.InferenceError):
        return onnx.shape_inference.infer_shapes(without_statements, strict_mode=True)
    return onnx.shape_inference.infer_shapes(model, data_prop=follow_values)


def _forget_declared(graph: onnx.GraphProto) -> None:
    """Leave only what nodes make: the shapes that a file states beside may be wrong."""
    del graph.value_info[:]
    for output in graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for entry in node.attribute:
            if entry.HasField("g"):
                _forget_declared(entry.g)


def _learn(graph: gs.Graph, proto: onnx.GraphProto) -> Iterator[str]:
    """Take over what the proto of this very graph says about its inner variables."""
    variables = {
        tensor.name: tensor
        for tensor in tensors_of(graph)
        if isinstance(tensor, gs.Variable) and not is_output(graph, tensor)
    }
    for entry in proto.value_info:
        if entry.name in variables and _fill(variables[entry.name], entry):
            yield entry.name
    for output, entry in zip(graph.outputs, proto.output, strict=True):
        if isinstance(output, gs.Variable) and (output.dtype is None or output.shape is None):
            _fill(output, entry)
    for node, node_proto in zip(graph.nodes, proto.node, strict=True):
        for attribute in node_proto.attribute:
            if attribute.HasField("g"):
                yield from _learn(node.attrs[attribute.name], attribute.g)


def _fill(tensor: gs.Variable, entry: ValueInfoProto) -> bool:
    """Complete the type of a variable; whether that corrected it."""
    dtype, shape, kind = type_of(entry.type)
    if kind != "tensor_type":
        _fill_other(tensor, entry)
        return False
    if tensor.dtype is None:
        tensor.dtype = dtype
    if shape is None:
        return False
    # ONNX numbers the dimensions that it knows nothing about.
    shape = [None if str(dim).startswith("unk__") else dim for dim in shape]
    known = tensor.shape
    tensor.shape = shape if known is None else _merge(known, shape)
    return known is not None and _contradicts(known, shape)


def _fill_other(tensor: gs.Variable, entry: ValueInfoProto) -> None:
    """A sequence or optional: its proto alone tells what it is one of."""
    if tensor.dtype is None:
        tensor.dtype, tensor.shape, tensor.type = type_of(entry.type)
        carry(tensor, copy_proto(entry))


def _merge(known: Shape, inferred: Shape) -> Shape:
    """The known dimensions, and the inferred ones where nothing was known or the known is wrong."""
    if _contradicts(known, inferred):
        return inferred
    return [new if old is None else old for old, new in zip(known, inferred, strict=True)]


def _contradicts(known: Shape, inferred: Shape) -> bool:
    if len(known) != len(inferred):
        return True
    pairs = zip(known, inferred, strict=True)
    return any(isinstance(x, int) and isinstance(y, int) and 0 < x != y for x, y in pairs)
