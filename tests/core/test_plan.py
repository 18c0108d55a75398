"""A plan knows the format and the leader of each of its edges."""

from __future__ import annotations

import pytest

from onnxqat.core.errors import PlacementError
from onnxqat.core.plan import Edge, Placement, QuantPlan
from onnxqat.core.spec import PerTensor, QuantDtype, QuantSpec, SharedSpec

INT8 = QuantSpec(QuantDtype.INT8, PerTensor())
A, B, C = Edge("a", "add", 0), Edge("b", "add", 1), Edge("c", "concat", 0)


def plan(**specs: QuantSpec | SharedSpec) -> QuantPlan:
    edges = {"a": A, "b": B, "c": C}
    return QuantPlan(tuple(Placement(edges[k], spec, "P5", "why") for k, spec in specs.items()))


def test_a_shared_edge_has_the_format_of_the_end_of_its_chain() -> None:
    chain = plan(a=INT8, b=SharedSpec(A), c=SharedSpec(B))

    assert chain.spec_of(C) == INT8
    assert chain.leader_of(C) == A
    assert chain.groups == {A: ("a", "b", "c")}


def test_edges_of_their_own_are_groups_of_their_own() -> None:
    assert plan(a=INT8, b=INT8).groups == {A: ("a",), B: ("b",)}


def test_a_ring_of_shared_edges_is_refused() -> None:
    with pytest.raises(PlacementError, match="ring"):
        plan(a=SharedSpec(B), b=SharedSpec(A)).spec_of(A)


def test_an_edge_that_follows_one_without_placement_is_refused() -> None:
    with pytest.raises(PlacementError, match=r"no placement for edge b -> add\[1\]"):
        plan(a=SharedSpec(B)).spec_of(A)


def test_an_edge_reads_as_tensor_and_reader() -> None:
    assert str(B) == "b -> add[1]"
