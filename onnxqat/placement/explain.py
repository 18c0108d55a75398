"""The decisions about one node, as data and in words."""

from __future__ import annotations

from difflib import get_close_matches

from onnxqat.core.errors import PlacementError
from onnxqat.core.plan import Placement, QuantPlan, Skip
from onnxqat.core.spec import PerChannel, QuantSpec


def explained(plan: QuantPlan, node: str) -> QuantPlan:
    """The part of the plan that is about the inputs of one node, with those whose scales they use.

    Raises:
        PlacementError: The plan says nothing about a node of that name.
    """
    own = [x for x in plan.placements if x.edge.node == node]
    skips = tuple(x for x in plan.skips if x.edge.node == node)
    if not own and not skips:
        raise _unknown(plan, node)
    edges = {x.edge for x in own} | {plan.leader_of(x.edge) for x in own}
    return QuantPlan(tuple(x for x in plan.placements if x.edge in edges), skips)


def explain(plan: QuantPlan, node: str) -> tuple[str, ...]:
    """One line for each input of the node: what it is read in, by which rule, and why.

    Raises:
        PlacementError: The plan says nothing about a node of that name.
    """
    part = explained(plan, node)
    decisions: list[Placement | Skip] = [*part.placements, *part.skips]
    own = sorted((x for x in decisions if x.edge.node == node), key=lambda x: x.edge.index)
    return tuple(_line(plan, x) for x in own)


def _line(plan: QuantPlan, decision: Placement | Skip) -> str:
    edge = decision.edge
    what = "float" if isinstance(decision, Skip) else describe(plan, decision)
    return f"input {edge.index} '{edge.tensor}': {what} by {decision.rule}: {decision.reason}"


def describe(plan: QuantPlan, placement: Placement) -> str:
    """The format of a placement in words, as `int8 per channel 0`."""
    spec = plan.spec_of(placement.edge)
    axis = spec.granularity.axis if isinstance(spec.granularity, PerChannel) else None
    words = f"{spec.dtype.value} " + ("per tensor" if axis is None else f"per channel {axis}")
    if isinstance(placement.spec, QuantSpec):
        return words
    return f"{words}, the scale of '{plan.leader_of(placement.edge).tensor}'"


def _unknown(plan: QuantPlan, node: str) -> PlacementError:
    decisions: list[Placement | Skip] = [*plan.placements, *plan.skips]
    known = sorted({x.edge.node for x in decisions})
    close = get_close_matches(node, known, n=3, cutoff=0.4) or known[:3]
    return PlacementError(
        "no node of that name has an input in float numbers",
        node=node,
        fix=f"name one of the model's nodes, as {', '.join(close)}" if close else None,
    )
