"""Scales that are what they must be: where a range ends at the largest value that there can be.

Behind Clip(0, 6) or a Sigmoid many values lie at the limit itself. A scale of limit / qmax gives
them exactly; one a hundredth smaller cuts all of them off by a whole step, alike, so that the
errors add up. Learned with the others, such scales cost MobileNet v1 dBs before they find back.
"""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs
from torch.nn import Parameter

from onnxqat.bridge import OnnxModule
from onnxqat.graph import Graph
from onnxqat.graph.query import constant_value

MATCH = 0.01
"""Relative difference up to which a range counts as ending at the limit."""
SATURATING = {"HardSigmoid": 1.0, "Sigmoid": 1.0, "Softmax": 1.0, "Tanh": 1.0}
"""Op -> the largest value that it gives."""
KEEPING = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
        "Relu",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Ops that give some of the values of what they read first."""


def scales_at_limits(student: OnnxModule) -> dict[int, Parameter]:
    """The scales, by id, of quantizers whose range ends where the values must."""
    limits = largest_values(student.graph)
    return {
        id(quantizer.scale): quantizer.scale
        for name, quantizer in student.quantizers.items()
        if name in limits
        and quantizer.axis is None
        and abs(float(quantizer.scale.detach()) * quantizer.qmax / limits[name] - 1) < MATCH
    }


def largest_values(graph: Graph) -> dict[str, float]:
    """Tensor -> the largest magnitude that it can have, where an operator sees to that."""
    found: dict[str, float] = {}
    for node in graph.nodes:
        limit = _limit(node, found)
        if limit is not None:
            found.update((output.name, limit) for output in node.outputs)
    return found


def _limit(node: gs.Node, found: dict[str, float]) -> float | None:
    if node.op == "Clip":
        low, high = _bound(node, 1, "min"), _bound(node, 2, "max")
        return high if high is not None and low is not None and -high <= low < high else None
    if node.op in KEEPING and node.inputs:
        return found.get(node.inputs[0].name)
    return SATURATING.get(node.op)


def _bound(node: gs.Node, index: int, name: str) -> float | None:
    """A limit of a Clip: an attribute up to opset 10, then a constant input."""
    if len(node.inputs) > index:
        value: Any = constant_value(node.inputs[index])
        return None if value is None or value.size != 1 else float(value.reshape(()))
    return node.attrs.get(name)  # type: ignore[no-any-return]  # a float, by the schema
