"""A prepared graph computes what the file computes, and every change is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxqat.graph import (
    Change,
    Graph,
    as_graph,
    extract,
    input_specs,
    insert,
    load,
    prepare,
    qdq_pairs,
    save,
    structural_diff,
)
from onnxqat.graph.graph import all_nodes
from tests.support.assets import MODELS, WILD, needs_assets
from tests.support.onnx_text import model_of
from tests.support.runtime import largest_error, run, session

FILES = sorted([*MODELS.glob("*.onnx"), *WILD.glob("*.onnx")])
files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def feeds(path: Path, graph: Graph, batch: int = 2) -> dict[str, NDArray[Any]]:
    """Standard normal inputs; Silero's are 576 samples at 16 kHz, Basic Pitch's batch is 1."""
    batch = 1 if "basic_pitch" in path.stem else batch
    rng = np.random.default_rng(0)
    values: dict[str, NDArray[Any]] = {}
    for spec in input_specs(graph):
        free = iter([batch, 576])
        shape = [dim if isinstance(dim, int) else next(free) for dim in spec.shape]
        if spec.name == "state":  # Silero's [2, batch, 128]
            shape = [2, batch, 128]
        values[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    if "sr" in values:
        values["sr"] = np.array(16000, np.int64)
    return values


@needs_assets
@files
def test_a_real_model_computes_the_same_after_preparation(path: Path) -> None:
    """To 1e-5 of each output's range: folding rounds weights once more to float32."""
    graph = load(path)
    prepared = prepare(graph)

    inputs = feeds(path, graph)

    assert largest_error(run(path, inputs), run(prepared, inputs)) < 1e-5


@needs_assets
@files
def test_inputs_and_outputs_stay_as_the_file_has_them(path: Path) -> None:
    before, after = session(path), session(prepare(load(path)))

    for get in ("get_inputs", "get_outputs"):
        old, new = getattr(before, get)(), getattr(after, get)()
        assert [(t.name, t.type, t.shape) for t in new] == [(t.name, t.type, t.shape) for t in old]


@needs_assets
@files
def test_a_prepared_graph_is_in_the_promised_form(tmp_path: Path, path: Path) -> None:
    prepared = prepare(load(path))

    save(prepared, tmp_path / "prepared.onnx")

    onnx.checker.check_model(tmp_path / "prepared.onnx", full_check=True)
    names = Counter(node.name for node in all_nodes(prepared))
    assert "" not in names
    assert max(names.values()) == 1
    ops = {node.op for node in all_nodes(prepared)}
    assert not ops & {"Constant", "Dropout", "BatchNormalization"}
    assert prepared.opset >= 13
    assert prepared.initializer_inputs == ()


@needs_assets
@files
def test_preparing_twice_changes_nothing_more(path: Path) -> None:
    once = prepare(load(path))
    changes: list[Change] = []

    twice = prepare(once, on_change=changes.append)

    assert changes == []
    assert structural_diff(once, twice) == ()


@needs_assets
@files
def test_every_node_that_goes_or_comes_is_reported(path: Path) -> None:
    graph = load(path)
    changes: list[Change] = []

    prepared = prepare(graph, on_change=changes.append)

    told = {change.node for change in changes}
    after = {node.name for node in all_nodes(prepared)}
    gone = [n for n in all_nodes(graph) if n.name and n.name not in after | told]
    assert [node.name for node in gone if not _in_dropped_branch(graph, node.name, told)] == []
    assert all(change.kind and change.detail for change in changes)


def _in_dropped_branch(graph: Graph, name: str, told: set[str]) -> bool:
    """An If that is told to take one branch loses the nodes of the other."""
    return any(
        node.op == "If" and node.name in told and name in {n.name for n in _nested(node)}
        for node in all_nodes(graph)
    )


def _nested(node: Any) -> list[Any]:
    return [
        n for value in node.attrs.values() if isinstance(value, Graph) for n in all_nodes(value)
    ]


@needs_assets
@files
def test_the_graph_that_was_given_is_not_changed(path: Path) -> None:
    graph = load(path)

    prepare(graph)

    assert structural_diff(load(path), graph) == ()


EXPECTED = {
    "cifar10_resnet20": {"Conv": 19, "Relu": 19, "Add": 9, "Gemm": 1, "Pad": 2, "Shape": 1},
    "cifar10_resnet20_bn": {"Conv": 19, "Relu": 19, "Add": 9, "Gemm": 1, "Pad": 2, "Shape": 1},
    "mobilenet_v1_0.75_224_bn": {"Conv": 28, "Clip": 27, "GlobalAveragePool": 1, "Flatten": 1},
    "kwt1_speech_commands": {"MatMul": 97, "Gemm": 1, "Softmax": 12, "LayerNormalization": 24},
    "mnist_cntk_opset7": {"Conv": 2, "Relu": 2, "MaxPool": 2, "MatMul": 1, "Add": 1, "Reshape": 1},
    "squeezenet11_caffe2_opset7_fp32cast": {"Conv": 26, "Softmax": 1},
    "ultraface_rfb320_pytorch12_opset9": {"Conv": 52, "Softmax": 1, "Reshape": 8},
}


