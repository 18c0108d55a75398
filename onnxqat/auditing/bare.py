"""The float network inside a Q/DQ file, and what placement would do with it.

So the audit asks the very rules that place Q/DQ here, and cannot disagree with them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.values import constant_node_value
from onnxqat.core.errors import ConfigError, PlacementError
from onnxqat.core.plan import Placement, Skip
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.graph import Graph
from onnxqat.graph.passes.edit import replace_reads
from onnxqat.graph.qdq_pairs import qdq_pairs
from onnxqat.graph.query import constant_value, producer
from onnxqat.placement import place
from onnxqat.placement.config import PROFILES, PlacementConfig

Decision = Placement | Skip


@dataclass(frozen=True, eq=False)
class Wanted:
    """Placement's decisions about the float network, told in nodes of the audited file."""

    decisions: dict[tuple[int, int], Decision] = field(default_factory=dict)
    """(id of a node, index of its input) -> decision."""
    twins: dict[int, gs.Node] = field(default_factory=dict)
    """id of a node -> the same node in the float network."""

    def at(self, node: gs.Node, index: int) -> Decision | None:
        """What placement decided about an edge; None where it did not look."""
        return self.decisions.get((id(node), index))

    def is_placed(self, node: gs.Node, index: int) -> bool:
        """Whether placement would put Q/DQ on an edge."""
        return isinstance(self.at(node, index), Placement)

    def twin(self, node: gs.Node) -> gs.Node | None:
        """The node in the float network, where its neighbours are those without Q/DQ."""
        return self.twins.get(id(node))


def _has_fp8(graph: Graph) -> bool:
    """Whether anything is quantized to FP8, which has other kernels than INT8."""
    return any(pair.dtype == "float8_e4m3fn" for pair in qdq_pairs(graph))


def wanted_by_placement(graph: Graph, profile: str) -> Wanted:
    """What placement would do, were it asked for the layers that the file quantizes.

    Raises:
        ConfigError: There is no such profile.
    """
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile '{profile}'", fix=f"one of: {', '.join(PROFILES)}")
    bare = graph.copy()
    pairs = dict(zip((str(i) for i in range(len(graph.nodes))), graph.nodes, strict=True))
    twins = {id(old): new for old, new in zip(graph.nodes, bare.nodes, strict=True)}
    left_out = [name for name, node in pairs.items() if _is_left_in_float(node)]
    for name, node in zip(pairs, bare.nodes, strict=True):
        node.name = name
    _undress(bare)
    config = PlacementConfig(
        profile=profile, exclude=_patterns(left_out), format="fp8" if _has_fp8(graph) else "int8"
    )
    try:
        plan = place(bare, config=config)
    except PlacementError:  # rules at odds over a strange network: then nothing is expected
        return Wanted({}, twins)
    decisions: list[Decision] = [*plan.placements, *plan.skips]
    return Wanted({(id(pairs[x.edge.node]), x.edge.index): x for x in decisions}, twins)


def _patterns(names: list[str]) -> tuple[str, ...]:
    return ("|".join(map(re.escape, names)),) if names else ()


def _is_left_in_float(node: gs.Node) -> bool:
    """Whether the file quantizes neither side of a node with weights: its author's choice."""
    if node.op not in HEAVY_OPS or len(node.inputs) < 2:
        return False
    sides = [_source(node.inputs[index]) for index in (0, 1)]
    is_product = not any(isinstance(side, gs.Constant) for side in sides)
    if is_product and any(s.op == "DequantizeLinear" for s in sides if isinstance(s, gs.Node)):
        return False
    dressed = [isinstance(s, gs.Node) and s.op == "DequantizeLinear" for s in sides]
    return not any(dressed) and not is_product


def _source(tensor: gs.Tensor) -> gs.Node | gs.Tensor:
    """The node that a tensor comes from, behind the ops that move weights and data about."""
    for _ in range(64):
        node = producer(tensor)
        if node is None:
            return tensor
        if node.op not in ("Transpose", "Reshape", "MaxPool", "Flatten", "Identity", "Squeeze"):
            return node
        tensor = node.inputs[0]
    return tensor


def _undress(graph: Graph) -> None:
    """Take the Q/DQ pairs off, and turn Constant nodes into initializers."""
    for node in graph.nodes:
        if node.op == "Constant" and len(node.outputs) == 1:
            _store(node)
    for node in list(graph.nodes):
        if node.op == "DequantizeLinear":
            replacement = _behind(node)
            _redirect(graph, node.outputs[0], replacement)
    for node in graph.nodes:
        if node.op in ("DequantizeLinear", "QuantizeLinear"):
            node.op = "Constant"  # a lone one makes values of which placement knows nothing
            node.inputs.clear()


def _redirect(graph: Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    replace_reads(old, new)
    graph.outputs = [new if output is old else output for output in graph.outputs]


def _behind(dequantizer: gs.Node) -> gs.Tensor:
    """What a DequantizeLinear's output is without quantization."""
    codes = dequantizer.inputs[0]
    node = producer(codes)
    if node is not None and node.op == "QuantizeLinear":
        return node.inputs[0]
    value = constant_value(codes)
    output = dequantizer.outputs[0]
    if value is None:
        return gs.Variable(f"{output.name} bare", np.dtype(np.float32), codes.shape)
    zeros = np.broadcast_to(np.float32(0), value.shape)  # their shape is all that is asked for
    return gs.Constant(f"{output.name} bare", zeros)


def _store(node: gs.Node) -> None:
    value = constant_node_value(node)
    if value is not None and value.dtype.kind in "iufb":
        output = node.outputs[0]
        replace_reads(output, gs.Constant(output.name, value))
