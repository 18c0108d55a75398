"""Operator versions that ONNX's node tests no longer have, against ONNX Runtime."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from onnxqat.bridge import to_torch
from onnxqat.bridge.ops.registry import listed_versions, since_version
from tests.support.bridge import assert_agrees, node_model, runtime
from tests.support.onnx_cases import as_numpy, as_torch, cases_of_nodes, node_cases

RNG = np.random.default_rng(0)
X4 = RNG.normal(size=(2, 4, 5, 6)).astype(np.float32)
X3 = RNG.normal(size=(2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(X3) + 0.5
CHANNELS = {
    name: np.abs(RNG.normal(size=4).astype(np.float32)) + 0.1
    for name in ("scale", "b", "mean", "var")
}


def scales(*values: float) -> dict[str, Any]:
    return {"scales": np.array(values, np.float32)}


CASES: list[tuple[str, int, np.ndarray, dict[str, Any], dict[str, Any]]] = [
    ("Slice", 9, X3, {}, {"starts": [0, -3], "ends": [2, 100], "axes": [0, 2]}),
    ("Slice", 9, X3, {}, {"starts": [1], "ends": [-1]}),
    ("Squeeze", 11, X3[:, :1], {}, {"axes": [1]}),
    ("Squeeze", 11, X3[:1, :, :1], {}, {}),
    ("Unsqueeze", 11, X3, {}, {"axes": [0, 3]}),
    ("Clip", 6, X3, {}, {"min": -0.5, "max": 0.25}),
    ("Clip", 6, X3, {}, {"max": 0.25}),
    ("Pad", 10, X3, {}, {"pads": [0, 1, 0, 0, 0, 2], "value": 1.5}),
    ("Pad", 10, X4, {}, {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "mode": "reflect"}),
    ("Pad", 10, X4, {}, {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "mode": "edge"}),
    ("Pad", 10, X4, {}, {"pads": [0, 0, -1, 2, 0, 0, 2, -1]}),
    ("Softmax", 11, X4, {}, {"axis": 2}),
    ("Softmax", 11, X4, {}, {}),
    ("Softmax", 7, X3, {}, {"axis": 0}),
    ("LogSoftmax", 11, X4, {}, {"axis": 1}),
    ("Hardmax", 11, X4, {}, {"axis": 2}),
    ("ReduceSum", 11, X4, {}, {"axes": [1, -1]}),
    ("ReduceSum", 11, X4, {}, {"keepdims": 0}),
    ("ReduceMean", 13, X4, {}, {"axes": [2, 3], "keepdims": 0}),
    ("ReduceMax", 11, X4, {}, {"axes": [-2]}),
    ("ReduceL2", 11, X4, {}, {"axes": [1]}),
    ("ReduceLogSumExp", 11, X4, {}, {"axes": [1, 2]}),
    ("ReduceProd", 11, X3, {}, {"axes": [0, 2]}),
    ("ArgMax", 11, X3, {}, {"axis": 2, "keepdims": 0, "outputs": ("int64",)}),
    ("Dropout", 7, X3, {}, {"ratio": 0.3}),
    ("Dropout", 10, X3, {}, {}),
    ("BatchNormalization", 7, X4, CHANNELS, {"epsilon": 1e-2}),
    ("BatchNormalization", 9, X4, CHANNELS, {}),
    ("Upsample", 7, X4, {}, {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}),
    ("Upsample", 7, X4, {}, {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}),
    ("Upsample", 9, X4, scales(1, 1, 2, 2), {"mode": "nearest"}),
    ("Upsample", 9, X4, scales(1, 1, 1.5, 2), {"mode": "linear"}),
    ("Resize", 10, X4, scales(1, 1, 2, 2), {"mode": "nearest"}),
    ("Resize", 10, X4, scales(1, 1, 0.6, 0.5), {"mode": "nearest"}),
    ("Resize", 10, X4, scales(1, 1, 1.7, 2), {"mode": "linear"}),
    ("Cast", 9, X3, {}, {"to": 6, "outputs": ("int32",)}),
    ("Cast", 9, X3, {}, {"to": 11, "outputs": ("float64",)}),
    ("Flatten", 9, X4, {}, {"axis": 2}),
    ("Flatten", 11, X4, {}, {"axis": -1}),
    ("Concat", 4, X3, {"other": X3[:, :2]}, {"axis": 1}),
    ("Gather", 1, X3, {"indices": np.array([2, 0])}, {"axis": 1}),
    ("Gather", 11, X3, {"indices": np.array(-1)}, {"axis": 1}),
    ("Gemm", 7, X3[0], {"w": X3[1].T.copy(), "c": X3[0, :1, :3]}, {"alpha": 0.5, "beta": 2.0}),
    ("Pow", 7, POSITIVE, {"exponent": np.float32(2.5).reshape(1)}, {}),
    ("PRelu", 7, X4, {"slope": CHANNELS["scale"].reshape(4, 1, 1)}, {}),
    ("TopK", 10, X3, {"k": np.array([2])}, {"axis": 2, "outputs": ("float32", "int64")}),
    ("MaxPool", 8, X4, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("AveragePool", 7, X4, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("Sum", 8, X3, {"other": X3[:1]}, {}),
    ("Max", 8, X3, {"other": X3[:1]}, {}),
    ("Mean", 8, X3, {"other": X3[:1], "third": X3[:, :1]}, {}),
    ("InstanceNormalization", 6, X4, {k: CHANNELS[k] for k in ("scale", "b")}, {}),
]


IDS = [f"{op}-{opset}-{attributes}" for op, opset, _, _, attributes in CASES]


@pytest.mark.parametrize(("op", "opset", "x", "constants", "attributes"), CASES, ids=IDS)
def test_an_old_version_computes_what_onnx_runtime_does(
    op: str, opset: int, x: np.ndarray, constants: dict[str, Any], attributes: dict[str, Any]
) -> None:
    feeds = {"x": x}
    model = node_model(op, feeds, opset=max(opset, 7), constants=constants, **attributes)
    assert_agrees(model, feeds)


@pytest.mark.parametrize("opset", [7, 12])
@pytest.mark.parametrize("sizes", [[1, 3], [2, 2]])
def test_split_by_attribute(opset: int, sizes: list[int]) -> None:
    feeds = {"x": X3}
    model = node_model(
        "Split", feeds, opset=opset, outputs=("float32", "float32"), axis=2, split=sizes
    )
    assert_agrees(model, feeds)


def oldest_first(op: str) -> Iterator[int]:
    """Opsets from 7 on of which each means another registered version of an operator."""
    for version in listed_versions(op):
        opset = max(version, 7)
        if since_version(op, domain="", opset=opset) == version:
            yield opset


def cases_of_op() -> dict[str, list[str]]:
    """The names of ONNX's cases of one node, by operator, where it has several versions."""
    found: dict[str, list[str]] = defaultdict(list)
    unlike = ("training", "bernoulli", "seq", "opt")
    for case in node_cases():
        node = case.model.graph.node[-1]
        if len(case.model.graph.node) == 1 and not any(part in case.name for part in unlike):
            found[node.op_type].append(case.name)
    return {op: names for op, names in found.items() if len(listed_versions(op)) > 1}


