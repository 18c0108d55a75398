"""Plans of small graphs in ONNX text syntax, one line an edge."""

from __future__ import annotations

import onnx.parser
import onnx.shape_inference

from onnxqat.core.plan import QuantPlan
from onnxqat.graph import Graph, as_graph
from onnxqat.placement import PlacementConfig, place
from onnxqat.placement.explain import describe

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def text_graph(text: str) -> Graph:
    """The graph of a text without the model header, shapes inferred."""
    model = onnx.parser.parse_model(f"{HEADER}\n{text}")
    onnx.checker.check_model(model)
    return as_graph(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def plan_of(text: str, config: PlacementConfig | None = None) -> QuantPlan:
    return place(text_graph(text), config=config or PlacementConfig())


def placed(plan: QuantPlan) -> set[str]:
    """Each placement as `tensor -> node[index]: format`."""
    return {f"{x.edge}: {describe(plan, x)}" for x in plan.placements}


def skipped(plan: QuantPlan) -> dict[str, str]:
    """Each skip as `tensor -> node[index]`, and its reason."""
    return {str(x.edge): x.reason for x in plan.skips}
