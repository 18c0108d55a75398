"""The parts that a network is rebuilt in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from onnxqat.graph import Graph, as_graph, prepare
from onnxqat.graph.cuts import section
from onnxqat.initialization.blocks import blocks, layers
from onnxqat.initialization.reconstruct import tensor_names
from onnxqat.training.roles import weights_of
from tests.support.networks import convolutional, transformers
from tests.support.onnx_text import model_of
from tests.support.runtime import run

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet18": lambda: convolutional.resnet18(32),
    "resnet_v2": convolutional.resnet_v2,
    "mobilenet_v1": convolutional.mobilenet_v1,
    "mobilenet_v3": convolutional.mobilenet_v3,
    "unet": convolutional.unet,
    "yolo": convolutional.yolo,
    "bert": lambda: transformers.bert(tokens=8, heads=1),
    "swin": transformers.swin,
}
MATRIX = np.eye(4, dtype=np.float32)


@pytest.fixture(params=NETWORKS, scope="module")
def graph(request: pytest.FixtureRequest) -> Graph:
    return prepare(as_graph(NETWORKS[request.param]()))


def some_feeds(graph: Graph) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    feeds = {}
    for tensor in graph.inputs:
        shape = [size if isinstance(size, int) else 2 for size in tensor.shape]
        values = generator.standard_normal(shape)
        feeds[tensor.name] = (np.abs(values) if tensor.dtype != np.float32 else values).astype(
            tensor.dtype
        )
    return feeds


def run_by_name(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip([tensor.name for tensor in graph.outputs], run(graph, feeds), strict=True))


def known(graph: Graph) -> frozenset[str]:
    return tensor_names(graph)


def test_blocks_one_after_the_other_compute_what_the_whole_does(graph: Graph) -> None:
    feeds = some_feeds(graph)
    expected = run_by_name(graph, feeds)
    values = dict(feeds)
    for block in blocks(graph, known(graph)):
        part = section(graph, block.start, block.ends)
        given = {tensor.name: values[tensor.name] for tensor in part.inputs}
        values |= run_by_name(part, given)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-4, atol=1e-5)


def test_every_weight_lies_in_one_block(graph: Graph) -> None:
    weights = [name for block in blocks(graph, known(graph)) for name in block.weights]
    expected = {name for node in graph.nodes for name in weights_of(node)}
    assert sorted(weights) == sorted(expected)


def test_the_layers_of_all_blocks_hold_every_weight_once(graph: Graph) -> None:
    tensors = known(graph)
    found = [
        name
        for block in blocks(graph, tensors)
        for layer in layers(graph, block, tensors)
        for name in layer.weights
    ]
    assert sorted(found) == sorted({name for node in graph.nodes for name in weights_of(node)})


def test_a_layer_computes_nothing_of_another(graph: Graph) -> None:
    tensors = known(graph)
    for block in blocks(graph, tensors):
        for layer in layers(graph, block, tensors):
            inside = section(graph, layer.start, layer.ends)
            assert [w for node in inside.nodes for w in weights_of(node)] == list(layer.weights)


def test_the_blocks_of_a_resnet_are_its_residual_blocks() -> None:
    graph = prepare(as_graph(convolutional.resnet18(32)))
    found = [len(block.weights) for block in blocks(graph, known(graph))]
    assert found == [1, 2, 2, 3, 2, 3, 2, 3, 2, 1], "3: with a projection"


def test_a_block_ends_with_its_activation() -> None:
    text = """g (float[1,4] x) => (float[1,4] y)
    {p = MatMul(x, a) q = Relu(p) r = MatMul(q, b) s = Relu(r) y = MatMul(s, c)}"""
    graph = as_graph(model_of(text, a=MATRIX, b=MATRIX, c=MATRIX))
    found = blocks(graph, known(graph))
    assert [(block.start, block.ends) for block in found] == [
        (None, ("q",)),
        ("q", ("s",)),
        ("s", ("y",)),
    ]


def test_blocks_end_where_both_networks_have_the_tensor() -> None:
    text = """g (float[1,4] x) => (float[1,4] y)
    {p = MatMul(x, a) q = Relu(p) r = MatMul(q, b) s = Relu(r) y = MatMul(s, c)}"""
    graph = as_graph(model_of(text, a=MATRIX, b=MATRIX, c=MATRIX))
    found = blocks(graph, {"p", "s", "y"})
    assert [(block.start, block.ends) for block in found] == [
        (None, ("p",)),
        ("p", ("s",)),
        ("s", ("y",)),
    ]


def test_where_a_later_part_asks_for_the_shape_of_an_earlier_tensor_there_is_no_cut() -> None:
    text = """g (float[1,4] x) => (float[1,4] y)
    {p = MatMul(x, a) q = Relu(p) z = Shape(p) r = MatMul(q, b) s = Relu(r)
     t = Reshape(s, z) y = MatMul(t, c)}"""
    graph = as_graph(model_of(text, a=MATRIX, b=MATRIX, c=MATRIX))
    found = blocks(graph, known(graph))
    assert [(block.start, block.ends) for block in found] == [(None, ("t",)), ("t", ("y",))]
