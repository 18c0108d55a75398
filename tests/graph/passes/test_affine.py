"""BatchNormalization and constant biases go into the layer before, where nothing else sees it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxqat.graph import Change, Graph, as_graph, prepare
from tests.support.onnx_text import model_of
from tests.support.runtime import largest_error, run

RNG = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def statistics(channels: int) -> dict[str, NDArray[np.float32]]:
    """BatchNormalization's scale, bias, mean and variance; one channel is nearly dead."""
    variance = np.abs(normal(channels)) + np.float32(0.1)
    variance[0] = 1e-8
    return {"s": normal(channels), "b": normal(channels), "m": normal(channels), "v": variance}


NORM = "y = BatchNormalization <epsilon = 0.001> (a, s, b, m, v)"


def layer(call: str, channels: int, shape: str = "2, 4, 5, 5", **weights: Any) -> onnx.ModelProto:
    text = f"g (float[{shape}] x) => (float[n, c, h, w] y) {{ a = {call}  {NORM} }}"
    return model_of(text, **weights, **statistics(channels))


FOLDED = {
    "conv": layer("Conv (x, w)", 6, w=normal(6, 4, 3, 3)),
    "conv with bias": layer("Conv (x, w, c)", 6, w=normal(6, 4, 3, 3), c=normal(6)),
    "grouped conv": layer("Conv <group = 2> (x, w, c)", 6, w=normal(6, 2, 3, 3), c=normal(6)),
    "depthwise conv": layer("Conv <group = 4> (x, w)", 4, w=normal(4, 1, 3, 3)),
    "transposed conv": layer("ConvTranspose (x, w)", 6, w=normal(4, 6, 2, 2)),
    "grouped transposed conv": layer(
        "ConvTranspose <group = 2> (x, w, c)", 6, w=normal(4, 3, 2, 2), c=normal(6)
    ),
}


def gemm(attributes: str, weight: tuple[int, int], bias: NDArray[np.float32] | None) -> Any:
    inputs = "x, w" if bias is None else "x, w, c"
    text = f"g (float[2, 4] x) => (float[2, 6] y) {{ a = Gemm {attributes} ({inputs})  {NORM} }}"
    given = {} if bias is None else {"c": bias}
    return model_of(text, w=normal(*weight), **given, **statistics(6))


