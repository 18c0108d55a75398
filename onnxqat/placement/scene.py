"""The graph as the rules see it: its edges, what they carry, and what is decided so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.core.plan import Placement, Skip
from onnxqat.core.spec import Edge, PerTensor, QuantSpec
from onnxqat.graph.query import constant_value, producer
from onnxqat.placement.choice import closed_nodes
from onnxqat.placement.config import PlacementConfig
from onnxqat.placement.families import VALUE_INPUTS, WEIGHTED, WITH_SUBGRAPHS

Decision = Placement | Skip


@dataclass(frozen=True)
class Scene:
    """A prepared graph, what the user chose, and what the rules before decided."""

    graph: gs.Graph
    config: PlacementConfig
    decided: Mapping[Edge, Decision] = field(default_factory=dict)

    @cached_property
    def activation(self) -> QuantSpec:
        """The format of a quantized activation: one scale a tensor (L7)."""
        return QuantSpec(self.config.quant_format.activation, PerTensor())

    @cached_property
    def closed(self) -> dict[str, str]:
        """Name -> reason, for each node that the user keeps in float."""
        return closed_nodes({node.name: node.op for node in self.graph.nodes}, self.config)

    @cached_property
    def by_name(self) -> dict[str, gs.Node]:
        """The nodes of the main graph, by name."""
        return {node.name: node for node in self.graph.nodes}

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The names of the graph's outputs."""
        return frozenset(output.name for output in self.graph.outputs)

    @cached_property
    def readers(self) -> dict[str, tuple[Edge, ...]]:
        """Tensor -> the edges on it in the main graph, sorted."""
        edges: dict[str, list[Edge]] = {}
        for node in self.graph.nodes:
            for edge in edges_of(node):
                edges.setdefault(edge.tensor, []).append(edge)
        return {tensor: tuple(sorted(found)) for tensor, found in edges.items()}

    @cached_property
    def depths(self) -> dict[str, int]:
        """Tensor -> nodes on the longest way to it from the graph's inputs and constants."""
        depths: dict[str, int] = {}
        pending = [output for node in self.graph.nodes for output in node.outputs]
        while pending:
            tensor = pending[-1]
            unknown = [x for x in _sources(tensor) if x.name not in depths]
            if unknown and tensor.name not in depths:
                pending.extend(unknown)
            else:
                depths[tensor.name] = 1 + max((depths[x.name] for x in _sources(tensor)), default=0)
                pending.pop()
        return depths

    def nodes(self, *ops: str) -> Iterator[gs.Node]:
        """The nodes of these op types in the main graph that the user leaves open."""
        return (x for x in self.graph.nodes if x.op in ops and x.name not in self.closed)

    def open_readers(self, tensor: gs.Tensor) -> tuple[Edge, ...]:
        """The edges on a tensor that the user leaves open."""
        return tuple(x for x in self.readers.get(tensor.name, ()) if x.node not in self.closed)

    def is_placed(self, edge: Edge) -> bool:
        """Whether a rule before put Q/DQ on the edge."""
        return isinstance(self.decided.get(edge), Placement)

    def is_quantized(self, tensor: gs.Tensor) -> bool:
        """Whether a rule before put Q/DQ on any edge of the tensor."""
        return any(self.is_placed(edge) for edge in self.readers.get(tensor.name, ()))

    def is_read_once(self, tensor: gs.Tensor) -> bool:
        """Whether one input of one node is all that reads the tensor."""
        return len(tensor.outputs) == 1 and tensor.name not in self.outputs


def edges_of(node: gs.Node) -> Iterator[Edge]:
    """The inputs that the node has: omitted optional ones left out."""
    return (Edge(x.name, node.name, index) for index, x in enumerate(node.inputs) if x.name)


def edge_at(node: gs.Node, index: int) -> Edge:
    """The edge into input `index` of the node."""
    return Edge(node.inputs[index].name, node.name, index)


def float_edges(node: gs.Node) -> Iterator[Edge]:
    """The edges on which Q/DQ could be asked for: float activations, and the weights of the
    weighted ops. All edges of a node with subgraphs, so that something is said about it.
    """
    for edge in edges_of(node):
        x = node.inputs[edge.index]
        is_data = is_float(x) and (node.op in WEIGHTED or not is_constant(x))
        if is_data or node.op in WITH_SUBGRAPHS:
            yield edge


def is_constant(tensor: gs.Tensor) -> bool:
    """Whether the value is stored in the file."""
    return isinstance(tensor, gs.Constant)


def is_float(tensor: gs.Tensor) -> bool:
    """Whether the tensor holds floating-point numbers; an unknown type is taken for one."""
    return tensor.dtype is None or _numpy_kind(tensor) == "f"


def is_float32(tensor: gs.Tensor) -> bool:
    """Whether float32 scales fit the tensor (L9); an unknown type is taken for float32."""
    return tensor.dtype is None or (
        _numpy_kind(tensor) == "f" and np.dtype(tensor.dtype).itemsize == 4
    )


def _numpy_kind(tensor: gs.Tensor) -> str:
    try:
        return str(np.dtype(tensor.dtype).kind)
    except (
        TypeError
    ):  # an ONNX type that numpy does not have, as bfloat16: graphsurgeon gives its number
        return "V"


def is_scalar(tensor: gs.Tensor) -> bool:
    """Whether the tensor is known to have no dimensions: Q refuses it (L8)."""
    return tensor.shape is not None and len(tensor.shape) == 0


def value_inputs(node: gs.Node) -> tuple[gs.Tensor, ...]:
    """The inputs whose values the node copies to its outputs; none if it computes new ones."""
    if node.op not in VALUE_INPUTS or not _copies_values(node):
        return ()
    indices = VALUE_INPUTS[node.op]
    return tuple(node.inputs if indices is None else (node.inputs[i] for i in indices))


def _copies_values(node: gs.Node) -> bool:
    """Pad by anything but 0 brings in a value of its own; only nearest Resize chooses values."""
    if node.op == "Resize":
        return bool(node.attrs.get("mode", "nearest") == "nearest")
    if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
        return len(node.inputs) < 3 or _is_zero_or_absent(node.inputs[2])
    return True


def _is_zero_or_absent(tensor: gs.Tensor) -> bool:
    return not tensor.name or (is_constant(tensor) and not np.any(constant_value(tensor)))


def _sources(tensor: gs.Tensor) -> list[gs.Tensor]:
    node = producer(tensor)
    return [] if node is None else list(node.inputs)
