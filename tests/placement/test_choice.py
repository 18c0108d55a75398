"""The user's choice of nodes wins over every rule, and a choice of nothing is a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from onnxqat.core.errors import ConfigError
from onnxqat.core.spec import QuantDtype
from onnxqat.placement import PlacementConfig
from tests.support.placement import plan_of, why_float

TEXT = """g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y) {
    [stem_conv] a = Conv <pads = [1,1,1,1]> (x, w)
    b = Relu (a)
    [head_conv] c = Conv <pads = [1,1,1,1]> (b, w)
    [head_add] y = Add (b, c)
}"""


def nodes_placed(config: PlacementConfig) -> set[str]:
    return {x.edge.node for x in plan_of(TEXT, config=config).placements}


def test_nothing_is_excluded_by_default() -> None:
    assert nodes_placed(PlacementConfig()) == {"stem_conv", "head_conv", "head_add"}


def test_an_excluded_node_stays_in_float_and_says_by_which_pattern() -> None:
    config = PlacementConfig(exclude=("head_.*",))
    assert nodes_placed(config) == {"stem_conv"}
    reason = why_float(plan_of(TEXT, config=config), "b", "head_conv")
    assert reason == "excluded: excluded by the user's pattern 'head_.*'"


def test_a_pattern_must_match_the_whole_name() -> None:
    with pytest.raises(ConfigError, match="matches no node"):
        nodes_placed(PlacementConfig(exclude=("conv",)))


def test_an_excluded_op_type_stays_in_float() -> None:
    assert nodes_placed(PlacementConfig(exclude_ops=("Add",))) == {"stem_conv", "head_conv"}


def test_only_included_nodes_are_quantized() -> None:
    assert nodes_placed(PlacementConfig(include=("stem_.*",))) == {"stem_conv"}


def test_exclusion_wins_over_inclusion() -> None:
    config = PlacementConfig(include=(".*conv",), exclude=("stem_.*",))
    assert nodes_placed(config) == {"head_conv"}


CHAIN = """g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y) {
    [one] a = Conv <pads = [1,1,1,1]> (x, w)
    b = Relu (a)
    [two] c = Conv <pads = [1,1,1,1]> (b, w)
    [side] d = Conv <pads = [1,1,1,1]> (b, w)
    e = Add (c, d)
    f = Relu (e)
    [three] y = Conv <pads = [1,1,1,1]> (f, w)
}"""


def convs_placed(**choice: Any) -> set[str]:
    plan = plan_of(CHAIN, config=PlacementConfig(**choice))
    return {x.edge.node for x in plan.placements} & {"one", "two", "side", "three"}


def test_nodes_on_all_ways_between_two_tensors_are_excluded() -> None:
    assert convs_placed(exclude_between=(("b", "f"),)) == {"one", "three"}
    assert convs_placed(exclude_between=(("x", "a"), ("f", "y"))) == {"two", "side"}


def test_only_nodes_between_two_tensors_are_included_and_those_whose_name_matches() -> None:
    assert convs_placed(include_between=(("b", "c"),)) == {"two"}
    assert convs_placed(include_between=(("b", "c"),), include=("three",)) == {"two", "three"}


def test_the_first_and_the_last_layers_stay_in_float_if_wanted() -> None:
    assert convs_placed(first_layer="float") == {"two", "side", "three"}
    assert convs_placed(last_layer="float") == {"one", "two", "side"}


def test_the_first_and_the_last_layers_have_eight_bits_if_wanted() -> None:
    weights = {"w": (8, 8, 3, 3), "v": (8, 8, 3, 3), "u": (8, 8, 3, 3)}
    text = CHAIN.replace("(f, w)", "(f, v)").replace(
        "[one] a = Conv <pads = [1,1,1,1]> (x, w)", "[one] a = Conv <pads = [1,1,1,1]> (x, u)"
    )
    config = PlacementConfig(format="w4a4", first_layer="int8", last_layer="int8")
    plan = plan_of(text, weights, config)
    types = {(x.edge.node, x.edge.index): plan.spec_of(x.edge).dtype for x in plan.placements}
    for node in ("one", "three"):
        assert types[node, 0] is types[node, 1] is QuantDtype.INT8
    assert types["two", 0] is QuantDtype.INT4
    assert types["two", 1] is QuantDtype.INT4_IN_INT8


def test_layers_beside_each_other_are_first_or_last_together() -> None:
    text = CHAIN.replace("[three] y = Conv <pads = [1,1,1,1]> (f, w)", "y = Relu (f)")
    plan = plan_of(text, config=PlacementConfig(last_layer="float"))
    assert {x.edge.node for x in plan.placements} == {"one"}
    assert "last layers" in why_float(plan, "b", "two")


def test_a_node_may_have_a_format_of_its_own_by_the_first_pattern_that_matches() -> None:
    weights = {"w": (8, 8, 3, 3), "v": (8, 8, 3, 3)}
    text = CHAIN.replace(
        "[three] y = Conv <pads = [1,1,1,1]> (f, w)", "[three] y = Conv <pads = [1,1,1,1]> (f, v)"
    )
    plan = plan_of(text, weights, PlacementConfig(formats={"thr.*": "w4a8", ".*": "int8"}))
    dtypes = {x.edge.node: plan.spec_of(x.edge).dtype for x in plan.placements if x.edge.index == 1}
    assert dtypes["three"] is QuantDtype.INT4_IN_INT8
    assert dtypes["two"] is QuantDtype.INT8


def test_weights_that_nodes_of_two_formats_share_stay_in_eight_bits() -> None:
    plan = plan_of(CHAIN, config=PlacementConfig(formats={"three": "w4a8"}))
    assert {plan.spec_of(x.edge).dtype for x in plan.placements} == {QuantDtype.INT8}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (PlacementConfig(exclude_between=(("z", "y"),)), "tensor 'z' matches no tensor"),
        (PlacementConfig(exclude_between=(("c", "b"),)), "no node lies between .* 'c' and 'b'"),
        (PlacementConfig(formats={"head_conv": "int7"}), "unknown format 'int7'"),
        (PlacementConfig(formats={"nowhere": "int8"}), "'nowhere' matches no node"),
        (PlacementConfig(include=("nowhere.*",)), "'nowhere.\\*' matches no node"),
        (PlacementConfig(exclude=("(",)), "no regular expression"),
        (PlacementConfig(exclude_ops=("conv",)), "op type 'conv' matches no node"),
        (PlacementConfig(format="int7"), "unknown format 'int7'"),
        (PlacementConfig(profile="rtc"), "unknown profile 'rtc'"),
    ],
)
def test_a_choice_of_what_does_not_exist_is_an_error(config: PlacementConfig, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        nodes_placed(config)


def test_the_error_names_what_is_close() -> None:
    with pytest.raises(ConfigError, match="head_conv, stem_conv"):
        nodes_placed(PlacementConfig(exclude=("haed_conv",)))


TWO_READERS = """g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y, float[1, 8, 16, 16] z) {
    [one] y = Conv <pads = [1,1,1,1]> (x, w)
    [other] z = Conv <pads = [1,1,1,1]> (x, v)
}"""


@pytest.mark.parametrize("narrow", ["w4a4", "fp8"])
def test_a_tensor_has_one_format_the_most_precise_that_is_asked_of_it(narrow: str) -> None:
    config = PlacementConfig(format=narrow, formats={"other": "int8"})
    weights = {"w": (8, 8, 3, 3), "v": (8, 8, 3, 3)}
    plan = plan_of(TWO_READERS, weights, config)
    types = {(x.edge.tensor, x.edge.node): plan.spec_of(x.edge).dtype for x in plan.placements}
    assert types["x", "one"] is types["x", "other"] is QuantDtype.INT8
    # no kernel multiplies INT8 with FP8; 4-bit weights are INT8 to it
    wanted = QuantDtype.INT8 if narrow == "fp8" else QuantDtype.INT4_IN_INT8
    assert types["w", "one"] is wanted
    assert types["v", "other"] is QuantDtype.INT8


def test_the_opset_is_the_newest_that_any_format_needs() -> None:
    assert PlacementConfig().min_opset == PlacementConfig(format="w4a8").min_opset == 13
    assert PlacementConfig(format="fp8").min_opset == 19
    assert PlacementConfig(format="fp8", formats={".*": "w4a4"}).min_opset == 21
