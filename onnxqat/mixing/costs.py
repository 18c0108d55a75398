"""What a node gives up of quantization in a format of more bits, and its error in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_graphsurgeon as gs

from onnxqat.bridge import OnnxModule, to_torch
from onnxqat.core.calibration import Calibration
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import QuantDtype
from onnxqat.data import Dataset
from onnxqat.graph import Graph, insert, qdq_pairs
from onnxqat.graph.names import Names
from onnxqat.graph.query import nodes_by_name
from onnxqat.training import SensitivityConfig, Validation
from onnxqat.training.sensitivity import errors_alone

FLOAT_BITS = 32


@dataclass(frozen=True)
class Quantization:
    """A plan for all nodes in one format, with its ranges."""

    format: str
    plan: QuantPlan
    calibration: Calibration


def node_errors(
    graph: Graph,
    one: Quantization,
    nodes: Sequence[str],
    data: Dataset,
    config: SensitivityConfig,
) -> dict[str, float]:
    """Node -> the noise that it makes alone, as a share of the outputs' power, in this format.

    That is all edges of the node, and none of others that read the same tensor. Of several outputs
    it is the worst one's. What is gained when a node alone is left out is no better guide: near a
    budget few errors are left, and what each does among all of them is noise itself.
    """
    student = to_torch(one_pair_an_edge(insert(graph, one.plan, one.calibration)))
    groups = quantizers_of_nodes(student)
    wanted = [node for node in nodes if node in groups]
    found = errors_alone(
        student, to_torch(graph), data, [groups[node] for node in wanted], config=config
    )
    return dict.fromkeys(nodes, 0.0) | dict(zip(wanted, map(_noise, found), strict=True))


def _noise(found: Validation) -> float:
    """The worst output's noise, as a share of its power."""
    return float(10 ** (-found.sqnr_db / 10))


def one_pair_an_edge(graph: Graph) -> Graph:
    """A copy in which each reader of a quantized tensor has a Q/DQ pair of its own.

    It computes the same; but each edge can then be switched off by itself.
    """
    copy = graph.copy()
    names, nodes = Names(copy), nodes_by_name(copy)
    behind: dict[str, list[gs.Node]] = {}
    for pair in qdq_pairs(copy):
        dq = nodes[pair.dq_node]
        made = behind.setdefault(dq.name, [])
        for edge in pair.consumers[1:]:
            codes = dq.inputs[0]
            if pair.q_node is not None:
                q = _like(nodes[pair.q_node], list(nodes[pair.q_node].inputs), names)
                codes = q.outputs[0]
                made.append(q)
            made.append(_like(dq, [codes, *dq.inputs[1:]], names))
            nodes[edge.node].inputs[edge.index] = made[-1].outputs[0]
    copy.nodes = [item for node in copy.nodes for item in (node, *behind.get(node.name, ()))]
    return copy


def _like(node: gs.Node, inputs: list[gs.Tensor], names: Names) -> gs.Node:
    """A node like this one, with an output of its own."""
    old = node.outputs[0]
    output = gs.Variable(names.tensor(old.name), old.dtype, old.shape)
    name = names.node(node.name)
    return gs.Node(node.op, name, dict(node.attrs), inputs=inputs, outputs=[output])


def quantizers_of_nodes(student: OnnxModule) -> dict[str, tuple[str, ...]]:
    """Node -> the quantizers through which it reads; of a graph with one pair an edge."""
    found: dict[str, list[str]] = {}
    for pair in qdq_pairs(student.graph):
        name = pair.output if pair.output in student.quantizers else pair.tensor
        for edge in pair.consumers if name in student.quantizers else ():
            found.setdefault(edge.node, []).append(name)
    return {node: tuple(names) for node, names in found.items()}


def node_bytes(graph: Graph, plan: QuantPlan | None, of: QuantPlan) -> dict[str, float]:
    """Node -> bytes of its quantized operands, for one sample.

    Args:
        graph: The FP32 graph; a dimension without a number counts once.
        plan: The formats; None: float.
        of: The plan that says which operands are meant.
    """
    tensors = graph.tensors()
    found: dict[str, float] = {}
    for placement in of.placements:
        edge = placement.edge
        is_placed = plan is not None and edge in plan.by_edge
        bits = bits_of(plan.spec_of(edge).dtype) if plan is not None and is_placed else FLOAT_BITS
        size = _values(tensors[edge.tensor])
        found[edge.node] = found.get(edge.node, 0.0) + size * bits / 8
    return found


def _values(tensor: gs.Tensor) -> int:
    return prod(size for size in tensor.shape or () if isinstance(size, int) and size > 0)


def bits_of(dtype: QuantDtype) -> int:
    """Bits that a code needs."""
    return min(dtype.qmax.bit_length() + 1, 8)


Costs = Mapping[tuple[str, str], float]
"""Node and format -> what is given up, as a share (0 to 1) of all that could be."""


def costs_in_bytes(
    graph: Graph, formats: Sequence[Quantization], nodes: Sequence[str], name_of_float: str
) -> Costs:
    """By the bytes of what each node reads."""
    base = formats[0].plan
    narrow, wide = node_bytes(graph, base, base), node_bytes(graph, None, base)
    total = sum(wide[node] - narrow[node] for node in nodes) or 1.0
    costs = {(node, name_of_float): (wide[node] - narrow[node]) / total for node in nodes}
    for one in formats:
        own = node_bytes(graph, one.plan, base)
        costs |= {(node, one.format): (own[node] - narrow[node]) / total for node in nodes}
    return costs


def costs_in_nodes(
    formats: Sequence[Quantization], nodes: Sequence[str], name_of_float: str
) -> Costs:
    """By their number: each counts the same, and in a wider format a part of it."""
    levels = [*(one.format for one in formats), name_of_float]
    whole = (len(levels) - 1) * len(nodes)
    return {(node, name): i / whole for i, name in enumerate(levels) for node in nodes}