COMPARED = cases_of_op()
OF_RUNTIME_ALONE = ("FLOAT8", "float8", "with_output_shape", "past_and_present_qk_matmul_bias")
"""Types that ONNX Runtime gives out as other ones, and values that are disputed."""


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto | None:
    """A case's model at another opset; None where it is no valid one there."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = 10 if opset >= 21 else 8
    for entry in copy.opset_import:
        entry.version = opset if entry.domain == "" else entry.version
    try:
        onnx.checker.check_model(copy)
    except onnx.checker.ValidationError:
        return None
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("op", sorted(COMPARED))
def test_every_version_computes_onnxs_cases_as_onnx_runtime_does(op: str) -> None:
    cases = cases_of_nodes()
    for name in COMPARED[op]:
        if any(part in name for part in OF_RUNTIME_ALONE):
            continue
        source, ((inputs, _), *_) = cases[name].load()
        feeds = dict(zip([formal.name for formal in source.graph.input], inputs, strict=False))
        for opset in oldest_first(op):
            model = at_opset(source, opset)
            wanted = None if model is None else runtime_or_none(model, feeds)
            if wanted is not None:
                result = to_torch(model)(*map(as_torch, inputs))
                outputs = result if isinstance(result, tuple) else (result,)
                for got, want in zip(outputs, wanted, strict=True):
                    compare(got, want, f"{name} at opset {opset}")


def runtime_or_none(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any] | None:
    try:
        return runtime(model, feeds)
    except Exception:  # noqa: BLE001 - its refusals have no type of their own
        return None


def compare(got: Any, want: Any, what: str) -> None:
    array = as_numpy(got, want)
    assert (array.dtype, array.shape) == (want.dtype, want.shape), what
    if array.dtype == object:
        assert (array == want).all(), what
    elif want.size:
        got, want = array.astype(np.float64), want.astype(np.float64)
        finite = np.abs(want[np.isfinite(want)])
        limit = 1e-5 * finite.max(initial=1.0)
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=limit, err_msg=what)


CONSTANTS: dict[str, tuple[dict[str, Any], Any]] = {
    "float": ({"value_float": 0.5}, 0.5),
    "floats": ({"value_floats": [0.5, 2.0]}, [0.5, 2.0]),
    "int": ({"value_int": 3}, 3),
    "ints": ({"value_ints": [3, 4]}, [3, 4]),
    "string": ({"value_string": "a"}, "a"),
    "strings": ({"value_strings": ["a", "b"]}, ["a", "b"]),
    "sparse": (
        {
            "sparse_value": onnx.helper.make_sparse_tensor(
                onnx.helper.make_tensor("v", 1, [2], [3.0, 4.0]),
                onnx.helper.make_tensor("i", 7, [2], [1, 5]),
                [2, 3],
            )
        },
        [[0, 3, 0], [0, 0, 4]],
    ),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_of_any_kind_has_its_value(name: str) -> None:
    attributes, wanted = CONSTANTS[name]
    kind = 8 if "string" in name else 7 if name.startswith("int") else 1
    node = onnx.helper.make_node("Constant", [], ["y"], **attributes)
    output = onnx.helper.make_tensor_value_info("y", kind, np.shape(wanted))
    graph = onnx.helper.make_graph([node], "constant", [], [output])
    opsets = [onnx.helper.make_opsetid("", 17)]
    y = to_torch(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8))()
    assert y.tolist() == wanted
