"""Functions: their nodes move into the graph, where they can be quantized.

Those of the model itself, and operators that ONNX defines by others, where TensorRT would rather
have these.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnxqat.core.errors import ModelError
from onnxqat.graph.change import Change
from onnxqat.graph.exporter import constants_of
from onnxqat.graph.graph import Graph, all_graphs, is_onnx
from onnxqat.graph.importer import import_model
from onnxqat.graph.infer import inferred_skeleton_of, skeleton_of
from onnxqat.graph.passes.edit import replace_reads

INLINED = ("Attention",)
"""Operators with matrix products inside, which as one node stay in float: TensorRT for RTX 1.7
refuses Attention on float32 values of rank 4, and runs its products in INT8."""
SCORES = 3
"""The output of Attention that holds the scores."""


def inline_functions(graph: Graph, report: Callable[[Change], None]) -> Graph:
    """The graph with every call of a model-local function replaced by the function's nodes.

    Raises:
        ModelError: A function is written for another opset than the model.
    """
    if not graph.shell.functions:
        return graph
    from onnx.inliner import inline_local_functions

    _check_opsets(graph)
    inlined = _imported(inline_local_functions(skeleton_of(graph)), graph)
    for function in graph.shell.functions:
        report(Change("inline function", function.name, "its calls became its own nodes"))
    return inlined


def inline_operators(graph: Graph, report: Callable[[Change], None]) -> Graph:
    """The graph with the operators of `INLINED` replaced by what ONNX defines them by.

    All of them stay where one has inputs left out before others or of unknown types, which ONNX's
    inliner does not take, or gives out its masked scores, which runtimes do not mask alike.
    """
    called = [node for inner in all_graphs(graph) for node in inner.nodes if _is_inlined(node)]
    if not called or not all(map(_is_plain, called)):
        return graph
    from onnx.inliner import inline_selected_functions

    names = [("", op) for op in INLINED]
    skeleton = inferred_skeleton_of(graph)
    for tensor in skeleton.graph.initializer:  # whose types the inliner does not look up
        entry = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        skeleton.graph.value_info.append(entry)
    try:
        model = inline_selected_functions(skeleton, names, inline_schema_functions=True)
    except RuntimeError:  # an operator of another domain, say, of which nobody knows what it makes
        return graph
    for node in called:
        detail = f"this {node.op} became the products that ONNX defines it by"
        report(Change("inline operator", node.name or node.outputs[0].name, detail))
    return _imported(model, graph)


def _is_inlined(node: gs.Node) -> bool:
    return is_onnx(node) and node.op in INLINED


def _is_plain(node: gs.Node) -> bool:
    has_scores = len(node.outputs) > SCORES and not node.outputs[SCORES].is_empty()
    return not has_scores and not any(tensor.is_empty() for tensor in node.inputs)


def _imported(model: onnx.ModelProto, graph: Graph) -> Graph:
    """The graph of what became of `graph`'s skeleton."""
    inlined = import_model(model)
    _put_back(inlined, {constant.name: constant for constant in constants_of(graph)})
    inlined.initializer_order = graph.initializer_order
    inlined.initializer_inputs = graph.initializer_inputs
    inlined.has_external_data = graph.has_external_data
    return inlined


def _check_opsets(graph: Graph) -> None:
    for function in graph.shell.functions:
        for entry in function.opset_import:
            if entry.domain in ("", "ai.onnx") and entry.version != graph.opset:
                raise ModelError(
                    f"function '{function.name}' is written for opset {entry.version}, the model "
                    f"for {graph.opset}",
                    fix="inline it with onnx.inliner.inline_local_functions(convert_version=True)",
                )


def _put_back(inlined: Graph, constants: dict[str, gs.Constant]) -> None:
    """Big constants went along as graph inputs."""
    for tensor in inlined.inputs:
        if tensor.name in constants:
            old = constants[tensor.name]
            replace_reads(tensor, gs.Constant(old.name, old._values))
    inlined.inputs = [tensor for tensor in inlined.inputs if tensor.name not in constants]
