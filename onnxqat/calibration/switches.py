"""A graph in which each range can be set, and switched off, at run time.

One ONNX Runtime session then answers for any number of choices of ranges what they do to the
model's outputs. Weights stay float: what is asked for is the effect of the activations' ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxqat.calibration.groups import RangeGroup
from onnxqat.calibration.runtime import add_outputs, open_session
from onnxqat.core.calibration import amax_to_scale
from onnxqat.core.plan import QuantPlan
from onnxqat.graph import Graph

_PREFIX = "onnxqat_switch"


class SwitchedGraph:
    """The model's outputs under any choice of ranges for its activations."""

    def __init__(
        self,
        graph: Graph,
        plan: QuantPlan,
        groups: Sequence[RangeGroup],
        *,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        """Prepare for groups of activations; `outputs` may name inner tensors to return instead."""
        self._groups = tuple(groups)
        self._outputs = tuple(outputs or (tensor.name for tensor in graph.outputs))
        self._plan = plan
        self._session = open_session(graph, self._change, threads=threads)

    def _change(self, model: onnx.ModelProto) -> None:
        add_outputs(model, self._outputs)
        _add_switches(model, self._plan, self._groups)

    def __call__(
        self, inputs: Mapping[str, NDArray[Any]], amax: Mapping[RangeGroup, float]
    ) -> list[NDArray[Any]]:
        """The outputs, with the groups in `amax` quantized and all others in float."""
        feeds = dict(inputs)
        for i, group in enumerate(self._groups):
            scale = amax_to_scale(np.array(amax.get(group, 1.0)), group.spec.dtype)
            feeds[_flag(i)] = np.array(group in amax)
            feeds[_scale(i)] = np.asarray(scale, np.float32)
        outputs: list[NDArray[Any]] = self._session.run(self._outputs, feeds)
        return outputs


def _flag(group: int) -> str:
    return f"{_PREFIX}_flag_{group}"


def _scale(group: int) -> str:
    return f"{_PREFIX}_scale_{group}"


def _zero(container: str) -> str:
    return f"{_PREFIX}_zero_point_{container}"


def _add_switches(model: onnx.ModelProto, plan: QuantPlan, groups: Sequence[RangeGroup]) -> None:
    """Put a switch before every quantized edge; nodes stay in topological order."""
    group_of = {tensor: i for i, group in enumerate(groups) for tensor in group.tensors}
    edges = {
        (placement.edge.node, placement.edge.index)
        for placement in plan.placements
        if placement.edge.tensor in group_of
    }
    containers = [group.spec.dtype.container for group in groups]
    nodes = list(_with_switches(model.graph.node, edges, group_of, containers))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for container in sorted(set(containers)):
        kind = TensorProto.DataType.Value(container)
        zero = np.zeros((), helper.tensor_dtype_to_np_dtype(kind))
        model.graph.initializer.append(numpy_helper.from_array(zero, _zero(container)))
    for i in range(len(groups)):
        model.graph.input.append(helper.make_tensor_value_info(_flag(i), TensorProto.BOOL, []))
        model.graph.input.append(helper.make_tensor_value_info(_scale(i), TensorProto.FLOAT, []))


def _with_switches(
    nodes: Sequence[onnx.NodeProto],
    edges: set[tuple[str, int]],
    group_of: Mapping[str, int],
    containers: Sequence[str],
) -> Iterator[onnx.NodeProto]:
    switched: dict[str, str] = {}
    for node in nodes:
        for index, tensor in enumerate(node.input):
            if (node.name, index) not in edges or tensor not in group_of:
                continue
            if tensor not in switched:
                switched[tensor] = f"{_PREFIX}_{tensor}"
                group = group_of[tensor]
                yield _switch(tensor, switched[tensor], group=group, container=containers[group])
            node.input[index] = switched[tensor]
        yield node


def _switch(tensor: str, output: str, *, group: int, container: str) -> onnx.NodeProto:
    """`output = DQ(Q(tensor)) if flag else tensor`."""
    codes, on, off = f"{output}_codes", f"{output}_on", f"{output}_off"
    scale, zero = _scale(group), _zero(container)
    quantized = [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], f"{output}_q"),
        helper.make_node("DequantizeLinear", [codes, scale, zero], [on], f"{output}_dq"),
    ]
    return helper.make_node(
        "If",
        [_flag(group)],
        [output],
        f"{output}_if",
        then_branch=_branch(quantized, on),
        else_branch=_branch([helper.make_node("Identity", [tensor], [off])], off),
    )


def _branch(nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    info = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, output, [], [info])
