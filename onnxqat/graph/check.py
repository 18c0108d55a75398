"""The ONNX checker and shape inference, on copies without the big weights.

Both hand the whole model to C++ as one serialized proto, which ends at 2 GB and costs several
copies of the weights. Neither looks at a weight's values, so big ones are shown as graph inputs.
"""

from __future__ import annotations

from math import prod

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from onnxqat.core.errors import ModelError
from onnxqat.graph.exporter import export_model, tensor_proto
from onnxqat.graph.graph import Graph, tensors_of
from onnxqat.graph.importer import copy_without, type_of

BIG = 1024
"""Elements from which an initializer is a weight; shapes, axes, pads and indices are smaller."""


MAX_DEPTH = 30
"""Graphs nested deeper are refused: protobuf itself ends at 100 nested messages, three a graph."""


def check_model(model: onnx.ModelProto) -> None:
    """Run the ONNX checker.

    Raises:
        ModelError: The checker rejects the model, in its own words, or graphs nest too deeply.
    """
    _check_depth(model.graph)
    try:
        onnx.checker.check_model(without_weights(model))
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"the ONNX checker rejects the model: {str(error).strip()}",
            fix="export the model again with a current exporter",
        ) from error


def _check_depth(graph: onnx.GraphProto) -> None:
    """Without recursion, which is what a model nested thousands deep is out to exhaust."""
    level = [graph]
    for _ in range(MAX_DEPTH):
        level = [e.g for g in level for n in g.node for e in n.attribute if e.HasField("g")]
        if not level:
            return
    raise ModelError(
        f"the model nests graphs more than {MAX_DEPTH} deep",
        at=f"graph '{level[0].name}'",
        fix="flatten the If, Loop or Scan nodes",
    )


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which big initializers are graph inputs of the same name, type and shape."""
    copy: onnx.ModelProto = copy_without(model, {"graph"})
    copy.graph.CopyFrom(copy_without(model.graph, {"initializer"}))
    inputs = {entry.name for entry in model.graph.input}
    for tensor in model.graph.initializer:
        if not _is_big(tensor):
            copy.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            copy.graph.input.append(_as_input(tensor))
    return copy


def _is_big(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or prod(tensor.dims) > BIG


def _as_input(tensor: TensorProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def infer_shapes(graph: Graph) -> int:
    """Give the graph's variables the types and shapes that ONNX can infer; changes the graph.

    Known types and dimensions stay; unknown ones are filled in.

    Returns:
        The number of variables that learnt something.

    Raises:
        ModelError: The graph's types or shapes contradict each other.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton_of(graph), data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"ONNX shape inference fails: {error}") from error
    return _learn(graph, inferred.graph)


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


def _learn(graph: gs.Graph, proto: onnx.GraphProto) -> int:
    """Take over what the proto of this very graph says about its tensors."""
    variables = {t.name: t for t in tensors_of(graph) if isinstance(t, gs.Variable)}
    learnt = sum(
        _fill(variables[entry.name], entry)
        for entry in (*proto.value_info, *proto.output)
        if entry.name in variables
    )
    for node, node_proto in zip(graph.nodes, proto.node, strict=True):
        for entry in node_proto.attribute:
            if entry.HasField("g"):
                learnt += _learn(node.attrs[entry.name], entry.g)
    return learnt


def _fill(tensor: gs.Variable, entry: onnx.ValueInfoProto) -> bool:
    dtype, shape, kind = type_of(entry.type)
    if dtype is None:
        return False
    before = (tensor.dtype, tensor.shape)
    tensor.type = kind if tensor.dtype is None else tensor.type
    tensor.dtype = dtype if tensor.dtype is None else tensor.dtype
    if shape is not None:
        tensor.shape = _merge(tensor.shape, shape)
    return before != (tensor.dtype, tensor.shape)


def _merge(
    known: list[int | str | None] | None, inferred: list[int | str | None]
) -> list[int | str | None]:
    """The known dimensions, and the inferred ones where nothing was known."""
    inferred = [None if str(dim).startswith("unk__") else dim for dim in inferred]
    if known is None or len(known) != len(inferred):
        return inferred if known is None else known
    return [new if old is None else old for old, new in zip(known, inferred, strict=True)]
