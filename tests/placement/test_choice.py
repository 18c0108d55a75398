"""The user's choice of nodes wins over every rule, and a choice of nothing is a mistake."""

from __future__ import annotations

import pytest

from onnxqat.core.errors import ConfigError
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


@pytest.mark.parametrize(
    ("config", "problem"),
    [
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
