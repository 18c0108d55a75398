"""Plans in which some nodes have a format of their own: the placement rules' own answer to that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnxqat.core.mixed_precision import FLOAT
from onnxqat.core.plan import Placement, QuantPlan, Skip
from onnxqat.core.spec import FORMATS, QuantFormat
from onnxqat.graph import Graph
from onnxqat.placement import PlacementConfig, place
from onnxqat.placement.explain import MIXED_PRECISION
from onnxqat.placement.families import WEIGHTED

Formats = Mapping[str, str]
"""Node -> the name of its format, for those that are not in the format of the others."""


def wider_formats(config: PlacementConfig) -> tuple[QuantFormat, ...]:
    """The formats with the same activations and more bits for weights, the coarsest first.

    With other activations, nodes that read one tensor would want two ranges for it.
    """
    own = config.quant_format
    return tuple(
        sorted(
            (
                other
                for other in FORMATS.values()
                if other.activation is own.activation and other.weight.qmax > own.weight.qmax
            ),
            key=lambda other: other.weight.qmax,
        )
    )


def choosable_nodes(graph: Graph, plan: QuantPlan) -> tuple[str, ...]:
    """The Conv, ConvTranspose, Gemm and MatMul nodes that a plan quantizes, in graph order.

    All others have Q/DQ for the sake of these kernels, and so follow them by the rules: a residual
    branch in float between kernels in INT8, say, would spare an error and cost a fusion.
    """
    placed = {placement.edge.node for placement in plan.placements}
    return tuple(x.name for x in graph.nodes if x.name in placed and x.op in WEIGHTED)


@dataclass(frozen=True)
class Told:
    """Why a node has a format of its own."""

    share: float
    budget: str

    def __str__(self) -> str:
        return f"it makes {100 * self.share:.1f} % of the error of all nodes; budget {self.budget}"


def place_mixed(
    graph: Graph, config: PlacementConfig, formats: Formats, told: Mapping[str, Told]
) -> QuantPlan:
    """The plan in which these nodes have these formats, and the reason for it.

    The rules are asked anew, so that what hangs on a node follows it: the other operand, a residual
    branch, a pool between kernels, tensors with an equal scale.

    Args:
        graph: The prepared graph.
        config: The format of the others, and the user's own choice, which goes before.
        formats: What is chosen.
        told: Node -> why.
    """
    left = tuple(node for node, name in formats.items() if name == FLOAT)
    wider = {re.escape(node): name for node, name in formats.items() if name != FLOAT}
    mixed = replace(
        config,
        exclude=(*config.exclude, *map(re.escape, left)),
        formats={**config.formats, **wider},
    )
    plan = place(graph, config=mixed)
    return QuantPlan(
        tuple(_wider(x, formats, told) for x in plan.placements),
        tuple(_left(x, formats, told) for x in plan.skips),
    )


def _left(skip: Skip, formats: Formats, told: Mapping[str, Told]) -> Skip:
    node = skip.edge.node
    if formats.get(node) != FLOAT:
        return skip
    return replace(skip, rule=MIXED_PRECISION, reason=f"left in float: {told[node]}")


def _wider(placement: Placement, formats: Formats, told: Mapping[str, Told]) -> Placement:
    node = placement.edge.node
    if node not in formats:
        return placement
    return replace(placement, reason=f"{placement.reason}; in {formats[node]}: {told[node]}")
