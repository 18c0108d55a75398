"""Nodes that pass their input on unchanged: Identity, and Dropout at inference."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxqat.graph.change import Change
from onnxqat.graph.graph import Graph, all_graphs, is_onnx
from onnxqat.graph.passes.edit import remove_nodes, replace_reads
from onnxqat.graph.query import constant_value, consumers, is_output, producer


def drop_identities(graph: Graph) -> Iterator[Change]:
    """Identity and inference-time Dropout go; names of graph inputs and outputs stay.

    One between a graph input (or an initializer, or another output) and a graph output stays: the
    output would have no node to come from.
    """
    for inner in all_graphs(graph):
        dropped = []
        for node in inner.nodes:
            if _is_identity(node) and _bypass(inner, node):
                dropped.append(node)
                yield Change("drop identity", node.name, f"{node.op} passed its input on unchanged")
        remove_nodes(inner, dropped)


def _is_identity(node: gs.Node) -> bool:
    dropout = node.op == "Dropout" and _is_inference(node)
    return is_onnx(node) and (node.op == "Identity" or dropout)


def _is_inference(node: gs.Node) -> bool:
    """Opset 7 and 10 have inference only; since 12 an input says so, and absent means inference."""
    if any(consumers(mask) for mask in node.outputs[1:]):
        return False
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return True
    training = constant_value(node.inputs[2])
    return training is not None and not training.any()


def _bypass(inner: gs.Graph, node: gs.Node) -> bool:
    """Connect what reads the output to the input; False if an output's name forbids it."""
    source, output = node.inputs[0], node.outputs[0]
    if any(is_output(inner, mask) for mask in node.outputs[1:]):
        return False
    if not is_output(inner, output):
        replace_reads(output, source)
        return True
    maker = producer(source)
    if maker is None or is_output(inner, source) or not any(maker is own for own in inner.nodes):
        return False
    index = next(i for i, made in enumerate(maker.outputs) if made is source)
    node.outputs.clear()
    maker.outputs[index] = output
    replace_reads(source, output)
    return True
