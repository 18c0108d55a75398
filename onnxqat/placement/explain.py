"""The decisions about one node, as data and in words."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from inspect import getdoc

from onnxqat.core.errors import PlacementError
from onnxqat.core.plan import Edge, Placement, QuantPlan, Skip
from onnxqat.core.spec import PerChannel, QuantSpec
from onnxqat.placement.rules import TENSORRT_RULES

FLOAT = "float"
MIXED_PRECISION = "mixed_precision"
"""The rule of what a budget leaves in float, see `onnxqat mix`."""
_SOURCE = "Source: "
"""Begins the last paragraph of a rule's docstring."""


@dataclass(frozen=True)
class Explanation:
    """One decision, with all that is known about why."""

    edge: Edge
    format: str
    """As `int8 per tensor`, or `float`."""
    rule: str
    reason: str
    source: str
    """Where the rule comes from."""

    def __str__(self) -> str:
        edge = f"input {self.edge.index} '{self.edge.tensor}'"
        return f"{edge}: {self.format} by {self.rule}: {self.reason}"


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


def explain(plan: QuantPlan, node: str) -> tuple[Explanation, ...]:
    """For each input of the node, in order: what it is read in, by which rule, why, and says who.

    Raises:
        PlacementError: The plan says nothing about a node of that name.
    """
    part = explained(plan, node)
    decisions: list[Placement | Skip] = [*part.placements, *part.skips]
    own = sorted((x for x in decisions if x.edge.node == node), key=lambda x: x.edge.index)
    return tuple(_explanation(plan, x) for x in own)


def source_of(rule: str) -> str:
    """Where a placement rule comes from: the last paragraph of its manual page."""
    if rule == MIXED_PRECISION:
        return "the user's budget, and what each node was measured to do to the outputs"
    pages = {known.__name__: getdoc(known) or "" for known in TENSORRT_RULES}
    if rule not in pages:
        return "a rule of the user's own"
    return " ".join(pages[rule].rpartition(_SOURCE)[2].split())


def describe(plan: QuantPlan, placement: Placement) -> str:
    """The format of a placement in words, as `int8 per channel 0`."""
    spec = plan.spec_of(placement.edge)
    axis = spec.granularity.axis if isinstance(spec.granularity, PerChannel) else None
    words = f"{spec.dtype.value} " + ("per tensor" if axis is None else f"per channel {axis}")
    if isinstance(placement.spec, QuantSpec):
        return words
    return f"{words}, the scale of '{plan.leader_of(placement.edge).tensor}'"


def _explanation(plan: QuantPlan, decision: Placement | Skip) -> Explanation:
    what = FLOAT if isinstance(decision, Skip) else describe(plan, decision)
    source = source_of(decision.rule)
    return Explanation(decision.edge, what, decision.rule, decision.reason, source)


def _unknown(plan: QuantPlan, node: str) -> PlacementError:
    decisions: list[Placement | Skip] = [*plan.placements, *plan.skips]
    known = sorted({x.edge.node for x in decisions})
    close = get_close_matches(node, known, n=3, cutoff=0.4) or known[:3]
    return PlacementError(
        "no node of that name has an input in float numbers",
        node=node,
        fix=f"name one of the model's nodes, as {', '.join(close)}" if close else None,
    )
