"""Rules of the user's own: they go first, what they decide is final, and failures are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxqat.cli.main import main
from onnxqat.core.errors import ConfigError, OnnxqatError, PlacementError
from onnxqat.core.plan import QuantPlan
from onnxqat.placement import PlacementConfig, explain
from onnxqat.recipe import read_recipe
from tests.support.placement import placed, plan_of, why_float

TEXT = """g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y) {
    a = Conv <pads = [1,1,1,1]> (x, w)
    b = Relu (a)
    g = Sigmoid (b)
    m = Mul (b, g)
    y = Conv <pads = [1,1,1,1]> (m, w)
}"""

RULES = """
from onnxqat import Placement, Skip
from onnxqat.placement import edge_at

def keep_first_in_float(scene):
    node = scene.by_name["Conv_a"]
    yield Skip(edge_at(node, 0), "", "raw data")

def quantize_gates(scene):
    for node in scene.nodes("Mul"):
        for index in (0, 1):
            yield Placement(edge_at(node, index), scene.activation, "", "a gate")

def yields_text(scene):
    yield "Conv_a"

def breaks(scene):
    return [1 / 0]

def elsewhere(scene):
    yield Skip(edge_at(scene.by_name["Conv_a"], 0).__class__("no", "Conv_a", 0), "", "")
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "my_rules.py"
    file.write_text(RULES)
    return file


def planned(rules: Path, *names: str, **choice: Any) -> QuantPlan:
    config = PlacementConfig(rules=tuple(f"{rules}:{name}" for name in names), **choice)
    return plan_of(TEXT, config=config)


def test_a_rule_places_where_no_built_in_one_would(rules: Path) -> None:
    assert placed(planned(rules, "quantize_gates"), "Mul_m") == {
        "b -> Mul_m[0]: int8 per tensor",
        "g -> Mul_m[1]: int8 per tensor",
    }


def test_what_a_rule_keeps_in_float_stays_so_on_the_weights_side_as_well(rules: Path) -> None:
    plan = planned(rules, "keep_first_in_float")
    assert not placed(plan, "Conv_a")
    assert placed(plan, "Conv_y")
    assert why_float(plan, "x", "Conv_a") == "keep_first_in_float: raw data"
    assert "'keep_first_in_float' keeps an operand float" in why_float(plan, "w", "Conv_a", 1)


def test_a_decision_is_explained_by_the_functions_name(rules: Path) -> None:
    told, _ = explain(planned(rules, "quantize_gates"), "Mul_m")
    assert (told.rule, told.reason) == ("quantize_gates", "a gate")
    assert told.source == "a rule of the user's own"


def test_of_two_rules_of_ones_own_that_disagree_both_are_named(rules: Path) -> None:
    rules.write_text(
        RULES + "\ndef other(scene):\n"
        "    yield Placement(edge_at(scene.by_name['Conv_a'], 0), scene.activation, '', 'why')\n"
    )
    with pytest.raises(PlacementError, match="'keep_first_in_float' and 'other' disagree"):
        planned(rules, "keep_first_in_float", "other")


@pytest.mark.parametrize(
    ("name", "problem", "error"),
    [
        ("nothing", "has no callable 'nothing'", ConfigError),
        ("yields_text", "'yields_text' yields str", PlacementError),
        ("breaks", "'breaks' failed: ZeroDivisionError", PlacementError),
        ("elsewhere", "an edge that is not in the graph: no -> Conv_a", PlacementError),
    ],
)
def test_a_rule_that_is_wrong_is_told_with_its_name(
    rules: Path, name: str, problem: str, error: type[OnnxqatError]
) -> None:
    with pytest.raises(error, match=problem):
        planned(rules, name)


def test_a_failure_names_the_line_of_the_rule(rules: Path) -> None:
    line = RULES.splitlines().index("    return [1 / 0]") + 1
    with pytest.raises(PlacementError) as caught:
        planned(rules, "breaks")
    assert caught.value.at == f"{rules}, line {line}"


def test_the_rule_on_the_manual_page_works(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["rule", "own_rules"]) == 0
    page = capsys.readouterr().out
    lines = page[page.index("    from onnxqat") : page.index("`Placement(edge")].splitlines()
    file = tmp_path / "page.py"
    file.write_text("\n".join(line[4:] for line in lines).replace('"/se/"', '"Mul_"'))
    plan = planned(file, "keep_gates_in_float")
    assert why_float(plan, "g", "Mul_m", 1) == "keep_gates_in_float: the gates are sensitive"


def test_a_recipe_names_rules_from_its_own_folder(rules: Path) -> None:
    recipe = rules.with_name("recipe.toml")
    recipe.write_text("""
        model = "model.onnx"
        [data.calibration]
        source = "data.npz"
        [placement]
        rules = ["my_rules.py:quantize_gates", "package.module:rule"]
        exclude_between = [["a", "b"]]
        first_layer = "float"
        [placement.formats]
        "/layer4/.*" = "w4a8"
    """)
    placement = read_recipe(recipe).placement
    assert placement.rules == (f"{rules}:quantize_gates", "package.module:rule")
    assert placement.exclude_between == (("a", "b"),)
    assert placement.formats == {"/layer4/.*": "w4a8"}
