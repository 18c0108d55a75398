"""Extracting is the inverse of inserting, and reads the files of other tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.errors import ModelError
from onnxqat.core.plan import Edge, Placement, QuantPlan, Skip
from onnxqat.core.spec import PerChannel, PerTensor, QuantDtype, QuantSpec, SharedSpec
from onnxqat.graph import Graph, as_graph, extract, insert, load, save, structural_diff
from onnxqat.graph.insert import scale_groups
from tests.support.onnx_text import model_of
from tests.support.plans import net, plans

NET = net()
INT8 = QuantSpec(QuantDtype.INT8, PerTensor())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_extract_gives_back_what_was_inserted(data: st.DataObject) -> None:
    plan, calibration = data.draw(plans(NET))

    assert extract(insert(NET, plan, calibration)) == (plan, calibration)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_extract_gives_back_what_was_inserted_after_a_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    plan, calibration = data.draw(plans(NET))
    path = tmp_path_factory.mktemp("file") / "model.onnx"

    save(insert(NET, plan, calibration), path)

    assert extract(load(path)) == (plan, calibration)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_structure_alone_tells_edges_granularity_and_shared_scales(
    data: st.DataObject,
) -> None:
    plan, calibration = data.draw(plans(NET))
    graph = insert(NET, plan, calibration)
    graph.metadata.clear()

    found, ranges = extract(graph)

    assert list(found.by_edge) == list(plan.by_edge)
    assert [found.spec_of(edge).granularity for edge in found.by_edge] == [
        plan.spec_of(edge).granularity for edge in plan.by_edge
    ]
    assert _partition(found) == _partition(plan)
    for edge in plan.by_edge:
        dtype = plan.spec_of(edge).dtype
        if dtype is QuantDtype.INT8:  # four-bit codes in INT8 look like INT8
            np.testing.assert_array_equal(
                ranges.scale_of(edge.tensor, dtype), calibration.scale_of(edge.tensor, dtype)
            )


def _partition(plan: QuantPlan) -> set[frozenset[str]]:
    groups = scale_groups(plan)
    return {frozenset(t for t in groups if groups[t] == leader) for leader in groups.values()}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_the_structure_tells_can_be_inserted_again(data: st.DataObject) -> None:
    plan, calibration = data.draw(plans(NET))
    graph = insert(NET, plan, calibration)
    graph.metadata.clear()
    eight_bit = all(plan.spec_of(e).dtype is QuantDtype.INT8 for e in plan.by_edge)

    again = insert(NET, *extract(graph))

    if eight_bit:
        names = {"metadata 'onnxqat.calibration' added", "metadata 'onnxqat.plan' added"}
        renamed = ("_scale'", "_dequantized'")  # a group may be named after another member
        rest = [d for d in structural_diff(graph, again) if d not in names]
        assert all(any(end in d for end in renamed) for d in rest)


def test_a_trained_scale_is_read_from_the_file() -> None:
    graph = _one_pair()
    scale = next(t for node in graph.nodes for t in node.inputs if t.name == "x_scale")
    scale.values = np.float32(0.5)

    plan, calibration = extract(graph)

    assert calibration.ranges == (TensorRange("x", (63.5,), "extracted", 0),)
    assert plan.placements[0].reason == "why"


def test_a_pair_that_was_taken_out_of_the_file_is_no_placement() -> None:
    text = "net (float[2] x) => (float[2] z) { y = Relu (x)  z = Neg (y) }"
    edges = [Edge("x", "Relu_y", 0), Edge("y", "Neg_z", 0)]
    plan = QuantPlan(tuple(Placement(edge, INT8, "P2", "why") for edge in edges))
    ranges = Calibration(tuple(TensorRange(edge.tensor, (1.0,), "max", 3) for edge in edges))
    graph = insert(as_graph(model_of(text)), plan, ranges)
    graph.nodes[-1].inputs[0] = next(t for t in graph.nodes[2].outputs if t.name == "y")

    found, calibration = extract(graph)

    assert found.placements == plan.placements[:1]
    assert "x" in calibration.by_tensor


def test_a_damaged_plan_in_the_metadata_is_named() -> None:
    graph = _one_pair()
    graph.metadata["onnxqat.plan"] = "{"

    with pytest.raises(ModelError, match=r"'onnxqat\.plan' is damaged"):
        extract(graph)


def test_a_graph_without_pairs_has_an_empty_plan() -> None:
    assert extract(NET) == (QuantPlan(), Calibration())


def _one_pair() -> Graph:
    text = "net (float[2] x) => (float[2] y) { y = Relu (x) }"
    plan = QuantPlan((Placement(Edge("x", "Relu_y", 0), INT8, "P2", "why"),))
    return insert(
        as_graph(model_of(text)), plan, Calibration((TensorRange("x", (1.0,), "max", 3),))
    )


# Files of other tools


@pytest.mark.parametrize(
    ("kind", "zero_point", "amax"),
    [
        ("int8", 0, 127 * 0.5),
        ("uint8", 128, 127 * 0.5),  # the same codes, moved
        ("uint8", 0, 255 * 0.5),
        ("uint8", 100, 155 * 0.5),
        ("uint8", 200, 200 * 0.5),
        ("int8", -28, 155 * 0.5),
    ],
)
def test_the_range_of_any_zero_point_keeps_all_values(
    kind: str, zero_point: int, amax: float
) -> None:
    """Symmetric INT8 with this range represents the largest value that the codes can take."""
    text = """net (float[2] x) => (float[2] y)
    { q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  y = Relu (d) }"""
    graph = as_graph(model_of(text, s=np.float32(0.5), z=np.array(zero_point, kind)))

    plan, calibration = extract(graph)

    assert plan.placements[0].edge == Edge("x", "Relu_y", 0)
    assert calibration.ranges == (TensorRange("x", (amax,), "extracted", 0),)
    refused = kind == "uint8" or zero_point != 0
    assert ("TensorRT" in plan.placements[0].reason) == refused


def test_stored_int8_weights_are_read() -> None:
    text = """net (float[n, 2] x) => (float[n, 3] y)
    { w = DequantizeLinear <axis = 1> (codes, s, z)  y = MatMul (x, w) }"""
    scale = np.float32([1, 2, 3])
    graph = as_graph(
        model_of(text, codes=np.ones((2, 3), np.int8), s=scale, z=np.zeros(3, np.int8))
    )

    plan, calibration = extract(graph)

    assert plan.placements[0].edge == Edge("codes", "MatMul_y", 1)
    assert plan.placements[0].spec == QuantSpec(QuantDtype.INT8, PerChannel(1))
    assert calibration.ranges == (TensorRange("codes", (127.0, 254.0, 381.0), "extracted", 0),)


def test_an_int32_bias_is_a_skip_with_the_reason() -> None:
    text = """net (float[n, 2] x) => (float[n, 3] y)
    { b = DequantizeLinear (codes, s)  y = Add (x, b) }"""
    graph = as_graph(model_of(text, codes=np.int32([1, 2, 3]), s=np.float32(1)))

    plan, calibration = extract(graph)

    assert plan.placements == ()
    assert plan.skips[0].edge == Edge("codes", "Add_y", 1)
    assert "TensorRT refuses" in plan.skips[0].reason
    assert calibration == Calibration()


def test_a_scale_computed_at_run_time_is_a_skip_with_the_reason() -> None:
    text = """net (float[2] x, float s) => (float[2] y)
    { q = QuantizeLinear (x, s)  d = DequantizeLinear (q, s)  y = Relu (d) }"""

    plan, _ = extract(as_graph(model_of(text)))

    assert plan.skips == (Skip(Edge("x", "Relu_y", 0), "extracted", plan.skips[0].reason),)
    assert "run time" in plan.skips[0].reason


def test_two_tensors_with_one_scale_initializer_share_it() -> None:
    text = """net (float[2] a, float[2] b) => (float[2] y) {
        qa = QuantizeLinear (a, s, z)  da = DequantizeLinear (qa, s, z)
        qb = QuantizeLinear (b, s, z)  db = DequantizeLinear (qb, s, z)
        y = Add (da, db) }"""
    graph = as_graph(model_of(text, s=np.float32(1), z=np.int8(0)))

    plan, _ = extract(graph)

    leader = Edge("a", "Add_y", 0)
    assert [p.spec for p in plan.placements] == [INT8, SharedSpec(leader)]


class _Reader(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._batches = iter([{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("dedicated", [True, False])
@pytest.mark.parametrize("activation", [QuantType.QInt8, QuantType.QUInt8])
def test_a_file_of_onnxruntime_quantization_is_read(
    tmp_path: Path, stored: bool, dedicated: bool, activation: QuantType
) -> None:
    rng = np.random.default_rng(0)
    text = """net (float[2, 3, 8, 8] x) => (float[2, 4, 6, 6] y)
    { a = Conv (x, w, b)  r = Relu (a)  c = Conv <pads = [1, 1, 1, 1]> (r, v)  y = Add (c, r) }"""
    model = model_of(
        text,
        w=rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        b=rng.standard_normal(4).astype(np.float32),
        v=rng.standard_normal((4, 4, 3, 3)).astype(np.float32),
    )
    onnx.save(model, tmp_path / "in.onnx")
    quantize_static(
        tmp_path / "in.onnx", tmp_path / "out.onnx", _Reader(),
        quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=activation, weight_type=QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": True, "WeightSymmetric": True,
            "AddQDQPairToWeight": not stored, "DedicatedQDQPair": dedicated,
        },
    )  # fmt: skip

    graph = load(tmp_path / "out.onnx")
    plan, calibration = extract(graph)

    readers = {(edge.node, edge.index) for edge in plan.by_edge}
    assert {("Conv_a", 0), ("Conv_a", 1), ("Conv_c", 0), ("Conv_c", 1)} <= readers
    assert {skip.edge.node for skip in plan.skips} <= {"Conv_a"}  # its int32 bias
    weights = [p for p in plan.placements if p.spec == QuantSpec(QuantDtype.INT8, PerChannel(0))]
    assert len(weights) == 2
    for name, source in (("w", 0), ("v", 2)):
        tensor = next(p.edge.tensor for p in weights if p.edge.tensor.startswith(name))
        expected = np.abs(numpy_helper.to_array(model.graph.initializer[source])).max((1, 2, 3))
        np.testing.assert_allclose(calibration.by_tensor[tensor].amax, expected, rtol=1e-6)


def test_four_bit_codes_of_another_tool_are_a_skip_with_the_reason() -> None:
    text = "net (float[n, 2] x) => (float[n, 3] y) { y = MatMul (x, w) }"
    model = model_of(text, opset=21, ir=10, w=np.ones((2, 3), np.float32))
    del model.graph.initializer[:]
    model.graph.initializer.append(
        helper.make_tensor("codes", onnx.TensorProto.INT4, [2, 3], [1, 2, 3, 4, 5, 6])
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "s"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["codes", "s"], ["w"]))

    plan, _ = extract(as_graph(model))

    assert plan.skips[0].edge == Edge("codes", "MatMul_y", 1)
    assert "int4" in plan.skips[0].reason
