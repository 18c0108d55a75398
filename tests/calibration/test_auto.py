"""The best calibrator for each tensor."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.calibration import auto as auto_module
from onnxqat.core.calibration import Calibration
from onnxqat.data import DataConfig, open_data
from onnxqat.graph import Graph, input_specs, insert, load, prepare, to_model
from onnxqat.placement import place
from tests.support.assets import DATA, MODELS, needs_assets
from tests.support.observed import TWO_LAYERS_PLAN, ListData, parsed, plan_of, two_layers


def loud_channel(count: int = 100) -> ListData:
    """x [n, 64, 4]: one channel is a hundred times as large as the others."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 64, 4)).astype(np.float32)
    x[..., 0] *= 100
    return ListData({"x": x})


def first_weight(loud: float) -> NDArray[np.float32]:
    w = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    w[0] = loud
    return w


def sqnr_db(graph: Graph, candidate: Graph, x: NDArray[np.float32]) -> float:
    reference, output = (
        ort.InferenceSession(to_model(g).SerializeToString()).run(None, {g.inputs[0].name: x})[0]
        for g in (graph, candidate)
    )
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - output).sum()))


def test_large_values_that_the_network_ignores_are_clipped() -> None:
    graph, data = two_layers(weight=first_weight(0), rows="64"), loud_channel()
    auto = calibrate(graph, TWO_LAYERS_PLAN, data)
    mse = calibrate(graph, TWO_LAYERS_PLAN, data, config=CalibrationConfig(method="mse"))
    assert auto.by_tensor["x"].amax[0] < 0.2 * mse.by_tensor["x"].amax[0]
    gain = sqnr_db(graph, insert(graph, TWO_LAYERS_PLAN, auto), data.arrays["x"]) - sqnr_db(
        graph, insert(graph, TWO_LAYERS_PLAN, mse), data.arrays["x"]
    )
    assert gain > 3


def test_large_values_that_the_network_uses_are_kept() -> None:
    graph, data = two_layers(weight=first_weight(1), rows="64"), loud_channel()
    auto = calibrate(graph, TWO_LAYERS_PLAN, data)
    assert auto.by_tensor["x"].method == "mse"


def with_method(method: str, graph: Graph, data: ListData) -> Calibration:
    return calibrate(graph, TWO_LAYERS_PLAN, data, config=CalibrationConfig(method=method))


def test_without_time_to_search_the_least_squared_error_of_the_tensor_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auto_module, "_LONGEST_SEARCH", 0)
    graph, data = two_layers(weight=first_weight(0), rows="64"), loud_channel()
    auto, mse = with_method("auto", graph, data), with_method("mse", graph, data)
    assert [auto.by_tensor[t] for t in ("a", "x")] == [mse.by_tensor[t] for t in ("a", "x")]


@pytest.mark.parametrize("seed", range(4))
def test_outputs_of_unseen_data_have_no_more_error_than_by_the_tensors_alone(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.laplace(size=(200, 16, 4)).astype(np.float32)
    graph = two_layers(weight=first_weight(1), rows="16")
    seen, unseen = ListData({"x": x[:100]}), x[100:]
    auto, mse = (
        sqnr_db(graph, insert(graph, TWO_LAYERS_PLAN, with_method(method, graph, seen)), unseen)
        for method in ("auto", "mse")
    )
    assert auto > mse - 0.1


ATTENTION = """
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[n, 16] x) => (float[n, n] y)
    {
        [soften] p = Softmax <axis = -1> (x)
        [turn] t = Transpose <perm = [1, 0]> (p)
        [multiply] y = MatMul(p, t)
    }
"""


def test_probabilities_keep_their_maximum_in_any_shape() -> None:
    x = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32) * 3
    plan = plan_of(("p", "multiply", 0), ("t", "multiply", 1))
    auto = calibrate(parsed(ATTENTION), plan, ListData({"x": x}))
    mse = calibrate(
        parsed(ATTENTION), plan, ListData({"x": x}), config=CalibrationConfig(method="mse")
    )
    assert [r.method for r in auto.ranges] == ["max", "max"]
    assert mse.by_tensor["p"].amax < auto.by_tensor["p"].amax


def test_outputs_of_any_type_and_of_changing_shape_are_taken_as_they_come() -> None:
    graph = parsed(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        net (float[n, 4] x) => (float[n, 4] y, bool[n, 4] is_large, int64[2, k] where) <float one>
        {
            [rectify] a = Relu(x)
            [add] y = Add(a, a)
            [compare] is_large = Greater(y, one)
            [find] where = NonZero(is_large)
        }
        """,
        one=np.array(1, np.float32),
    )
    data = ListData({"x": np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)})
    auto = calibrate(graph, plan_of(("a", "add", 0), ("a", "add", 1)), data)
    assert auto.by_tensor["a"].amax[0] > 1


def test_a_network_that_is_silent_on_all_samples_is_calibrated() -> None:
    data = ListData({"x": np.zeros((70, 4), np.float32)})
    auto = calibrate(two_layers(), TWO_LAYERS_PLAN, data)
    assert auto.by_tensor["x"].method == "mse"


def test_the_same_data_gives_the_same_ranges() -> None:
    graph, data = two_layers(weight=first_weight(0), rows="64"), loud_channel()
    assert calibrate(graph, TWO_LAYERS_PLAN, data) == calibrate(graph, TWO_LAYERS_PLAN, data)


@needs_assets
def test_the_transformer_keeps_its_logits_to_20_db_on_clips_it_was_not_calibrated_on() -> None:
    """A small setting of what 512 clips are measured on: by `mse` alone it is 15 dB."""
    graph = prepare(load(MODELS / "kwt1_speech_commands.onnx"))
    clips = str(DATA / "speech_commands_mfcc_train_1500.npz")
    mapping = {"mfcc": "features"}
    seen = open_data(clips, input_specs(graph), DataConfig(arrays=mapping, samples=64))
    unseen = open_data(clips, input_specs(graph), DataConfig(arrays=mapping, start=512, samples=48))
    plan = place(graph)
    auto: Calibration = calibrate(graph, plan, seen)
    x = np.concatenate([batch.inputs["mfcc"] for batch in unseen.batches(16)])
    assert auto.by_tensor["mfcc"].method != "mse"
    assert sqnr_db(graph, insert(graph, plan, auto), x) > 20


@needs_assets
@pytest.mark.parametrize("method", ["auto", "mse"])
def test_a_residual_network_keeps_its_logits_to_26_db(method: str) -> None:
    graph = prepare(load(MODELS / "cifar10_resnet20.onnx"))
    config = DataConfig(
        arrays={"input": "images"},
        divide_by=255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    images = open_data(str(DATA / "cifar10_test_1k.npz"), input_specs(graph), config)
    plan = place(graph)
    ranges = calibrate(graph, plan, images, config=CalibrationConfig(method=method, samples=128))
    x = np.concatenate([batch.inputs["input"] for batch in images.batches(64, samples=256)])
    assert sqnr_db(graph, insert(graph, plan, ranges), x) > 26