FOLDED |= {
    "gemm": gemm("", (4, 6), None),
    "gemm transposed": gemm("<transB = 1>", (6, 4), normal(6)),
    "gemm with factors": gemm("<transB = 1, alpha = 0.5, beta = 2.5>", (6, 4), normal(6)),
    "gemm with one bias": gemm("<beta = 2.5>", (4, 6), normal(1)),
    "gemm with a bias a row": gemm("<beta = 2.5>", (4, 6), normal(2, 1)),
    "gemm with a full bias": gemm("<beta = 2.5>", (4, 6), normal(2, 6)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_normalization_behind_a_layer_goes_into_its_weights(name: str) -> None:
    model = FOLDED[name]
    graph = prepare(as_graph(model))

    (node,) = graph.nodes
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = {"x": normal(*shape)}
    assert largest_error(run(model, x), run(graph, x)) < 1e-6
    assert node.outputs[0].name == "y"
    assert [tensor.name for tensor in node.inputs][:2] == ["x", "w"]


def test_the_fold_is_told_with_both_nodes() -> None:
    changes: list[Change] = []

    prepare(as_graph(FOLDED["conv"]), on_change=changes.append)

    assert [(change.kind, change.node) for change in changes[:1]] == [
        ("fold batch normalization", "BatchNormalization_y")
    ]
    assert "'Conv_a'" in changes[0].detail


def test_the_algebra_is_done_in_double_precision() -> None:
    """A weight that float32 arithmetic would round twice comes out as the nearest float32."""
    model = FOLDED["conv"]
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    double = {name: array.astype(np.float64) for name, array in values.items()}
    epsilon = float(np.float32(0.001))
    expected = double["w"] * (double["s"] / np.sqrt(double["v"] + epsilon)).reshape(-1, 1, 1, 1)

    (node,) = prepare(as_graph(model)).nodes

    np.testing.assert_array_equal(node.inputs[1].values, expected.astype(np.float32))


ADDED = {
    "a channel": ((1, 6, 1, 1), True),
    "a channel, without batch": ((6, 1, 1), True),
    "one value": ((1,), True),
    "a scalar": ((), True),
    "a column": ((3,), False),
    "a position": ((1, 1, 3, 3), False),
    "a sample": ((2, 1, 1, 1), False),
    "more axes": ((1, 1, 6, 1, 1), False),
}


@pytest.mark.parametrize("name", ADDED)
def test_a_constant_added_a_channel_becomes_the_bias(name: str) -> None:
    shape, folds = ADDED[name]
    text = "g (float[2, 4, 5, 5] x) => (float[...] y) { a = Conv (x, w)  y = Add (c, a) }"
    model = model_of(text.replace("[...]", ""), w=normal(6, 4, 3, 3), c=normal(*shape))

    graph = prepare(as_graph(model))

    x = {"x": normal(2, 4, 5, 5)}
    assert largest_error(run(model, x), run(graph, x)) < 1e-6
    assert (len(graph.nodes) == 1) == folds


def test_a_bias_behind_a_matmul_stays() -> None:
    text = "g (float[2, 4] x) => (float[2, 6] y) { a = MatMul (x, w)  y = Add (a, c) }"

    graph = prepare(as_graph(model_of(text, w=normal(4, 6), c=normal(6))))

    assert [node.op for node in graph.nodes] == ["MatMul", "Add"]


def test_a_chain_behind_a_layer_folds_to_its_end() -> None:
    text = f"""g (float[2, 4, 5, 5] x) => (float[2, 6, 3, 3] z) {{
        a = Conv (x, w)  {NORM}  z = Add (y, c) }}"""
    model = model_of(text, w=normal(6, 4, 3, 3), c=normal(6, 1, 1), **statistics(6))

    graph = prepare(as_graph(model))

    x = {"x": normal(2, 4, 5, 5)}
    assert [node.op for node in graph.nodes] == ["Conv"]
    assert largest_error(run(model, x), run(graph, x)) < 1e-6


KEPT = {
    "pre-activation": "a = Relu (x)  y = BatchNormalization (a, s, b, m, v)",
    "another reader": f"a = Conv (x, w)  {NORM}  z = Relu (a)",
    "training mode": """a = Conv (x, w)
        y, mm, vv = BatchNormalization <training_mode = 1> (a, s, b, m, v)""",
    "computed weights": f"k = Abs (p)  a = Conv (x, k)  {NORM}",
    "computed statistics": "a = Conv (x, w)  k = Abs (q)  y = BatchNormalization (a, s, b, m, k)",
}


@pytest.mark.parametrize("name", KEPT)
def test_normalization_that_cannot_be_folded_stays(name: str) -> None:
    outputs = "float y, float z" if name == "another reader" else "float y"
    inputs = "float[2, 4, 5, 5] x"
    inputs += ", float[4, 4, 3, 3] p" if "weights" in name else ""
    inputs += ", float[4] q" if "statistics" in name else ""
    model = model_of(
        f"g ({inputs}) => ({outputs}) {{ {KEPT[name]} }}", w=normal(4, 4, 3, 3), **statistics(4)
    )

    graph = prepare(as_graph(model))

    assert Counter(node.op for node in graph.nodes)["BatchNormalization"] == 1


def test_statistics_of_the_batch_which_old_opsets_tell_by_further_outputs_are_not_folded() -> None:
    text = """g (float[2, 4, 5, 5] x) => (float[2, 6, 3, 3] y) {
        a = Conv (x, w)  y, m2, v2, m3, v3 = BatchNormalization (a, s, b, m, v) }"""
    model = model_of(text, opset=13, w=normal(6, 4, 3, 3), **statistics(6))

    graph = prepare(as_graph(model))

    x = {"x": normal(2, 4, 5, 5)}
    assert [node.op for node in graph.nodes] == ["Conv", "BatchNormalization"]
    assert largest_error(run(model, x), run(graph, x)) < 1e-6


def test_a_layer_whose_output_is_a_graph_output_is_not_changed() -> None:
    text = f"g (float[2, 4, 5, 5] x) => (float a, float y) {{ a = Conv (x, w)  {NORM} }}"
    model = model_of(text, w=normal(6, 4, 3, 3), **statistics(6))

    graph = prepare(as_graph(model))

    assert [node.op for node in graph.nodes] == ["Conv", "BatchNormalization"]


def _shared() -> onnx.ModelProto:
    text = f"""g (float[2, 4, 5, 5] x) => (float y, float z) {{
        a = Conv (x, w, c)  {NORM}  z = Conv (x, w, c) }}"""
    return model_of(text, w=normal(6, 4, 3, 3), c=normal(6), **statistics(6))


def test_weights_that_another_layer_shares_are_not_changed_for_it() -> None:
    model = _shared()

    graph = prepare(as_graph(model))

    x = {"x": normal(2, 4, 5, 5)}
    assert largest_error(run(model, x), run(graph, x)) < 1e-6
    assert [[t.name for t in node.inputs] for node in graph.nodes] == [
        ["x", "w_folded", "c_folded"], ["x", "w", "c"],
    ]  # fmt: skip


def test_the_arrays_of_the_given_graph_are_not_written_to() -> None:
    graph: Graph = as_graph(_shared())
    before = {t.name: t.values.copy() for node in graph.nodes for t in node.inputs[1:]}

    prepare(graph)

    for node in graph.nodes:
        for tensor in node.inputs[1:]:
            np.testing.assert_array_equal(tensor.values, before[tensor.name])


@pytest.mark.parametrize(
    ("weight", "bias"), [("conv.weight", "conv.bias"), ("onnx::Conv_7", "onnx::Conv_7_bias")]
)
def test_a_new_bias_is_named_after_the_weight(weight: str, bias: str) -> None:
    model = FOLDED["conv"]
    graph = as_graph(model)
    graph.nodes[0].inputs[1].name = weight

    (node,) = prepare(graph).nodes

    assert node.inputs[2].name == bias
