"""Write a plan and its calibration into a graph as QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxqat.core.calibration import Calibration
from onnxqat.core.codec import encode
from onnxqat.core.errors import PlacementError
from onnxqat.core.plan import QuantPlan
from onnxqat.core.qdq import quantize
from onnxqat.core.spec import Edge, PerChannel, QuantDtype, QuantSpec
from onnxqat.graph.fit import (
    check_edge,
    check_opset,
    check_shared,
    check_stored,
    check_tensor,
)
from onnxqat.graph.graph import Graph
from onnxqat.graph.names import Names
from onnxqat.graph.query import nodes_by_name

PLAN_KEY = "onnxqat.plan"
CALIBRATION_KEY = "onnxqat.calibration"
"""Keys of the model's metadata under which the plan and the calibration lie as JSON."""
INITIALIZATION_KEY = "onnxqat.initialization"
"""Under this key lie the names of the initialization stages that were kept, by commas."""


def insert(graph: Graph, plan: QuantPlan, calibration: Calibration) -> Graph:
    """A copy of the graph with one Q/DQ pair for each tensor that the plan quantizes.

    Only edges that the plan names go through the pair. Weights in a format that fills its container
    stay float and get Q and DQ; others are stored as codes under their own name, and get DQ.

    Raises:
        PlacementError: The plan or the calibration does not fit the graph.
    """
    result: Graph = graph.copy()
    _Insertion(result, plan, calibration, Names(result)).run()
    result.metadata[PLAN_KEY] = _json(plan)
    result.metadata[CALIBRATION_KEY] = _json(calibration)
    return result


def scale_groups(plan: QuantPlan) -> dict[str, str]:
    """Tensor -> the tensor that names the scale it uses: itself, or the leader of its group.

    A tensor has one range, so its edges share a scale, and groups that meet in a tensor are one.
    """
    leader: dict[str, str] = {}

    def find(tensor: str) -> str:
        while leader.setdefault(tensor, tensor) != tensor:
            tensor = leader[tensor]
        return tensor

    for edge, tensors in plan.groups.items():
        for tensor in tensors:
            ends = sorted({find(edge.tensor), find(tensor)}, key=lambda end: end != edge.tensor)
            leader[ends[-1]] = ends[0]
    return {tensor: find(tensor) for tensor in leader}


def container_type(dtype: QuantDtype) -> np.dtype[Any]:
    """The numpy (ml_dtypes) type of the codes in the file."""
    return helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(dtype.container))


