"""Whether a plan and its calibration fit a graph: each check names the edge that does not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.core.errors import PlacementError
from onnxqat.core.spec import Edge, PerChannel, QuantSpec
from onnxqat.graph.query import consumers, is_float, is_output


def check_edge(edge: Edge, nodes: dict[str, gs.Node]) -> None:
    """The edge exists.

    Raises:
        PlacementError: It does not.
    """
    for problem in _edge_problems(edge, nodes.get(edge.node)):
        raise PlacementError(
            problem, at=f"edge {edge}", fix="place the same prepared graph that you insert into"
        )


def _edge_problems(edge: Edge, node: gs.Node | None) -> Iterator[str]:
    if node is None:
        yield f"the main graph has no node '{edge.node}'"
    elif not 0 <= edge.index < len(node.inputs):
        yield f"the node has {len(node.inputs)} inputs"
    elif node.inputs[edge.index].name != edge.tensor:
        yield f"this input of the node reads '{node.inputs[edge.index].name}'"


def check_tensor(tensor: gs.Tensor, edge: Edge, spec: QuantSpec, *, scales: int) -> None:
    """The tensor can be quantized in this format, with so many scales.

    Raises:
        PlacementError: It cannot.
    """
    for problem in _tensor_problems(tensor, spec, scales):
        raise PlacementError(
            problem, at=f"edge {edge}", fix="leave the edge out, or correct its spec"
        )


def _tensor_problems(tensor: gs.Tensor, spec: QuantSpec, scales: int) -> Iterator[str]:
    if tensor.dtype is not None and not is_float(tensor):
        yield f"only float32 tensors are quantized, and this one is {np.dtype(tensor.dtype).name}"
    if not isinstance(spec.granularity, PerChannel):
        return
    axis, shape = spec.granularity.axis, tensor.shape
    if not isinstance(tensor, gs.Constant):
        yield "per-channel scales are for weights: TensorRT runs such a layer in float"
    elif not 0 <= axis < len(shape):
        yield f"axis {axis} is outside the weight's shape {list(shape)}"
    elif shape[axis] != scales:
        yield f"{scales} scales for {shape[axis]} channels (axis {axis} of {list(shape)})"


def check_opset(graph: gs.Graph, edge: Edge, spec: QuantSpec) -> None:
    """The graph's QuantizeLinear makes such codes.

    Raises:
        PlacementError: Its opset is too old for that.
    """
    if (graph.opset or 0) < spec.dtype.min_opset:
        raise PlacementError(
            f"{spec.dtype.value} needs opset {spec.dtype.min_opset}, and the graph has "
            f"{graph.opset}",
            at=f"edge {edge}",
            fix=f"prepare the graph with min_opset={spec.dtype.min_opset}",
        )


def check_shared(
    edge: Edge, leader: str, *, own: NDArray[np.float32], shared: NDArray[np.float32]
) -> None:
    """An edge that uses another's scale was calibrated to it.

    Raises:
        PlacementError: Their ranges differ.
    """
    if own.shape != shared.shape or (own != shared).any():
        raise PlacementError(
            f"the edge shares its scale with tensor '{leader}', but their ranges differ",
            at=f"edge {edge}",
            fix="calibrate with the plan that shares the scale",
        )


def check_stored(graph: gs.Graph, tensor: gs.Tensor, edges: list[Edge]) -> None:
    """The tensor's float values can give way to codes: nothing may still read them.

    Raises:
        PlacementError: Something does, or the tensor has no values in the file.
    """
    if not isinstance(tensor, gs.Constant):
        raise PlacementError(
            "this format exists for constants only: QuantizeLinear would saturate at the limits "
            "of its container",
            at=f"edge {edges[0]}",
            fix="quantize activations in a format that fills its container, as int8",
        )
    placed = {(edge.node, edge.index) for edge in edges}
    for node, index in consumers(tensor):
        if (node.name, index) not in placed:
            raise PlacementError(
                "a weight stored as codes is also read as float",
                at=f"edge {Edge(tensor.name, node.name, index)}",
                fix="place every edge of the weight, or none",
            )
    if is_output(graph, tensor):
        raise PlacementError(
            "a graph output cannot become codes",
            at=f"edge {edges[0]}",
            fix="leave the edge out, or place it in a format that keeps float weights",
        )
