from __future__ import annotations

import pytest

from onnxqat.core.errors import BuildError
from onnxqat.core.signature import InputSpec
from onnxqat.engine.profiles import ShapeRange, shape_profile

IMAGE = InputSpec("image", "float32", ("batch", 3, 32, 32))
STATE = InputSpec("state", "float32", (2, "batch", 128))
AUDIO = InputSpec("audio", "float32", ("batch", "length"))


def one(*shape: int) -> ShapeRange:
    return ShapeRange(shape, shape, shape)


def test_without_shapes_the_batch_is_one_wherever_its_name_stands() -> None:
    assert shape_profile((IMAGE, STATE), {}) == {
        "image": one(1, 3, 32, 32),
        "state": one(2, 1, 128),
    }


def test_an_unnamed_first_dimension_is_the_batch() -> None:
    spec = InputSpec("x", "float32", (None, 4))

    assert shape_profile((spec,), {}) == {"x": one(1, 4)}


def test_an_input_of_fixed_shape_needs_no_profile() -> None:
    spec = InputSpec("x", "float32", (1, 4))

    assert shape_profile((spec,), {}) == shape_profile((spec,), {"x": (1, 4)}) == {}


def test_a_given_shape_is_used_for_all_three_bounds() -> None:
    assert shape_profile((AUDIO,), {"audio": [4, 512]}) == {"audio": one(4, 512)}


def test_a_given_range_is_kept() -> None:
    shapes = ShapeRange((1, 16), (4, 512), (8, 1024))

    assert shape_profile((AUDIO,), {"audio": shapes}) == {"audio": shapes}


def test_another_dynamic_dimension_has_no_default() -> None:
    with pytest.raises(BuildError, match=r"dimension 1 \('length'\)") as caught:
        shape_profile((AUDIO,), {})

    assert caught.value.tensor == "audio"
    assert caught.value.fix is not None
    assert "--shape audio=1x" in caught.value.fix


def test_a_shape_for_an_unknown_input_is_an_error_that_lists_the_inputs() -> None:
    with pytest.raises(BuildError, match="'img', which is no input") as caught:
        shape_profile((IMAGE,), {"img": [1, 3, 32, 32]})

    assert caught.value.fix == "the inputs are: image"


@pytest.mark.parametrize("shape", [(1, 3, 32), (1, 4, 32, 32)])
def test_a_shape_that_contradicts_the_model_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(BuildError, match="does not fit"):
        shape_profile((IMAGE,), {"image": shape})


def test_a_range_whose_bounds_are_out_of_order_is_an_error() -> None:
    with pytest.raises(BuildError, match="smallest"):
        shape_profile((AUDIO,), {"audio": ShapeRange((4, 512), (1, 512), (8, 512))})