def _json(value: QuantPlan | Calibration) -> str:
    return json.dumps(encode(value), ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class _Insertion:
    """One insertion at work on a graph of its own."""

    graph: Graph
    plan: QuantPlan
    calibration: Calibration
    names: Names

    def run(self) -> None:
        nodes = nodes_by_name(self.graph)
        readers = self._readers(nodes)
        scales = self._scales(readers)
        before: dict[str, list[gs.Node]] = {}
        for first in _first_reads(readers, list(nodes)):
            tensor = nodes[first.node].inputs[first.index]
            pair = self._pair(tensor, readers[first.tensor], scales[first.tensor])
            for edge in readers[first.tensor]:
                nodes[edge.node].inputs[edge.index] = pair[-1].outputs[0]
            before.setdefault(first.node, []).extend(pair)
        self.graph.nodes = [
            item for node in self.graph.nodes for item in (*before.get(node.name, ()), node)
        ]

    def _readers(self, nodes: dict[str, gs.Node]) -> dict[str, list[Edge]]:
        """Tensor -> its placed edges, each checked against the graph."""
        readers: dict[str, list[Edge]] = {}
        for placement in self.plan.placements:
            check_edge(placement.edge, nodes)
            readers.setdefault(placement.edge.tensor, []).append(placement.edge)
        return readers

    def _scales(self, edges: dict[str, list[Edge]]) -> dict[str, gs.Constant]:
        """The scale initializer of each tensor: one object for a group that shares it."""
        scales: dict[str, gs.Constant] = {}
        groups = scale_groups(self.plan)
        for tensor in sorted(edges, key=lambda name: (groups[name] != name, name)):
            value = self._scale(edges[tensor])
            leader = groups[tensor]
            if leader == tensor:
                scales[tensor] = gs.Constant(self.names.tensor(f"{tensor}_scale"), value)
                continue
            check_shared(edges[tensor][0], leader, own=value, shared=scales[leader].values)
            scales[tensor] = scales[leader]
        return scales

    def _scale(self, edges: list[Edge]) -> NDArray[np.float32]:
        spec = self._spec(edges)
        value = self.calibration.scale_of(edges[0].tensor, spec.dtype)
        if isinstance(spec.granularity, PerChannel):
            value = value.reshape(-1)
        elif value.ndim:
            raise PlacementError(
                f"the plan wants one scale, and the calibration has {value.size} ranges",
                tensor=edges[0].tensor,
                at=f"edge {edges[0]}",
                fix="calibrate the same plan that you insert",
            )
        return value

    def _spec(self, edges: list[Edge]) -> QuantSpec:
        specs = {self.plan.spec_of(edge): edge for edge in edges}
        if len(specs) > 1:
            raise PlacementError(
                "two edges of one tensor want different formats, but a tensor has one range",
                tensor=edges[0].tensor,
                at=" and ".join(f"edge {edge}" for edge in specs.values()),
                fix="give both the same spec, or place only one of them",
            )
        return next(iter(specs))

    def _pair(
        self, tensor: gs.Tensor, edges: list[Edge], scale: gs.Constant
    ) -> tuple[gs.Node, ...]:
        """The nodes of one pair, last the DequantizeLinear, connected to the tensor."""
        spec = self._spec(edges)
        check_tensor(tensor, edges[0], spec, scales=scale.values.size)
        check_opset(self.graph, edges[0], spec)
        container = container_type(spec.dtype)
        zeros = np.zeros(scale.values.shape, container)
        parameters = (scale, gs.Constant(self.names.tensor(f"{tensor.name}_zero_point"), zeros))
        if spec.dtype.fills_container:
            codes = self._variable(tensor, "quantized", container)
            before = [self._node("QuantizeLinear", tensor, spec, (tensor, *parameters), codes)]
        else:
            check_stored(self.graph, tensor, edges)
            codes, before = _stored_codes(tensor, spec, scale), []
        output = self._variable(tensor, "dequantized", np.dtype(np.float32))
        return (*before, self._node("DequantizeLinear", tensor, spec, (codes, *parameters), output))

    def _variable(self, tensor: gs.Tensor, suffix: str, dtype: np.dtype[Any]) -> gs.Variable:
        shape = None if tensor.shape is None else list(tensor.shape)
        name = self.names.tensor(f"{tensor.name}_{suffix}")
        return gs.Variable(name, dtype, shape)

    def _node(
        self,
        op: str,
        tensor: gs.Tensor,
        spec: QuantSpec,
        inputs: tuple[gs.Tensor, ...],
        output: gs.Variable,
    ) -> gs.Node:
        axis = spec.granularity.axis if isinstance(spec.granularity, PerChannel) else None
        attrs = {} if axis is None else {"axis": axis}
        name = self.names.node(f"{tensor.name}_{op}")
        return gs.Node(op, name, attrs, inputs=inputs, outputs=[output])


def _first_reads(readers: dict[str, list[Edge]], nodes: list[str]) -> list[Edge]:
    """The first edge of each tensor, in the order of the nodes and their inputs."""
    position = {name: i for i, name in enumerate(nodes)}

    def order(edge: Edge) -> tuple[int, int]:
        return position[edge.node], edge.index

    return sorted((min(edges, key=order) for edges in readers.values()), key=order)


def _stored_codes(tensor: gs.Constant, spec: QuantSpec, scale: gs.Constant) -> gs.Constant:
    axis = spec.granularity.axis if isinstance(spec.granularity, PerChannel) else None
    codes = quantize(tensor.values, scale.values, dtype=spec.dtype, axis=axis)
    return gs.Constant(tensor.name, codes)
