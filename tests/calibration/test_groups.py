"""The sets of tensors that get one range."""

from __future__ import annotations

from onnxqat.calibration.groups import range_groups
from onnxqat.core.spec import Edge
from tests.support.observed import INT8, plan_of


def groups_of(*edges: tuple[str, str, int], **follow: Edge) -> set[tuple[str, ...]]:
    groups = range_groups(plan_of(*edges, follow=follow))
    assert all(group.spec == INT8 for group in groups)
    return {group.tensors for group in groups}


def test_a_tensor_that_shares_with_none_is_a_group_of_its_own() -> None:
    assert groups_of(("a", "one", 0), ("b", "two", 0)) == {("a",), ("b",)}


def test_two_edges_of_one_tensor_are_one_group() -> None:
    assert groups_of(("a", "one", 0), ("a", "two", 0)) == {("a",)}


def test_tensors_that_share_a_scale_are_one_group() -> None:
    assert groups_of(("a", "join", 0), ("b", "join", 1), b=Edge("a", "join", 0)) == {("a", "b")}


def test_groups_that_meet_in_a_tensor_are_one() -> None:
    """b shares with a at one join and leads c at another."""
    edges = (("a", "join", 0), ("b", "join", 1), ("b", "next", 0), ("c", "next", 1))
    plan = plan_of(*edges, follow={"b": Edge("a", "join", 0), "c": Edge("b", "next", 0)})
    assert [group.tensors for group in range_groups(plan)] == [("a", "b", "c")]
