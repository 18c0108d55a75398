"""Plans of small graphs in ONNX text syntax, one line an edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx.shape_inference

from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import Edge, PerChannel
from onnxqat.graph import Graph, as_graph
from onnxqat.placement import PlacementConfig, place
from onnxqat.placement.explain import describe
from onnxqat.placement.scene import Scene
from tests.support.onnx_text import model_of

Weights = Mapping[str, tuple[int, ...]]

CONV = {"w": (8, 8, 3, 3)}
"""Weights of a 3x3 Conv from 8 to 8 channels."""


def graph_of(text: str, weights: Weights = CONV, **values: Any) -> Graph:
    """The graph of a text, shapes inferred; nodes are named after their first output.

    Args:
        text: `name (inputs) => (outputs) { nodes }`.
        weights: Name -> shape of float32 initializers, drawn at random.
        **values: More initializers.
    """
    generator = np.random.default_rng(0)
    drawn = {name: generator.standard_normal(s).astype(np.float32) for name, s in weights.items()}
    model = model_of(text, **drawn, **values)
    return as_graph(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def plan_of(
    text: str, weights: Weights = CONV, config: PlacementConfig | None = None, **values: Any
) -> QuantPlan:
    """The plan of a text, by the default config unless another is given."""
    return place(graph_of(text, weights, **values), config=config or PlacementConfig())


def placed(plan: QuantPlan, node: str | None = None) -> set[str]:
    """Each placement, or each of one node, as `tensor -> node[index]: format`."""
    return {
        f"{x.edge}: {describe(plan, x)}"
        for x in plan.placements
        if node is None or x.edge.node == node
    }


def why_float(plan: QuantPlan, tensor: str, node: str, index: int = 0) -> str:
    """The rule and the reason of the skip on an edge."""
    skip = next(x for x in plan.skips if x.edge == Edge(tensor, node, index))
    return f"{skip.rule}: {skip.reason}"


def scene_of(text: str, weights: Weights = CONV, **values: Any) -> Scene:
    """The scene of a text, with nothing decided."""
    return Scene(graph_of(text, weights, **values), PlacementConfig())


def made_up(graph: Graph, plan: QuantPlan) -> Calibration:
    """Ranges that are equal only where the plan says so."""
    tensors = graph.tensors()
    ranges = {}
    for number, (leader, names) in enumerate(plan.groups.items()):
        granularity = plan.spec_of(leader).granularity
        for name in names:
            is_per_channel = isinstance(granularity, PerChannel)
            count = tensors[name].shape[granularity.axis] if is_per_channel else 1
            ranges.setdefault(name, TensorRange(name, (1 + number / 64,) * count, "max", 1))
    return Calibration(tuple(ranges[name] for name in sorted(ranges)))
