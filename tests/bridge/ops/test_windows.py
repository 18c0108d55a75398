"""Convolutions and pools over random windows, against ONNX Runtime."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from onnxqat.bridge import to_torch
from onnxqat.core.errors import ModelError
from tests.support.bridge import assert_agrees, node_model, runtime, torch_outputs
from tests.support.runtime import needs_good_oracle

SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@st.composite
def windows(draw: st.DrawFn, *, rank: int, pool: bool = False) -> dict[str, Any]:
    """kernel_shape, strides, dilations and either pads or auto_pad.

    With SAME no stride is longer than the kernel, where ONNX Runtime's own kernels disagree.
    """
    axes = range(rank)
    attributes: dict[str, Any] = {
        "kernel_shape": [draw(st.integers(1, 3)) for _ in axes],
        "strides": [draw(st.integers(1, 3)) for _ in axes],
    }
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto_pad == "NOTSET" or not pool:
        attributes["dilations"] = [draw(st.integers(1, 2)) for _ in axes]
    if auto_pad == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in attributes["kernel_shape"] * 2]
    else:
        attributes["auto_pad"] = auto_pad
        assume(all(map(operator.ge, attributes["kernel_shape"], attributes["strides"])))
    return attributes


def image(rank: int, channels: int = 4) -> np.ndarray:
    shape = (2, channels, 9, 8, 7)[: rank + 2]
    return np.random.default_rng(rank).normal(size=shape).astype(np.float32)


def check(op: str, feeds: dict[str, Any], *, opset: int, **attributes: Any) -> None:
    """Compare, unless ONNX Runtime itself has no kernel for these attributes."""
    model = node_model(op, feeds, opset=opset, **attributes)
    try:
        runtime(model, feeds)
    except Exception:  # noqa: BLE001 - its refusals have no type of their own
        assume(False)
    assert_agrees(model, feeds)


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(data=st.data())
@SETTINGS
def test_conv(rank: int, data: st.DataObject) -> None:
    attributes = data.draw(windows(rank=rank))
    group = data.draw(st.sampled_from([1, 2, 4]))
    x = image(rank)
    kernel = attributes["kernel_shape"]
    w = np.random.default_rng(0).normal(size=(8, 4 // group, *kernel)).astype(np.float32)
    feeds = {"x": x, "w": w, "b": w.reshape(8, -1)[:, 0].copy()}
    check("Conv", feeds, opset=17, group=group, **attributes)


@pytest.mark.parametrize("rank", [1, 2])
@given(data=st.data())
@SETTINGS
def test_conv_transpose(rank: int, data: st.DataObject) -> None:
    attributes = data.draw(windows(rank=rank))
    if "pads" in attributes:
        attributes["output_padding"] = [
            data.draw(st.integers(0, s - 1)) for s in attributes["strides"]
        ]
    group = data.draw(st.sampled_from([1, 2]))
    w = np.random.default_rng(0).normal(size=(4, 3, *attributes["kernel_shape"]))
    feeds = {"x": image(rank), "w": w.astype(np.float32)}
    check("ConvTranspose", feeds, opset=17, group=group, **attributes)


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(data=st.data(), ceil_mode=st.booleans())
@SETTINGS
def test_max_pool(rank: int, data: st.DataObject, ceil_mode: bool) -> None:
    attributes = data.draw(windows(rank=rank, pool=True))
    assume(not ceil_mode or attributes.get("auto_pad") != "VALID")
    check("MaxPool", {"x": image(rank)}, opset=12, ceil_mode=int(ceil_mode), **attributes)


@pytest.mark.parametrize("column_major", [0, 1])
@given(data=st.data())
@SETTINGS
def test_max_pool_with_indices(column_major: int, data: st.DataObject) -> None:
    attributes = data.draw(windows(rank=2, pool=True))
    types = ("float32", "int64")
    feeds = {"x": image(2)}
    check("MaxPool", feeds, opset=12, outputs=types, storage_order=column_major, **attributes)


@needs_good_oracle
@pytest.mark.parametrize("rank", [1, 2, 3])
@given(data=st.data(), ceil_mode=st.booleans(), include=st.booleans())
@SETTINGS
def test_average_pool(rank: int, data: st.DataObject, ceil_mode: bool, include: bool) -> None:
    attributes = data.draw(windows(rank=rank, pool=True))
    assume(not ceil_mode or attributes.get("auto_pad") != "VALID")
    flags = {"ceil_mode": int(ceil_mode), "count_include_pad": int(include)}
    check("AveragePool", {"x": image(rank)}, opset=19, **flags, **attributes)


@pytest.mark.parametrize("rank", [1, 2])
@given(data=st.data(), p=st.sampled_from([1, 2, 3]))
@SETTINGS
def test_lp_pool(rank: int, data: st.DataObject, p: int) -> None:
    attributes = data.draw(windows(rank=rank, pool=True))
    check("LpPool", {"x": image(rank)}, opset=18, p=p, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"auto_pad": "SAME_UPPER", "dilations": [2, 2]},
        {"auto_pad": "VALID", "ceil_mode": 1, "strides": [2, 2]},
    ],
)
def test_a_pool_whose_output_shape_is_disputed_is_an_error(attributes: dict[str, Any]) -> None:
    feeds = {"x": image(2)}
    model = node_model("MaxPool", feeds, opset=12, kernel_shape=[2, 2], **attributes)
    with pytest.raises(ModelError, match="differ between ONNX and its runtimes"):
        torch_outputs(to_torch(model), feeds)