@needs_assets
@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_left_of_a_real_model_is_its_layers(name: str) -> None:
    (path,) = [path for path in FILES if path.stem == name]

    ops = Counter(node.op for node in prepare(load(path)).nodes)

    assert {op: ops[op] for op in EXPECTED[name]} == EXPECTED[name]


def test_shapes_of_dynamic_inputs_stay_dynamic() -> None:
    text = """g (float[n, 2, 3] x) => (float[n, 6] y) <int64[1] rest = {6}, int64[1] zero = {0}> {
        s = Shape (x)  n = Gather (s, zero)  shape = Concat <axis = 0> (n, rest)
        y = Reshape (x, shape) }"""
    graph = prepare(as_graph(model_of(text)))

    for batch in (1, 5):
        (y,) = run(graph, {"x": np.zeros((batch, 2, 3), np.float32)})
        assert y.shape == (batch, 6)


def test_pairs_are_never_folded() -> None:
    """Not the weight's own pair, and not what is computed from it."""
    text = """g (float[n, 4] x) => (float[n, 4] y) {
        q = QuantizeLinear (w, s, z)  d = DequantizeLinear (q, s, z)
        t = Transpose <perm = [1, 0]> (d)  y = MatMul (x, t) }"""
    model = model_of(text, w=np.eye(4, dtype=np.float32), s=np.float32(0.1), z=np.int8(0))

    prepared = prepare(as_graph(model))

    assert [node.op for node in prepared.nodes] == [
        "QuantizeLinear", "DequantizeLinear", "Transpose", "MatMul",
    ]  # fmt: skip


def test_preparing_an_inserted_graph_keeps_its_plan() -> None:
    from tests.graph.test_insert import AMAX, DATA, INT8, WEIGHT, channels, matmul, plan_of, ranges

    plan, calibration = plan_of((DATA, INT8), (WEIGHT, channels())), ranges(x=2.0, w=AMAX)
    graph = insert(prepare(matmul()), plan, calibration)

    prepared = prepare(graph)

    assert extract(prepared) == (plan, calibration)
    assert len(qdq_pairs(prepared)) == 2
    assert structural_diff(graph, prepared) == ()


def test_types_and_shapes_are_known_afterwards() -> None:
    text = "g (float[n, 4] x) => (float[n, 2] y) { a = MatMul (x, w)  y = Relu (a) }"

    graph = prepare(as_graph(model_of(text, w=np.ones((4, 2), np.float32))))

    inner = graph.nodes[0].outputs[0]
    assert (inner.dtype, inner.shape) == (np.float32, ["n", 2])


def test_a_contradiction_in_the_shapes_is_left_to_the_runtime() -> None:
    """ONNX's own inference sees contradictions in models that run, so it is no judge."""
    text = "g (float[2, 4] x, float[3, 2] w) => (float[2, 2] y) { a = Abs (x)  y = MatMul (a, w) }"

    prepared = prepare(as_graph(model_of(text)))

    assert prepared.nodes[0].outputs[0].shape == [2, 4]


def test_a_shape_that_the_file_declares_wrongly_is_corrected_and_told() -> None:
    model = model_of("g (float[n, 4] x) => (float[n, 2] y) { a = Relu (x)  y = MatMul (a, w) }",
                     w=np.ones((4, 2), np.float32))  # fmt: skip
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, ["n", 7]))
    changes: list[Change] = []

    prepared = prepare(as_graph(model), on_change=changes.append)

    assert prepared.nodes[0].outputs[0].shape == ["n", 4]
    assert [(change.kind, change.node) for change in changes] == [("correct shape", "a")]


def test_what_the_file_leaves_open_about_its_outputs_stays_open() -> None:
    model = model_of("g (float[n, 4] x) => (float[a, b] y) { y = Relu (x) }")
    model.graph.output[0].type.tensor_type.shape.dim[1].Clear()

    assert prepare(as_graph(model)).outputs[0].shape == ["a", None]


def test_training_information_is_dropped_and_told() -> None:
    model = model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.training_info.add().algorithm.name = "sgd"
    changes: list[Change] = []

    prepared = prepare(as_graph(model), on_change=changes.append)

    assert len(prepared.shell.training_info) == 0
    assert [change.kind for change in changes] == ["drop training"]
