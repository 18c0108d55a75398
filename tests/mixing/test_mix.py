"""Mixed precision keeps its budget, by plans that the rules, the audit and the compiler accept."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from onnxqat.auditing import AuditConfig, audit
from onnxqat.calibration import CalibrationConfig
from onnxqat.core.codec import decode, encode
from onnxqat.core.errors import ConfigError
from onnxqat.core.mixed_precision import Mix
from onnxqat.core.precision import Precision, node_precisions
from onnxqat.core.spec import QuantDtype
from onnxqat.data import DataConfig, open_data
from onnxqat.engine import build, heavy_nodes
from onnxqat.graph import Graph, as_graph, extract, input_specs, insert, load, prepare
from onnxqat.mixing import MixConfig, mix
from onnxqat.placement import PlacementConfig, explain, place
from tests.support.assets import WILD, needs_assets
from tests.support.compile import needs_compiler
from tests.support.nets import residual_net
from tests.support.runtime import run
from tests.support.students import Images

DATA, JUDGE = Images(samples=64), Images(samples=48, seed=7)
MAX = CalibrationConfig(method="max", threads=1)
STEM, INNER, HEAD = "/stem/Conv", "/inner/Conv", "/logits/Gemm"


@cache
def graph_with(spoilt: str | None) -> Graph:
    """The residual network; of the spoilt weight, one value in each channel dwarfs the others, so
    that few codes are left for these.
    """
    model = residual_net()
    for initializer in model.graph.initializer:
        if initializer.name == spoilt:
            values = numpy_helper.to_array(initializer).copy()
            values.reshape(len(values), -1)[:, 0] *= 60
            initializer.CopyFrom(numpy_helper.from_array(values, spoilt))
    return prepare(as_graph(model))


def mixed(
    budget: float, *, spoilt: str | None = None, format_name: str = "int8", cost: str = "nodes"
) -> Mix:
    return mix(
        graph_with(spoilt),
        DATA,
        config=MixConfig(sqnr_db=budget, cost=cost, threads=1),
        placement=PlacementConfig(format=format_name),
        calibration=MAX,
        judge=JUDGE,
    )


def sqnr_by_onnxruntime(graph: Graph, found: Mix) -> float:
    feeds = {"image": JUDGE.images}
    (wanted,) = run(graph, feeds)
    (got,) = run(insert(graph, found.plan, found.calibration), feeds)
    return 10 * float(np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()))


def test_a_budget_that_is_kept_anyway_changes_nothing() -> None:
    found = mixed(5.0)
    assert found.plan == place(graph_with(None))
    assert (found.changed, found.chosen.quantized) == ((), 1.0)


@pytest.mark.parametrize("format_name", ["int8", "w4a8"])
@pytest.mark.parametrize("more", [2.0, 6.0, 15.0])
def test_the_file_keeps_the_budget_in_onnxruntime(format_name: str, more: float) -> None:
    start = mixed(0.0, format_name=format_name).chosen.sqnr_db
    found = mixed(start + more, format_name=format_name)
    measured = sqnr_by_onnxruntime(graph_with(None), found)
    assert measured >= start + more - 0.05
    assert found.chosen.sqnr_db == pytest.approx(measured, abs=0.05)
    assert 0 < found.chosen.quantized < 1


@pytest.mark.parametrize(("spoilt", "node"), [("inner_w", INNER), ("head_w", HEAD)])
def test_the_node_that_makes_the_error_is_what_stays_in_float(spoilt: str, node: str) -> None:
    start = mixed(0.0, spoilt=spoilt).chosen.sqnr_db
    found = mixed(start + 3.0, spoilt=spoilt)
    assert [one.node for one in found.changed] == [node]
    assert found.changed[0].format == "float"
    assert found.changed[0].share > 0.5


def test_4_bit_weights_get_8_before_they_get_32() -> None:
    start = mixed(0.0, format_name="w4a8").chosen.sqnr_db
    found = mixed(start + 4.0, format_name="w4a8", cost="bytes")
    assert {one.format for one in found.changed} == {"int8"}
    wide = {one.node for one in found.changed}
    for placement in found.plan.placements:
        if placement.edge.index == 1 and placement.edge.node in (STEM, INNER, HEAD):
            is_wide = found.plan.spec_of(placement.edge).dtype is QuantDtype.INT8
            assert is_wide == (placement.edge.node in wide)


@pytest.mark.parametrize("format_name", ["int8", "w4a8"])
@pytest.mark.parametrize("more", [2.0, 6.0, 10.0, 20.0])
def test_a_node_is_quantized_as_a_whole_or_not_at_all(format_name: str, more: float) -> None:
    start = mixed(0.0, format_name=format_name).chosen.sqnr_db
    found = mixed(start + more, format_name=format_name)
    read = [x.edge for x in found.plan.placements if x.edge.node in (STEM, INNER, HEAD)]
    for node in (STEM, INNER, HEAD):
        assert {edge.index for edge in read if edge.node == node} in (set(), {0, 1})
    left = {one.node for one in found.changed if one.format == "float"}
    assert left.isdisjoint(edge.node for edge in read)
    objections = audit(insert(graph_with(None), found.plan, found.calibration))
    nothing = [] if found.plan.placements else ["QDQ123"]  # "nothing is quantized", a note
    assert [one.rule for one in objections] == nothing


def test_what_hangs_on_a_node_follows_it() -> None:
    """With no Conv in INT8 the residual Add joins nothing in INT8, and its branch is float, too."""
    found = mixed(mixed(0.0).chosen.sqnr_db + 60.0)
    assert {one.op for one in found.changed} == {"Conv", "Gemm"}
    assert found.plan.placements == ()
    assert found.chosen.sqnr_db == float("inf")


def test_the_reason_lies_in_the_file() -> None:
    start = mixed(0.0, spoilt="inner_w").chosen.sqnr_db
    found = mixed(start + 3.0, spoilt="inner_w")
    plan, calibration = extract(insert(graph_with("inner_w"), found.plan, found.calibration))
    assert (plan, calibration) == (found.plan, found.calibration)
    told = explain(plan, INNER)[0]
    assert (told.format, told.rule) == ("float", "mixed_precision")
    assert "% of the error of all nodes; budget" in told.reason
    assert "budget" in told.source


def test_a_node_that_the_user_leaves_in_float_keeps_the_user_s_reason() -> None:
    placement = PlacementConfig(exclude=(HEAD,))
    config = MixConfig(sqnr_db=60.0, threads=1)
    found = mix(
        graph_with(None), DATA, config=config, placement=placement, calibration=MAX, judge=JUDGE
    )
    reasons = {x.edge.node: (x.rule, x.reason) for x in found.plan.skips}
    assert reasons[HEAD][0] == "excluded"
    assert reasons[STEM][0] == "mixed_precision"
    assert HEAD not in {one.node for one in found.changed}


def test_no_plan_that_was_tried_keeps_the_budget_with_more_quantized_nodes() -> None:
    found = mixed(mixed(0.0).chosen.sqnr_db + 6.0)
    kept = [point.quantized for point in found.points if point.is_within_budget]
    assert found.chosen.quantized == max(kept)


def test_an_agreement_can_be_the_budget() -> None:
    graph = graph_with(None)
    config = MixConfig(agreement=1.0, threads=1)
    found = mix(graph, DATA, config=config, calibration=MAX, judge=JUDGE)
    (wanted,) = run(graph, {"image": JUDGE.images})
    (got,) = run(insert(graph, found.plan, found.calibration), {"image": JUDGE.images})
    assert (wanted.argmax(1) == got.argmax(1)).all()


def test_samples_are_kept_apart_to_judge_by() -> None:
    found = mix(graph_with(None), DATA, config=MixConfig(sqnr_db=0.0, samples=64), calibration=MAX)
    assert found.samples == 16
    assert {one.samples for one in found.calibration.ranges} <= {0, 48}


@pytest.mark.parametrize(
    ("config", "judge", "problem"),
    [
        (MixConfig(), JUDGE, "no budget"),
        (MixConfig(metric_drop=0.1), replace(JUDGE, labelled=False), "wants labels"),
    ],
)
def test_a_budget_that_cannot_be_judged_is_refused(
    config: MixConfig, judge: Images, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        mix(graph_with(None), DATA, config=config, calibration=MAX, judge=judge)


def test_the_result_survives_json() -> None:
    found = mixed(mixed(0.0).chosen.sqnr_db + 6.0)
    assert decode(Mix, json.loads(json.dumps(encode(found)))) == found


@needs_compiler
@pytest.mark.parametrize("spoilt", ["inner_w", "head_w"])
def test_the_compiler_runs_in_int8_what_is_quantized_and_no_more(spoilt: str) -> None:
    graph = graph_with(spoilt)
    found = mixed(mixed(0.0, spoilt=spoilt).chosen.sqnr_db + 3.0, spoilt=spoilt)
    quantized = insert(graph, found.plan, found.calibration)
    built = build(quantized, backend="rtx")
    runs = {x.node: x.precision for x in node_precisions(built.plan, heavy_nodes(quantized))}
    left = {one.node for one in found.changed}
    assert left
    assert {node for node, precision in runs.items() if precision is Precision.INT8} == {
        STEM,
        INNER,
        HEAD,
    } - left


@needs_assets
@needs_compiler
@pytest.mark.slow
def test_fastestdet_within_20_db_is_as_the_audit_and_the_compiler_want_it() -> None:
    graph = prepare(load(WILD / "fastestdet_pytorch111_opset11.onnx"))
    script = Path(__file__).resolve().parents[2] / "tools" / "assets_data.py"
    data = open_data(f"{script}:fastestdet", input_specs(graph), DataConfig(samples=48))
    placement = PlacementConfig(profile="rtx")
    config = MixConfig(sqnr_db=20.0, cost="nodes", samples=48, threads=1)
    found = mix(
        graph, data, config=config, placement=placement, calibration=replace(MAX, method="mse")
    )
    assert found.chosen.is_within_budget
    assert 20 <= len(found.changed) <= 40, "most of the network stays in INT8"
    quantized = insert(graph, found.plan, found.calibration)
    assert audit(quantized, config=AuditConfig(profile="rtx")) == ()
    built = build(quantized, backend="rtx")
    runs = {x.node: x.precision for x in node_precisions(built.plan, heavy_nodes(quantized))}
    left = {one.node for one in found.changed}
    assert {node for node, precision in runs.items() if precision is not Precision.INT8} == left
