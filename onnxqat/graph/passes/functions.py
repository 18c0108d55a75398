"""Model-local functions: their nodes move into the graph, where they can be quantized."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from onnxqat.core.errors import ModelError
from onnxqat.graph.change import Change
from onnxqat.graph.exporter import constants_of
from onnxqat.graph.graph import Graph
from onnxqat.graph.importer import import_model
from onnxqat.graph.infer import skeleton_of
from onnxqat.graph.passes.edit import replace_reads


def inline_functions(graph: Graph, report: Callable[[Change], None]) -> Graph:
    """The graph with every call of a model-local function replaced by the function's nodes.

    Raises:
        ModelError: A function is written for another opset than the model.
    """
    if not graph.shell.functions:
        return graph
    from onnx.inliner import inline_local_functions

    _check_opsets(graph)
    inlined = import_model(inline_local_functions(skeleton_of(graph)))
    _put_back(inlined, {constant.name: constant for constant in constants_of(graph)})
    inlined.initializer_order = graph.initializer_order
    inlined.initializer_inputs = graph.initializer_inputs
    inlined.has_external_data = graph.has_external_data
    for function in graph.shell.functions:
        report(Change("inline function", function.name, "its calls became its own nodes"))
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
