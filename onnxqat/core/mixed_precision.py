"""Which nodes a budget leaves in more bits, and what each step of that costs and gains."""

from __future__ import annotations

from dataclasses import dataclass

from onnxqat.core.calibration import Calibration
from onnxqat.core.plan import QuantPlan

FLOAT = "float"
"""The format of a node that is not quantized."""


@dataclass(frozen=True)
class MixedNode:
    """One node that is not in the format of the others."""

    node: str
    op: str
    format: str
    """`float`, or the name of a format."""
    share: float
    """Its part (0 to 1) of the errors that all nodes make alone, in the format of the others."""
    cost: float
    """What of the quantized operands it gives up, as a share (0 to 1) of that of all nodes."""


@dataclass(frozen=True)
class MixPoint:
    """One plan that was tried, on the samples that judge."""

    quantized: float
    """Share (0 to 1) of what could be quantized that is: in the cost's unit."""
    float_nodes: int
    wider_nodes: int
    """Nodes in a format of more bits than the others', and not in float."""
    sqnr_db: float
    """Of the worst output."""
    agreement: float | None
    """Share (0 to 1) of samples with the FP32 model's top-1 class; None without class scores."""
    metric_drop: float | None
    """Top-1 (0 to 1) lost against FP32; None without labels."""
    is_within_budget: bool


@dataclass(frozen=True)
class Mix:
    """A plan in mixed precision within a budget, and how it was found."""

    budget: str
    """In words."""
    cost: str
    """What is spared: `bytes` or `nodes`."""
    samples: int
    """That judged."""
    nodes: int
    """Nodes that were chosen among."""
    plan: QuantPlan
    calibration: Calibration
    changed: tuple[MixedNode, ...]
    """The nodes that are not in the format of the others, the most sensitive first."""
    chosen: MixPoint
    points: tuple[MixPoint, ...]
    """All plans that were tried, the least quantized first: the curve."""
