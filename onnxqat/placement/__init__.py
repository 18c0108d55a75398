"""Which edges get Q/DQ, in what format, and why: rules, and the planner that runs them."""

from onnxqat.placement.config import PlacementConfig
from onnxqat.placement.explain import Explanation, explain, explained
from onnxqat.placement.planner import check_precision, place
from onnxqat.placement.scene import Scene, edge_at

__all__ = [
    "Explanation",
    "PlacementConfig",
    "Scene",
    "check_precision",
    "edge_at",
    "explain",
    "explained",
    "place",
]
