"""Activations, streamed out of ONNX Runtime into statistics."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnxqat.calibration import CalibrationConfig, collect, runtime
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.errors import ConfigError, DataError, ModelError
from onnxqat.graph import to_model
from tests.support.observed import ListData, parsed, two_layers


def samples(count: int = 50, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def expected_of(x: NDArray[np.float32], *tensors: str) -> dict[str, NDArray[np.float32]]:
    """The tensors of `two_layers` by ONNX's own reference implementation."""
    model = to_model(two_layers())
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return dict(zip(tensors, ReferenceEvaluator(model).run(None, {"x": x}), strict=True))


def test_extremes_and_counts_are_those_of_the_activations() -> None:
    x = samples()
    found = collect(two_layers(), ("x", "h", "a"), ListData({"x": x})).tensors
    expected = {"x": x, **expected_of(x, "h", "a")}
    for name, values in expected.items():
        assert found[name].amax == pytest.approx(np.abs(values).max(), rel=1e-6)
        assert found[name].minimum == pytest.approx(values.min(), rel=1e-6)
        assert found[name].values == found[name].counts.sum() == values.size


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_nothing_but_rounding(batch_size: int) -> None:
    data = ListData({"x": samples()})
    whole = collect(two_layers(), ("a",), data, config=CalibrationConfig(batch_size=50))
    parts = collect(two_layers(), ("a",), data, config=CalibrationConfig(batch_size=batch_size))
    moved = np.abs(whole.tensors["a"].counts - parts.tensors["a"].counts).sum()
    assert moved <= 4  # a value next to an edge may be rounded over it
    assert parts.samples == 50


@pytest.mark.parametrize("position", [0, 17, 49])
def test_every_sample_counts(position: int) -> None:
    x = samples()
    before = collect(two_layers(), ("x", "a"), ListData({"x": x})).tensors
    x[position] = 30
    after = collect(two_layers(), ("x", "a"), ListData({"x": x})).tensors
    assert after["x"].amax == 30 > before["x"].amax
    assert after["a"].amax > before["a"].amax


def test_no_more_samples_are_used_than_asked_for() -> None:
    x = samples()
    x[20:] = 99
    found = collect(two_layers(), ("x",), ListData({"x": x}), config=CalibrationConfig(samples=20))
    assert found.samples == 20
    assert found.tensors["x"].amax < 99


def test_progress_is_told_after_each_batch() -> None:
    told: list[tuple[int, int | None]] = []
    collect(
        two_layers(),
        ("a",),
        ListData({"x": samples(10)}),
        config=CalibrationConfig(batch_size=4, samples=100),
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_a_batch_is_made_as_large_as_its_activations_allow() -> None:
    data = ListData({"x": samples(200)})
    collect(two_layers(), ("a",), data)
    assert data.reads == [1, 64, 64, 64, 8]


def test_several_inputs_of_other_types_are_fed() -> None:
    graph = parsed(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        net (float[n, 4] x, int64[n] rows) => (float[n, 2] y) <float[4, 2] w>
        {
            [pick] picked = Gather <axis = 0> (x, rows)
            [multiply] y = MatMul(picked, w)
        }
        """,
        w=np.ones((4, 2), np.float32),
    )
    arrays = {"x": samples(6), "rows": np.zeros(6, np.int64)}
    found = collect(graph, ("picked",), ListData(arrays), config=CalibrationConfig(batch_size=6))
    assert found.tensors["picked"].amax == np.abs(arrays["x"][0]).max()


def test_an_activation_that_is_not_finite_is_named_with_its_batch() -> None:
    x = samples(8)
    x[5] = 3e38
    with pytest.raises(DataError, match=r"NaN or infinite[\s\S]*tensor 'h', batch 2"):
        collect(two_layers(), ("h",), ListData({"x": x}), config=CalibrationConfig(batch_size=2))


def test_a_model_that_cannot_run_is_told() -> None:
    with pytest.raises(ModelError, match="ONNX Runtime cannot run the model"):
        collect(two_layers(), ("h",), ListData({"x": np.zeros((3, 5), np.float32)}))


def test_a_tensor_without_values_is_left_empty() -> None:
    found = collect(two_layers(), ("a",), ListData({"x": samples(0)}))
    assert (found.samples, found.tensors["a"].values) == (0, 0)


def test_a_histogram_is_only_kept_where_it_is_wanted() -> None:
    found = collect(two_layers(), ("a",), ListData({"x": samples()}), histograms=False)
    whole = collect(two_layers(), ("a",), ListData({"x": samples()}))
    assert not found.tensors["a"].has_histogram
    assert found.tensors["a"].amax == whole.tensors["a"].amax


def test_a_statistic_has_a_size_that_does_not_depend_on_the_data() -> None:
    assert TensorStatistics().counts.nbytes < 300_000


def test_a_model_too_large_for_memory_is_run_through_files(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ListData({"x": samples()})
    config = CalibrationConfig(batch_size=50)
    expected = collect(two_layers(), ("x", "a"), data, config=config)
    monkeypatch.setattr(runtime, "_SERIALIZABLE", 0)
    found = collect(two_layers(), ("x", "a"), data, config=config)
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].amax == pytest.approx(tensor.amax, rel=1e-6)


def test_without_onnx_runtime_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"not installed[\s\S]*onnxqat\[cpu\]"):
        collect(two_layers(), ("a",), ListData({"x": samples()}))


def peak_bytes(count: int) -> int:
    data = ListData({"x": samples(count)})
    config = CalibrationConfig(batch_size=16)
    tracemalloc.start()
    collect(two_layers(), ("h", "a"), data, config=config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_ten_times_the_samples_take_no_more_memory() -> None:
    peak_bytes(160)  # whatever is loaded on first use
    assert peak_bytes(1600) < 1.1 * peak_bytes(160)
