"""A folder of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxqat.core.errors import DataError
from onnxqat.core.signature import InputSpec
from onnxqat.data import DataConfig, Dataset, open_data

Image = pytest.importorskip("PIL.Image", reason="the [vision] extra is not installed")

NCHW = InputSpec("x", "float32", ("n", 3, 4, 6))
RED = (200, 20, 10)


def write_image(path: Path, *, size: tuple[int, int] = (6, 4), colour: Any = RED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def opened(folder: Path, spec: InputSpec = NCHW, **config: Any) -> Dataset:
    return open_data(str(folder), (spec,), DataConfig(**{"divide_by": 1, **config}))


def first(data: Dataset) -> Any:
    return next(data.batches(1)).inputs["x"]


def test_pixels_come_in_the_models_layout_and_order(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    np.testing.assert_array_equal(first(opened(tmp_path))[0, :, 0, 0], RED)
    np.testing.assert_array_equal(
        first(opened(tmp_path, channel_order="bgr"))[0, :, 0, 0], RED[::-1]
    )
    nhwc = first(opened(tmp_path, InputSpec("x", "float32", ("n", 4, 6, 3))))
    assert nhwc.shape == (1, 4, 6, 3)
    np.testing.assert_array_equal(nhwc[0, 0, 0], RED)


def test_a_grey_model_gets_luminance(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", colour=(100, 100, 100))
    assert first(opened(tmp_path, InputSpec("x", "float32", ("n", 1, 4, 6)))).mean() == 100


def test_images_are_stretched_or_cropped_to_the_models_size(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255  # white in the middle third
    Image.fromarray(wide).save(tmp_path / "a.png")
    spec = InputSpec("x", "float32", ("n", 3, 8, 8))
    stretched = first(opened(tmp_path, spec))
    cropped = first(opened(tmp_path, spec, resize_short=8))
    assert 0 < stretched.mean() < 128
    assert cropped.min() == 255


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/1.png", "dog/2.png"):
        write_image(tmp_path / name)
    data = opened(tmp_path)
    assert data.has_labels
    assert [batch.labels.tolist() for batch in data.batches(3) if batch.labels is not None] == [
        [0, 1, 1]
    ]


def test_images_without_subfolders_have_no_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    assert not opened(tmp_path).has_labels


def test_workers_read_the_same_images(tmp_path: Path) -> None:
    for i in range(7):
        write_image(tmp_path / f"{i}.png", colour=(i, i, i))
    for workers in (0, 2):
        batches = opened(tmp_path, workers=workers).batches(2)
        assert [int(v) for b in batches for v in b.inputs["x"][:, 0, 0, 0]] == list(range(7))


def test_some_images_in_class_folders_and_some_beside_is_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "cat/b.png")
    with pytest.raises(DataError, match="some beside them"):
        opened(tmp_path)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*broken\.jpg"):
        first(opened(tmp_path))


def test_a_model_without_an_image_input_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="one input of four dimensions"):
        opened(tmp_path, InputSpec("x", "float32", ("n", 10)))


def test_a_model_of_open_size_needs_a_word_on_it(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    spec = InputSpec("x", "float32", ("n", 3, "h", "w"))
    with pytest.raises(DataError, match="image_size"):
        opened(tmp_path, spec)
    assert first(opened(tmp_path, spec, image_size=(5, 7))).shape == (1, 3, 5, 7)


def test_pixels_need_a_word_on_their_scale(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="divide_by"):
        first(opened(tmp_path, divide_by=None))
