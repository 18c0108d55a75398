"""Tells a compiled plan what the nodes of its ONNX file became."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnxqat.core.engine_plan import EnginePlan, QdqEdge
from onnxqat.core.precision import TOLD_OPS, node_precisions
from onnxqat.core.qdq_passage import qdq_layers, with_passages
from onnxqat.engine.model_file import plan_name
from onnxqat.graph.query import consumers, producer


def with_nodes(plan: EnginePlan, graph: gs.Graph) -> EnginePlan:
    """The plan with what each node and each Q/DQ pair of its file became."""
    ops = {plan_name(node): node.op for node in graph.nodes}
    return replace(
        plan,
        nodes=node_precisions(plan, ((x, op) for x, op in ops.items() if op in TOLD_OPS)),
        qdq=with_passages(plan, _qdq_edges(graph), ops),
        qdq_layers=tuple(layer.name for layer in qdq_layers(plan, ops)),
    )


def _qdq_edges(graph: gs.Graph) -> Iterator[QdqEdge]:
    """Each edge behind a DQ of an activation; weights are no matter of kernels."""
    for dq in graph.nodes:
        if dq.op != "DequantizeLinear" or isinstance(dq.inputs[0], gs.Constant):
            continue
        q = _quantizing(dq.inputs[0])
        source = dq.inputs[0] if q is None else q.inputs[0]
        if isinstance(source, gs.Constant):
            continue
        q_name = None if q is None else plan_name(q)
        for reader in dict.fromkeys(plan_name(node) for node, _ in consumers(dq.outputs[0])):
            yield QdqEdge(source.name, q_name, plan_name(dq), reader)


def _quantizing(codes: gs.Tensor) -> gs.Node | None:
    node = producer(codes)
    return node if node is not None and node.op == "QuantizeLinear" else None
