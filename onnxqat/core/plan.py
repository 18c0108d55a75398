"""Which edges get Q/DQ, in what format, and why; and which do not, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from onnxqat.core.errors import PlacementError
from onnxqat.core.spec import Edge, QuantSpec, SharedSpec

__all__ = ["Edge", "Placement", "QuantPlan", "Skip"]


@dataclass(frozen=True)
class Placement:
    """One decision to put Q/DQ on an edge."""

    edge: Edge
    spec: QuantSpec | SharedSpec
    rule: str
    reason: str


@dataclass(frozen=True)
class Skip:
    """One decision to leave an edge in float."""

    edge: Edge
    rule: str
    reason: str


@dataclass(frozen=True)
class QuantPlan:
    """All decisions about a graph, sorted by edge, at most one for each edge."""

    placements: tuple[Placement, ...] = ()
    skips: tuple[Skip, ...] = ()

    @cached_property
    def by_edge(self) -> dict[Edge, Placement]:
        """The placements, by edge."""
        return {placement.edge: placement for placement in self.placements}

    def spec_of(self, edge: Edge) -> QuantSpec:
        """The format of an edge, looked up through any chain of shared specs.

        Raises:
            PlacementError: The edge, or one that it follows, has no placement, or they form a ring.
        """
        return self._leader(edge)[1]

    def leader_of(self, edge: Edge) -> Edge:
        """The edge whose scale this one uses: itself unless its spec is shared.

        Raises:
            PlacementError: As for `spec_of`.
        """
        return self._leader(edge)[0]

    def _leader(self, edge: Edge) -> tuple[Edge, QuantSpec]:
        seen = {edge}
        while True:
            placement = self.by_edge.get(edge)
            if placement is None:
                raise PlacementError(f"the plan has no placement for edge {edge}", node=edge.node)
            if isinstance(placement.spec, QuantSpec):
                return edge, placement.spec
            edge = placement.spec.follows
            if edge in seen:
                raise PlacementError(f"shared specs form a ring at edge {edge}", node=edge.node)
            seen.add(edge)

    @cached_property
    def groups(self) -> dict[Edge, tuple[str, ...]]:
        """Leader edge -> the distinct tensors, sorted, that use its scale."""
        tensors: dict[Edge, set[str]] = {}
        for placement in self.placements:
            tensors.setdefault(self.leader_of(placement.edge), set()).add(placement.edge.tensor)
        return {leader: tuple(sorted(names)) for leader, names in sorted(tensors.items())}
