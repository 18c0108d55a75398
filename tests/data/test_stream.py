"""Loader scripts and callables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxqat.core.errors import DataError
from onnxqat.core.signature import InputSpec
from onnxqat.data import DataConfig, Dataset, open_data
from onnxqat.data import stream as stream_module
from tests.support.datasets import IMAGE, write_script

FEEDS = """
def load_data():
    for first in (0, 3, 6):
        numbers = np.arange(first, first + 3, dtype=np.float32)
        yield {"x": np.broadcast_to(numbers[:, None, None], (3, 2, 3))}


def labelled():
    for feed in load_data():
        yield feed, feed["x"][:, 0, 0].astype(np.int64)
"""


def opened(source: str | Path, *specs: InputSpec, **config: Any) -> Dataset:
    return open_data(str(source), specs or (IMAGE,), DataConfig(**config))


def seen(data: Dataset, batch_size: int = 4, **order: Any) -> list[int]:
    batches = data.batches(batch_size, **order)
    return [int(value) for batch in batches for value in batch.inputs["x"][:, 0, 0]]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return write_script(tmp_path / "loader.py", FEEDS)


def test_feeds_are_joined_to_the_batch_size_and_can_be_read_again(script: Path) -> None:
    data = opened(script)
    assert [len(batch) for batch in data.batches(4)] == [4, 4, 1]
    assert seen(data) == seen(data) == list(range(9))
    assert (data.size, data.has_labels) == (None, False)


def test_a_script_may_name_another_function_and_yield_labels(script: Path) -> None:
    data = opened(f"{script}:labelled")
    assert data.has_labels
    for batch in data.batches(2, seed=3):
        np.testing.assert_array_equal(batch.labels, batch.inputs["x"][:, 0, 0])


def test_a_seed_shuffles_and_keeps_every_sample(script: Path) -> None:
    data = opened(script)
    one, again, other = seen(data, seed=1), seen(data, seed=1), seen(data, seed=2)
    assert one == again != other
    assert sorted(one) == list(range(9))


def test_a_small_shuffle_buffer_still_keeps_every_sample(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SHUFFLE_BYTES", 3 * 24)  # three samples
    assert sorted(seen(opened(script), seed=1)) == list(range(9))


def test_start_and_samples_take_a_part(script: Path) -> None:
    assert seen(opened(script, start=2, samples=5)) == [2, 3, 4, 5, 6]
    assert seen(opened(script), samples=4) == [0, 1, 2, 3]


def test_no_more_is_loaded_than_asked_for(tmp_path: Path) -> None:
    endless = (
        "def load_data():\n    while True:\n        yield {'x': np.ones((2, 2, 3), np.float32)}"
    )
    data = opened(write_script(tmp_path / "endless.py", endless))
    assert len(seen(data, samples=7)) == 7
    shuffled = data.batches(4, samples=4, seed=0)
    assert len(next(shuffled)) == 4


def test_a_list_of_feeds_is_a_loader_too(tmp_path: Path) -> None:
    body = "def load_data():\n    return [{'x': np.zeros((1, 2, 3), np.float32)}] * 3"
    assert seen(opened(write_script(tmp_path / "a.py", body))) == [0, 0, 0]


def test_a_feed_of_a_fixed_batch_is_passed_on_as_it_is(tmp_path: Path) -> None:
    data = opened(write_script(tmp_path / "a.py", FEEDS), InputSpec("x", "float32", (3, 2, 3)))
    assert [len(batch) for batch in data.batches(64)] == [3, 3, 3]


def test_feeds_of_different_lengths_are_not_joined(tmp_path: Path) -> None:
    body = """
def load_data():
    for length in (4, 4, 6):
        yield {"x": np.zeros((1, length), np.float32)}
"""
    data = opened(
        write_script(tmp_path / "a.py", body), InputSpec("x", "float32", ("batch", "time"))
    )
    assert [batch.inputs["x"].shape for batch in data.batches(8)] == [(2, 4), (1, 6)]


def test_an_input_without_samples_keeps_feeds_apart_where_it_changes(tmp_path: Path) -> None:
    body = """
def load_data():
    for rate in (8000, 8000, 16000):
        yield {"x": np.zeros((1, 2), np.float32), "sr": np.array(rate)}
"""
    specs = (InputSpec("x", "float32", ("n", 2)), InputSpec("sr", "int64", ()))
    data = opened(write_script(tmp_path / "a.py", body), *specs)
    assert [(len(b), b.inputs["sr"].item()) for b in data.batches(8)] == [(2, 8000), (1, 16000)]


def test_a_callable_in_an_importable_module_is_a_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(tmp_path / "loaders_of_test_stream.py", FEEDS)
    monkeypatch.chdir(tmp_path)
    assert seen(opened("loaders_of_test_stream:labelled")) == list(range(9))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        pytest.param("def load_data():\n    return iter(())", "yields nothing", id="empty"),
        pytest.param("def load_data():\n    yield 3", "yields int, expected a dict", id="no dict"),
        pytest.param("other = 3", "no function 'load_data'", id="no function"),
        pytest.param("import nothing_of_this_name", "cannot be imported", id="import"),
        pytest.param(
            "def load_data():\n    raise RuntimeError('disk')", "RuntimeError: disk", id="raises"
        ),
        pytest.param(
            "def load_data():\n    yield {'y': np.zeros(3)}",
            "no array for input 'x'; 'y' is no input",
            id="name",
        ),
        pytest.param(
            "def load_data():\n    yield {'x': np.zeros((1, 2, 3))}", "given float64", id="dtype"
        ),
        pytest.param(
            "def load_data():\n    yield {'x': np.zeros((0, 2, 3), np.float32)}",
            "equally many samples, and some: 'x' 0",
            id="no samples",
        ),
        pytest.param(
            "def load_data():\n    yield {'x': np.zeros((2, 2, 3), np.float32)}, np.arange(3)",
            "one for each of the 2 samples",
            id="labels",
        ),
    ],
)
def test_a_loader_that_does_not_fit_is_refused_when_it_is_opened(
    tmp_path: Path, body: str, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        opened(write_script(tmp_path / "loader.py", body))


def test_a_bad_feed_later_on_names_its_batch(tmp_path: Path) -> None:
    body = """
def load_data():
    for value in (1.0, 2.0, np.nan):
        yield {"x": np.full((1, 2, 3), value, np.float32)}
"""
    data = opened(write_script(tmp_path / "loader.py", body))
    with pytest.raises(DataError, match=r"6 values that are NaN[\s\S]*batch 2"):
        seen(data)
