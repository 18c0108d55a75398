"""One .npz file, or a folder of them."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxqat.core.errors import DataError
from onnxqat.core.signature import InputSpec
from onnxqat.data import DataConfig, Dataset, open_data
from tests.support.datasets import IMAGE, numbered, write_members, write_npz


def opened(path: Path, *specs: InputSpec, **config: Any) -> Dataset:
    return open_data(str(path), specs or (IMAGE,), DataConfig(**config))


def seen(data: Dataset, batch_size: int = 4, **order: Any) -> list[int]:
    """The numbers of the samples, in the order in which they come."""
    batches = data.batches(batch_size, **order)
    return [int(value) for batch in batches for value in batch.inputs["x"][:, 0, 0]]


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "ten.npz", x=numbered(10), labels=np.arange(10, dtype=np.uint8))


def test_batches_come_in_file_order_and_the_last_is_smaller(ten: Path) -> None:
    batches = list(opened(ten).batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert seen(opened(ten)) == list(range(10))


def test_labels_go_with_their_samples(ten: Path) -> None:
    data = opened(ten)
    assert data.has_labels
    for batch in data.batches(3, seed=5):
        np.testing.assert_array_equal(batch.labels, batch.inputs["x"][:, 0, 0])


def test_a_seed_gives_every_sample_once_in_an_order_of_its_own(ten: Path) -> None:
    data = opened(ten)
    one, again, other = seen(data, seed=1), seen(data, seed=1), seen(data, seed=2)
    assert one == again != other
    assert sorted(one) == sorted(other) == list(range(10))


def test_start_and_samples_take_a_part_of_the_file(ten: Path) -> None:
    first, rest = opened(ten, samples=6), opened(ten, start=6)
    assert (first.size, rest.size) == (6, 4)
    assert seen(first) == [0, 1, 2, 3, 4, 5]
    assert seen(rest) == [6, 7, 8, 9]
    assert sorted(seen(rest, seed=3)) == [6, 7, 8, 9]


def test_the_number_of_samples_can_be_limited_for_one_pass(ten: Path) -> None:
    assert seen(opened(ten), samples=5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_reading_ahead_changes_nothing(ten: Path, workers: int) -> None:
    assert seen(opened(ten, workers=workers), batch_size=2) == list(range(10))


def test_a_fixed_batch_goes_before_and_leaves_out_what_does_not_fill_it(ten: Path) -> None:
    data = opened(ten, InputSpec("x", "float32", (3, 2, 3)))
    assert data.size == 9
    assert [len(batch) for batch in data.batches(64)] == [3, 3, 3]


def test_less_data_than_one_fixed_batch_is_an_error(ten: Path) -> None:
    with pytest.raises(DataError, match="10 samples, fewer than the model's fixed batch of 16"):
        opened(ten, InputSpec("x", "float32", (16, 2, 3)))


def test_fewer_samples_asked_for_than_one_fixed_batch_is_an_error(ten: Path) -> None:
    data = opened(ten, InputSpec("x", "float32", (4, 2, 3)))
    with pytest.raises(DataError, match="fewer than the model's fixed batch of 4"):
        next(data.batches(64, samples=3))


def test_an_array_with_one_dimension_more_is_one_feed_a_row(tmp_path: Path) -> None:
    feeds = np.stack([numbered(2, start=2 * i) for i in range(5)])
    data = opened(write_npz(tmp_path / "a.npz", x=feeds), InputSpec("x", "float32", (2, 2, 3)))
    assert data.size == 10
    assert [len(batch) for batch in data.batches(64)] == [2] * 5
    assert seen(data) == list(range(10))


def test_samples_lie_along_the_axis_of_the_batch_and_scalars_go_to_every_batch(
    tmp_path: Path,
) -> None:
    specs = (
        InputSpec("input", "float32", ("batch", 3)),
        InputSpec("state", "float32", (2, "batch", 4)),
        InputSpec("sr", "int64", ()),
    )
    generator = np.random.default_rng(0)
    arrays = {
        "input": generator.normal(size=(5, 3)).astype(np.float32),
        "state": generator.normal(size=(2, 5, 4)).astype(np.float32),
        "sr": np.array(16000, np.int64),
    }
    batches = list(opened(write_npz(tmp_path / "a.npz", **arrays), *specs).batches(2))
    assert [batch.inputs["state"].shape for batch in batches] == [(2, 2, 4), (2, 2, 4), (2, 1, 4)]
    assert [batch.inputs["sr"].item() for batch in batches] == [16000] * 3
    joined = np.concatenate([batch.inputs["state"] for batch in batches], axis=1)
    np.testing.assert_array_equal(joined, arrays["state"])


def test_names_that_are_no_identifiers_are_read(tmp_path: Path) -> None:
    name = "serving_default_input_2:0"
    path = write_members(tmp_path / "a.npz", {name: numbered(3)}, zipfile.ZIP_STORED)
    data = opened(path, InputSpec(name, "float32", ("n", 2, 3)))
    assert next(data.batches(3)).inputs[name].shape == (3, 2, 3)


def test_arrays_can_be_mapped_to_inputs(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", images=numbered(3), ids=np.arange(3), y=np.arange(3))
    data = opened(path, arrays={"x": "images"}, labels="y")
    assert seen(data) == [0, 1, 2]
    assert data.has_labels


@pytest.mark.parametrize(
    ("arrays", "config", "problem"),
    [
        pytest.param({"y": numbered(3)}, {}, "no array for input 'x'; 'y' is no input", id="name"),
        pytest.param(
            {"x": numbered(3), "z": numbered(3)}, {}, "'z' is no input of the model", id="unknown"
        ),
        pytest.param(
            {"x": numbered(3)}, {"arrays": {"y": "x"}}, "'y' is no input of the model", id="mapping"
        ),
        pytest.param(
            {"x": numbered(3)[:, :1]}, {}, r"shape \[3, 1, 3\], expected \[\?, 2, 3\]", id="shape"
        ),
        pytest.param({"x": np.zeros(3, np.float32)}, {}, r"shape \[3\], expected", id="rank"),
        pytest.param(
            {"x": numbered(3), "labels": np.arange(4)}, {}, "'x' 3, 'labels' 4", id="lengths"
        ),
        pytest.param({"x": numbered(0)}, {}, "there is no data: 0 samples", id="empty"),
        pytest.param({"x": numbered(3)}, {"start": 3}, "there is no data: 3 samples", id="start"),
        pytest.param({"x": numbered(3)}, {"labels": "y"}, "no label array 'y'", id="labels"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, arrays: dict[str, NDArray[Any]], config: dict[str, Any], problem: str
) -> None:
    path = write_npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=problem):
        opened(path, **config)


def write_shards(folder: Path, sizes: tuple[int, ...]) -> Path:
    start = 0
    for i, size in enumerate(sizes):
        labels = np.arange(start, start + size)
        write_npz(
            folder / f"{i}.npz",
            compression=zipfile.ZIP_LZMA,
            x=numbered(size, start=start),
            labels=labels,
        )
        start += size
    return folder


def test_shards_are_one_dataset_whose_batches_cross_their_ends(tmp_path: Path) -> None:
    data = opened(write_shards(tmp_path, (3, 5, 2)))
    assert data.size == 10
    assert [len(batch) for batch in data.batches(4)] == [4, 4, 2]
    assert seen(data) == list(range(10))
    assert sorted(seen(data, seed=0)) == list(range(10))
    assert seen(opened(tmp_path, start=2, samples=3)) == [2, 3, 4]


def test_a_shuffle_reads_one_shard_after_another(tmp_path: Path) -> None:
    order = seen(opened(write_shards(tmp_path, (4, 4, 4))), seed=1)
    shards = [sample // 4 for sample in order]
    assert len({shards[i] for i in range(0, 12, 4)}) == 3
    assert all(len(set(shards[i : i + 4])) == 1 for i in range(0, 12, 4))
    assert order != sorted(order)


def test_shards_must_agree_on_labels(tmp_path: Path) -> None:
    write_npz(tmp_path / "0.npz", x=numbered(2), labels=np.arange(2))
    write_npz(tmp_path / "1.npz", x=numbered(2))
    with pytest.raises(DataError, match="this shard differs from the first one"):
        opened(tmp_path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reading_a_file_holds_batches_and_never_the_file(tmp_path: Path, compression: int) -> None:
    spec = InputSpec("x", "float32", ("n", 4096))
    path = write_npz(
        tmp_path / "a.npz", compression=compression, x=np.zeros((2000, 4096), np.float32)
    )
    tracemalloc.start()
    for _ in opened(path, spec).batches(8, seed=0):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # the array has 33e6 bytes, and a block of decompression 1e6
