"""Which edges get Q/DQ, in what format, and why: rules, and the planner that runs them."""

from onnxqat.placement.config import PlacementConfig
from onnxqat.placement.explain import explain, explained
from onnxqat.placement.planner import place

__all__ = ["PlacementConfig", "explain", "explained", "place"]
