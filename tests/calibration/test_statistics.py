"""Statistics that are saved, and used again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxqat.calibration import Statistics, collect
from onnxqat.calibration.statistics import fingerprint
from onnxqat.core.errors import DataError
from onnxqat.graph import as_graph, to_model
from tests.support.observed import ListData, two_layers


def statistics() -> Statistics:
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    return collect(two_layers(), ("x", "a"), ListData({"x": x}))


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    before = statistics()
    before.save(tmp_path / "statistics.json")
    after = Statistics.load(tmp_path / "statistics.json")
    assert (after.model, after.samples, set(after.tensors)) == (before.model, 20, {"a", "x"})
    for name, tensor in before.tensors.items():
        assert after.tensors[name].amax == tensor.amax
        np.testing.assert_array_equal(after.tensors[name].counts, tensor.counts)
        np.testing.assert_array_equal(after.tensors[name].edges, tensor.edges)


def test_the_json_can_be_read_by_people_and_other_tools(tmp_path: Path) -> None:
    statistics().save(tmp_path / "statistics.json")
    document = json.loads((tmp_path / "statistics.json").read_text())
    assert document["samples"] == 20
    assert document["tensors"]["x"]["values"] == 80


def test_extremes_without_histograms_are_saved_too(tmp_path: Path) -> None:
    data = ListData({"x": np.ones((2, 4), np.float32)})
    collect(two_layers(), ("x",), data, histograms=False).save(tmp_path / "s.json")
    loaded = Statistics.load(tmp_path / "s.json").tensors["x"]
    assert (loaded.amax, loaded.has_histogram) == (1, False)


def test_statistics_fit_the_model_that_they_are_of_and_no_other() -> None:
    found = statistics()
    found.check_model(as_graph(to_model(two_layers())))
    with pytest.raises(DataError, match="of another model"):
        found.check_model(two_layers(weight=np.ones((4, 8), np.float32)))


def test_a_fingerprint_tells_attributes_apart() -> None:
    one, other = two_layers(), two_layers()
    other.nodes[1].op = "Abs"
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("content", ["", "{}", "[1", '{"version": 1, "tensors": {}}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    statistics().save(tmp_path / "s.json")
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*s\.json"):
        Statistics.load(tmp_path / "s.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*none\.json"):
        Statistics.load(tmp_path / "none.json")
