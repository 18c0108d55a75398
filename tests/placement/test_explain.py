"""Why and why not, node by node."""

from __future__ import annotations

import pytest

from onnxqat.core.errors import PlacementError
from onnxqat.placement import explain, explained
from onnxqat.placement.explain import source_of
from onnxqat.placement.rules import TENSORRT_RULES, Rule
from tests.support.placement import CONV, plan_of

TEXT = """g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y) {
    a = Conv <pads = [1,1,1,1]> (x, w, bias)
    b = Relu (a)
    t = Transpose <perm = [0, 1, 3, 2]> (b)
    c = Conv <pads = [1,1,1,1]> (t, w)
    y = Add (b, c)
}"""
PLAN = plan_of(TEXT, {**CONV, "bias": (8,)})


def test_each_input_of_a_node_is_explained_in_order() -> None:
    data, weights, bias = map(str, explain(PLAN, "Conv_a"))
    assert data.startswith("input 0 'x': int8 per tensor by weighted_op: ")
    assert weights.startswith("input 1 'w': int8 per channel 0 by weighted_op: ")
    assert bias.startswith("input 2 'bias': float by left_in_float: ")


def test_a_shared_scale_names_whose_it_is() -> None:
    data, _ = map(str, explain(PLAN, "Conv_c"))
    assert data.startswith("input 0 't': int8 per tensor, the scale of 'b' by equal_scales: ")


def test_a_node_that_no_rule_is_about_is_explained_too() -> None:
    (line,) = explain(PLAN, "Relu_b")
    assert "pointwise" in line.reason


def test_the_explained_part_of_a_plan_is_about_one_node() -> None:
    part = explained(PLAN, "Add_y")
    assert [str(x.edge) for x in part.placements] == ["b -> Add_y[0]"]
    assert [str(x.edge) for x in part.skips] == ["c -> Add_y[1]"]


def test_the_explained_part_holds_the_edge_whose_scale_is_used() -> None:
    part = explained(PLAN, "Conv_c")
    assert [str(x.edge) for x in part.placements] == [
        "b -> Add_y[0]",
        "t -> Conv_c[0]",
        "w -> Conv_c[1]",
    ]
    assert part.leader_of(part.placements[1].edge) == part.placements[0].edge


def test_an_unknown_node_is_an_error_that_names_a_close_one() -> None:
    with pytest.raises(PlacementError, match="Conv_a"):
        explain(PLAN, "Conv_A")


@pytest.mark.parametrize("rule", TENSORRT_RULES)
def test_every_rule_says_where_it_comes_from(rule: Rule) -> None:
    source = source_of(rule.__name__)
    assert 0 < len(source) < len(rule.__doc__ or "")
    assert "\n" not in source
