"""The ONNX checker, on a copy without the big weights.

It is handed the whole model as one serialized proto, which ends at 2 GB and costs several copies of
the weights. It does not look at a weight's values, so big ones are shown to it as graph inputs.
It does insist on a type and a shape of each output, which graph editors leave out and ONNX Runtime
and TensorRT do without.
"""

from __future__ import annotations

from math import prod

import onnx
from onnx import TensorProto, helper

from onnxqat.core.errors import ModelError
from onnxqat.graph.importer import copy_without

BIG = 1024
"""Elements from which an initializer is a weight; shapes, axes, pads and indices are smaller."""


MAX_DEPTH = 30
"""Graphs nested deeper are refused: protobuf itself ends at 100 nested messages, three a graph."""


def check_model(model: onnx.ModelProto) -> None:
    """Run the ONNX checker.

    Raises:
        ModelError: The checker rejects the model, in its own words, an input has no shape, or
            graphs nest too deeply.
    """
    _check_depth(model.graph)
    _check_inputs(model.graph)
    try:
        onnx.checker.check_model(_with_output_types(without_weights(model)))
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


def _check_inputs(graph: onnx.GraphProto) -> None:
    """The checker does not say which input it misses a shape of."""
    for entry in graph.input:
        kind = entry.type
        if kind.HasField("tensor_type") and not kind.tensor_type.HasField("shape"):
            raise ModelError(
                "the model does not say the shape of an input",
                tensor=entry.name,
                fix="state it, names for dynamic dimensions: polygraphy surgeon sanitize "
                f"--override-input-shapes '{entry.name}:[batch,3,224,224]' MODEL -o OUT",
            )


def _with_output_types(copy: onnx.ModelProto) -> onnx.ModelProto:
    """The same copy, where outputs that say nothing are numbers of some shape."""
    for output in copy.graph.output:
        kind = output.type.WhichOneof("value") or "tensor_type"
        if kind == "tensor_type":
            tensor = output.type.tensor_type
            tensor.elem_type = tensor.elem_type or TensorProto.FLOAT
            tensor.shape.SetInParent()
    return copy


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
