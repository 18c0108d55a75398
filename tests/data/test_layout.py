"""Where a model's inputs have their samples."""

from __future__ import annotations

import pytest

from onnxqat.core.signature import InputSpec
from onnxqat.data.layout import batch_layout

Shape = tuple[int | str | None, ...]


def layout_of(**shapes: Shape) -> tuple[dict[str, int | None], int | None]:
    layout = batch_layout([InputSpec(name, "float32", shape) for name, shape in shapes.items()])
    return layout.axes, layout.fixed


@pytest.mark.parametrize(
    ("shapes", "axes", "fixed"),
    [
        pytest.param({"x": ("n", 3, 8)}, {"x": 0}, None, id="a named first dimension"),
        pytest.param({"x": (None, 3)}, {"x": 0}, None, id="a nameless open dimension"),
        pytest.param({"x": (4, 3)}, {"x": 0}, 4, id="a fixed batch"),
        pytest.param(
            {"x": ("batch", "sequence"), "state": (2, "batch", 128), "sr": ()},
            {"x": 0, "state": 1, "sr": None},
            None,
            id="the batch on another axis, and a scalar",
        ),
        pytest.param(
            {"anchors": (9, 2), "x": ("n", 3)}, {"anchors": None, "x": 0}, None, id="no batch"
        ),
        pytest.param({"x": (1, 257), "h": (1, 2, 128)}, {"x": 0, "h": 0}, 1, id="two fixed inputs"),
        pytest.param(
            {"x": (1, 257), "h": (2, 1, 128)}, {"x": 0, "h": None}, 1, id="fixed, other axis"
        ),
        pytest.param({"sr": ()}, {"sr": None}, None, id="nothing but a scalar"),
    ],
)
def test_the_sample_axis_is_read_off_the_shapes(
    shapes: dict[str, Shape], axes: dict[str, int | None], fixed: int | None
) -> None:
    assert layout_of(**shapes) == (axes, fixed)
