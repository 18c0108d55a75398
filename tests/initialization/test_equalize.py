"""Equalization and smoothing: the same function, with less error when it is quantized."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.calibration.runtime import TensorReader
from onnxqat.core.errors import ConfigError
from onnxqat.core.plan import QuantPlan
from onnxqat.data import Batch
from onnxqat.engine import compare
from onnxqat.graph import Change, Graph, as_graph, insert, prepare
from onnxqat.graph.channel_groups import NORMS, Group, groups
from onnxqat.graph.names import Names
from onnxqat.graph.rescale import rescale
from onnxqat.initialization import equalize
from onnxqat.initialization.noise import SHARES, _spread, observe
from onnxqat.placement import PlacementConfig, place
from tests.support.networks import vit

CNN = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] x) => (float[n, 8, 8, 8] y)
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r = Relu (a)
    d = Conv <pads = [1, 1, 1, 1], group = 16> (r, w1, b1)
    s = Relu (d)
    y = Conv (s, w2, b2)
}
"""
RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] x) => (float[n, 8, 8, 8] y)
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r = Relu (a)
    b = Conv <pads = [1, 1, 1, 1]> (r, v1, b1)
    s = Relu (b)
    c = Conv <pads = [1, 1, 1, 1]> (s, v2, b3)
    d = Add (c, r)
    t = Relu (d)
    y = Conv (t, w2, b2)
}
"""
SEVERAL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] x) => (float mean, float[n, 8, 8, 8] zero, seq(float[n, 8, 8, 8]) all)
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r = Relu (a)
    y = Conv (r, w2, b2)
    mean = ReduceMean <keepdims = 0> (y)
    zero = Sub (y, y)
    all = SequenceConstruct (y, y)
}
"""
LIMITED = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3, 8, 8] x) => (float[n, 8, 8, 8] y)
<float zero = {0.0}, float six = {6.0}>
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r = Clip (a, zero, six)
    y = Conv (r, w2, b2)
}
"""
SHAPES = {
    "w0": (16, 3, 3, 3), "b0": (16,), "w1": (16, 1, 3, 3), "b1": (16,), "w2": (8, 16, 1, 1),
    "b2": (8,), "v1": (16, 16, 3, 3), "v2": (16, 16, 3, 3), "b3": (16,),
}  # fmt: skip


@dataclass
class Normal:
    """Standard normal inputs, in memory."""

    name: str
    shape: tuple[int, ...]
    samples: int = 64
    fixed: int | None = None
    has_labels: bool = False

    @property
    def size(self) -> int:
        return self.samples

    def batches(self, batch_size, *, samples=None, seed=None) -> Iterator[Batch]:
        every = np.random.default_rng(3).normal(size=(self.samples, *self.shape))
        every = every.astype(np.float32)[:samples]
        step = self.fixed or batch_size
        for start in range(0, len(every), step):
            part = every[start : start + step]
            yield Batch({self.name: part}, None, len(part))


IMAGES = Normal("x", (3, 8, 8))


def cnn() -> Graph:
    return network(CNN)


def network(text: str) -> Graph:
    rng = np.random.default_rng(0)
    model = parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    for name, shape in SHAPES.items():
        if name not in read:
            continue
        values = rng.normal(0, int(np.prod(shape[1:])) ** -0.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = f"/{node.output[0]}"
    onnx.checker.check_model(model)
    return prepare(as_graph(model))


def distorted(graph: Graph, *, producers: frozenset[str] | None = None) -> Graph:
    """The same function, with channels whose ranges are far apart."""
    graph = graph.copy()
    rng = np.random.default_rng(5)
    names = Names(graph)
    for group in [group for group in groups(graph) if isinstance(group, Group)]:
        if producers is None or all(x.node.op in producers for x in group.producers):
            rescale(group, 100 ** rng.uniform(-0.5, 0.5, group.size), names)
    return graph


def planned(graph: Graph, format_name: str = "int8") -> QuantPlan:
    return place(graph, config=PlacementConfig(format=format_name))


def ptq_db(graph: Graph, data: Normal, format_name: str = "int8") -> float:
    plan = planned(graph, format_name)
    config = CalibrationConfig(method="max", threads=1)
    return compare(
        graph, insert(graph, plan, calibrate(graph, plan, data, config=config)), data
    ).sqnr_db


def test_channels_far_apart_are_brought_together_again():
    fp32 = cnn()
    spoiled = distorted(fp32)
    mended = equalize(spoiled, planned(spoiled), IMAGES)
    assert compare(fp32, mended, IMAGES).sqnr_db > 100, "the same function"
    whole, bad, good = (ptq_db(graph, IMAGES) for graph in (fp32, spoiled, mended))
    assert bad < whole - 6
    assert good > whole - 1


def test_the_graph_that_is_given_is_not_changed():
    spoiled = distorted(cnn())
    before = {
        name: t.values.copy() for name, t in spoiled.tensors().items() if hasattr(t, "values")
    }
    equalize(spoiled, planned(spoiled), IMAGES)
    after = {name: t.values for name, t in spoiled.tensors().items() if hasattr(t, "values")}
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_each_place_is_told_with_its_gain_or_with_the_reason_why_not():
    told: list[Change] = []
    spoiled = distorted(cnn())
    equalize(spoiled, planned(spoiled), IMAGES, on_change=told.append)
    kinds = {change.node: change.kind for change in told}
    assert kinds == {"/a": "equalize", "/d": "equalize", "/y": "channels kept"}
    equalized = [change.detail for change in told if change.kind == "equalize"]
    assert all("% of what rounding" in detail for detail in equalized)


def test_into_a_depthwise_layer_all_differences_go_for_its_scales_take_them_up():
    spoiled = distorted(cnn())
    mended = equalize(spoiled, planned(spoiled), IMAGES)
    assert spread_of(spoiled, "r") > 20
    assert spread_of(mended, "r") < 3


def spread_of(graph: Graph, tensor: str) -> float:
    """The largest range of a channel, in the smallest one."""
    amax = amax_of(graph, tensor)
    return float(amax.max() / amax.min())


def amax_of(graph: Graph, tensor: str) -> np.ndarray:
    """The largest magnitude of each channel."""
    (batch,) = IMAGES.batches(64)
    value = TensorReader(graph, [tensor])(batch.inputs)[tensor]
    return np.abs(value).max(axis=(0, 2, 3))


def test_what_is_predicted_of_rounding_is_what_it_does():
    graph = cnn()
    plan = planned(graph)
    names = {placement.edge.tensor for placement in plan.placements}
    weights = [name for name in names if name.startswith("w")]
    seen = observe(graph, dict.fromkeys(names - set(weights), 1), weights, IMAGES.batches(4))
    predicted = 0.0
    for name, exposed in seen.items():
        rows = exposed.amax.flatten(1).amax(1) if name in weights else exposed.amax.max()
        gains = exposed.gain.flatten(1).sum(1) if name in weights else exposed.gain.sum()
        predicted += float(((rows / 127) ** 2 / 12 * gains).sum())
    (batch,) = IMAGES.batches(64)
    wanted = TensorReader(graph, ["y"])(batch.inputs)["y"]
    of_signal = predicted * wanted.var() / np.square(wanted).mean()
    assert -10 * np.log10(of_signal) == pytest.approx(ptq_db(graph, IMAGES), abs=0.5)


def test_with_four_bit_weights_no_more_is_moved_than_they_can_bear():
    spoiled = distorted(cnn())
    mended = equalize(spoiled, planned(spoiled, "w4a8"), IMAGES)
    assert ptq_db(mended, IMAGES, "w4a8") > ptq_db(spoiled, IMAGES, "w4a8") - 0.5


def test_smoothing_takes_outliers_behind_a_normalization_into_the_weights():
    fp32 = prepare(as_graph(vit()))
    (image,) = fp32.inputs
    data = Normal(image.name, tuple(image.shape[1:]), samples=8, fixed=1)
    spoiled = distorted(fp32, producers=NORMS)
    mended = equalize(spoiled, planned(spoiled), data, stages=("smooth",), samples=8)
    assert compare(fp32, mended, data).sqnr_db > 90, "the same function"
    bad, good = ptq_db(spoiled, data), ptq_db(mended, data)
    assert good > bad + 3


@pytest.mark.parametrize("stage", ["equalize", "smooth"])
def test_only_what_is_asked_for_is_done(stage):
    fp32 = prepare(as_graph(vit()))
    (image,) = fp32.inputs
    data = Normal(image.name, tuple(image.shape[1:]), samples=4, fixed=1)
    told: list[Change] = []
    spoiled, told_to = distorted(fp32), told.append
    equalize(spoiled, planned(spoiled), data, stages=(stage,), samples=4, on_change=told_to)
    assert {change.kind for change in told} - {"channels kept"} <= {stage}


def test_a_channel_that_is_dead_does_no_harm():
    fp32 = cnn()
    weights = {t.name: t for node in fp32.nodes for t in node.inputs if hasattr(t, "values")}
    dead = weights["w0"].values.copy()
    dead[3] = 0
    weights["w0"].values = dead
    bias = weights["b0"].values.copy()
    bias[3] = 0
    weights["b0"].values = bias
    mended = equalize(fp32, planned(fp32), IMAGES)
    assert compare(fp32, mended, IMAGES).sqnr_db > 100
    values = [t.values for node in mended.nodes for t in node.inputs if hasattr(t, "values")]
    assert all(np.isfinite(array).all() for array in values)


def test_the_factors_of_one_place_do_not_depend_on_those_of_the_place_before():
    spoiled = distorted(network(RESIDUAL))
    mended = equalize(spoiled, planned(spoiled, "w4a8"), IMAGES)
    told: list[Change] = []
    equalize(mended, planned(mended, "w4a8"), IMAGES, on_change=told.append)
    assert {change.kind for change in told} == {"channels kept"}, "nothing is left to win"


def test_below_a_limit_channels_are_multiplied_as_far_as_they_reach():
    graph = network(LIMITED)
    weights = {t.name: t for node in graph.nodes for t in node.inputs if hasattr(t, "values")}
    sizes = np.geomspace(0.25, 16.0, 16).astype(np.float32)  # of the channels
    weights["w0"].values = weights["w0"].values * sizes[:, None, None, None]
    weights["w2"].values = weights["w2"].values / sizes[:, None, None]
    before = amax_of(graph, "r")
    mended = equalize(graph, planned(graph), IMAGES)
    after = amax_of(mended, "r")
    factors = before / after
    assert (factors < 1.001).all(), "none is divided, lest it escape its limit"
    assert (before == 6).any(), "some reach the limit"
    assert np.allclose(factors[before == 6], 1, atol=0.1), "and stay, or nearly"
    assert (after[before < 3] > 1.3 * before[before < 3]).all()
    assert compare(graph, mended, IMAGES).sqnr_db > 40
    assert ptq_db(mended, IMAGES) > ptq_db(graph, IMAGES) + 1


def test_what_a_limit_cuts_is_weighed_as_measured():
    shares = torch.tensor([[0.2, 0.5, 1.0], [0.05, 0.7, 0.9]])
    spread = _spread(shares, torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]))
    assert spread.sum(1).tolist() == [7, 56]
    cut = (SHARES > 0.6).float().double() @ spread.T
    assert cut.tolist() == [4, 48]


def test_outputs_of_one_value_and_sequences_beside_them_do_no_harm():
    spoiled = distorted(network(SEVERAL))
    data = Normal("x", (3, 8, 8), samples=8)
    mended = equalize(spoiled, planned(spoiled), data)
    assert spread_of(spoiled, "r") > 20
    assert spread_of(mended, "r") < 8


def test_a_stage_of_the_quantized_model_is_an_error():
    graph = cnn()
    with pytest.raises(ConfigError, match="'adaround' is no stage of the FP32 model"):
        equalize(graph, planned(graph), IMAGES, stages=("equalize", "adaround"))


def test_where_nothing_is_quantized_nothing_is_changed():
    graph = cnn()
    told: list[Change] = []
    plan = place(graph, config=PlacementConfig(exclude=(".*",)))
    equalize(graph, plan, IMAGES, on_change=told.append)
    assert {change.kind for change in told} == {"channels kept"}
