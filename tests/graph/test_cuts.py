"""Where graphs are cut in two at one tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxqat.graph import as_graph, prepare, to_model
from onnxqat.graph.cuts import cuts, section
from tests.support.assets import MODELS, needs_assets
from tests.support.networks import convolutional, transformers
from tests.support.onnx_text import model_of
from tests.support.runtime import run

MATRIX = np.eye(4, dtype=np.float32)
NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet18": lambda: convolutional.resnet18(32),
    "resnet_padded": convolutional.resnet_padded,
    "resnet_v2": convolutional.resnet_v2,
    "mobilenet_v1": convolutional.mobilenet_v1,
    "mobilenet_v3": convolutional.mobilenet_v3,
    "efficientnet": convolutional.efficientnet,
    "unet": convolutional.unet,
    "fpn": convolutional.fpn,
    "inception": convolutional.inception,
    "yolo": convolutional.yolo,
    "vit": lambda: transformers.vit_classifier(image=16, heads=1),
    "bert": lambda: transformers.bert(tokens=8, heads=1),
    "swin": transformers.swin,
}

WEIGHTED = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
EMBEDDINGS = {"Gather_0"}
"""The first node of `bert`."""


def cuts_of(text: str) -> tuple[str, ...]:
    return cuts(as_graph(model_of(text, a=MATRIX, b=MATRIX, c=MATRIX)))


def residual_sums(graph: gs.Graph) -> set[str]:
    """The sums of a block's result and of what the block reads or its projection."""
    ends = {"Add", "Concat", "Conv", "LayerNormalization", "MaxPool", "Relu"}
    return {
        node.outputs[0].name
        for node in graph.nodes
        if node.op == "Add" and all(t.inputs and t.inputs[0].op in ends for t in node.inputs)
    }


def is_passed(graph: gs.Graph, tensor: gs.Tensor, starts: list[gs.Node]) -> bool:
    """Whether no output is reached from any start when this tensor is taken out."""
    todo, seen = list(starts), {id(tensor)}
    while todo:
        for output in todo.pop().outputs:
            if any(output is end and end is not tensor for end in graph.outputs):
                return False
            if id(output) not in seen:
                seen.add(id(output))
                todo.extend(output.outputs)
    return True


def first_weighted(graph: gs.Graph) -> list[gs.Node]:
    """The nodes with weights before which there is none."""
    behind: set[int] = set()
    first = []
    for node in graph.nodes:
        if any(id(tensor) in behind for tensor in node.inputs):
            behind.update(map(id, node.outputs))
        elif node.op in WEIGHTED or node.name in EMBEDDINGS:
            behind.update(map(id, node.outputs))
            first.append(node)
    return first


@pytest.mark.parametrize("name", NETWORKS)
def test_cuts_are_the_tensors_without_which_no_weight_reaches_an_output(name: str) -> None:
    graph = prepare(as_graph(NETWORKS[name]()))
    first = first_weighted(graph)
    behind = {id(node) for node in first}
    expected = []
    for node in graph.nodes:
        if id(node) in behind:
            readers = [reader for tensor in node.outputs for reader in tensor.outputs]
            behind.update(map(id, readers))
            expected += [t.name for t in node.outputs if t.outputs and is_passed(graph, t, first)]
    assert list(cuts(graph)) == expected
    assert expected


def test_a_resnet_is_cut_at_each_residual_sum() -> None:
    graph = as_graph(convolutional.resnet18(32))
    assert len(residual_sums(graph)) == 8
    assert residual_sums(graph) <= set(cuts(graph))


def test_a_transformer_with_a_mask_is_cut_at_each_residual_sum() -> None:
    graph = as_graph(transformers.bert(blocks=2, tokens=8, heads=1))
    assert {"ids", "mask"} == {tensor.name for tensor in graph.inputs}
    assert len(residual_sums(graph)) == 4
    assert residual_sums(graph) <= set(cuts(graph))


def test_a_u_net_is_cut_before_its_skips_part_and_after_they_have_joined() -> None:
    graph = as_graph(convolutional.unet())
    ops = [tensor.inputs[0].op for tensor in map(graph.tensors().get, cuts(graph)) if tensor]
    assert ops == ["Conv", "Relu", "Concat", "Conv", "Relu", "Conv"]


def test_a_chain_is_cut_at_each_inner_tensor() -> None:
    assert cuts_of(
        "g (float[1,4] x) => (float[1,4] y) {p = MatMul(x, a) q = Relu(p) y = Neg(q)}"
    ) == (
        "p",
        "q",
    )


def test_what_is_added_from_the_input_itself_is_no_activation() -> None:
    text = "g (float[1,4] x) => (float[1,4] y) {p = MatMul(x, a) q = MatMul(p, b) y = Add(q, x)}"
    assert cuts_of(text) == ("p", "q")


def test_where_two_activations_are_alive_there_is_no_cut() -> None:
    text = """g (float[1,4] x) => (float[1,4] y)
    {p = MatMul(x, a) q = MatMul(p, b) r = MatMul(q, c) s = Add(p, r) y = Relu(s)}"""
    assert cuts_of(text) == ("p", "s")


def test_behind_an_output_that_is_not_the_last_there_is_no_cut() -> None:
    text = """g (float[1,4] x) => (float[1,4] y, float[1,4] p)
    {o = MatMul(x, a) p = Relu(o) q = MatMul(p, b) y = Relu(q)}"""
    assert cuts_of(text) == ("o",)


def test_the_shape_of_an_activation_is_none() -> None:
    text = """g (float[1,4] x) => (float[1,4] y)
    {p = MatMul(x, a) s = Shape(p) q = MatMul(p, b) r = Relu(q) y = Reshape(r, s)}"""
    assert cuts_of(text) == ("p", "q", "r")


def test_what_leads_to_no_output_keeps_nothing_alive() -> None:
    text = """g (float[1,4] x) => (float[1,4] y)
    {p = MatMul(x, a) q = MatMul(p, b) dead = Add(p, q) y = Relu(q)}"""
    assert cuts_of(text) == ("p", "q")


def test_what_a_branch_of_if_reads_stays_alive_until_then() -> None:
    text = """g (float[1,4] x, bool k) => (float[1,4] y)
    {p = MatMul(x, a) q = MatMul(p, b) r = If(k) <
      then_branch = t () => (float[1,4] u) {u = Neg(p)},
      else_branch = e () => (float[1,4] v) {v = Add(p, q)}> y = Relu(r)}"""
    assert cuts_of(text) == ("p", "r")


def test_codes_are_no_cut_but_the_tensors_around_them_are() -> None:
    text = """g (float[1,4] x) => (float[1,4] y) <float s = {0.1}>
    {p = MatMul(x, a) q = QuantizeLinear(p, s) d = DequantizeLinear(q, s) y = MatMul(d, b)}"""
    assert cuts_of(text) == ("p", "d")


def test_a_graph_without_weights_has_none() -> None:
    assert cuts_of("g (float[1,4] x) => (float[1,4] y) {p = Relu(x) y = Neg(p)}") == ()


@needs_assets
def test_a_real_transformer_of_twelve_blocks_is_cut_at_each_residual_sum() -> None:
    graph = prepare(as_graph(MODELS / "kwt1_speech_commands.onnx"))
    assert len(residual_sums(graph)) == 24
    assert residual_sums(graph) <= set(cuts(graph))


def typed(model: onnx.ModelProto) -> gs.Graph:
    return as_graph(onnx.shape_inference.infer_shapes(model))


def test_a_section_computes_what_the_whole_does_between_its_ends() -> None:
    text = """g (float[1,4] x) => (float[1,4] y)
    {p = MatMul(x, a) q = Relu(p) r = MatMul(q, b) y = Add(r, x)}"""
    matrix = np.arange(16, dtype=np.float32).reshape(4, 4) - 8
    graph = typed(model_of(text, a=matrix, b=MATRIX + 1))
    whole, x = section(graph, None, ["y", "q"]), np.ones((1, 4), np.float32)
    y, q = run(whole, {"x": x})
    part = section(graph, "q", ["y"])
    assert [tensor.name for tensor in part.inputs] == ["q", "x"]
    assert [node.op for node in part.nodes] == ["MatMul", "Add"]
    np.testing.assert_array_equal(run(part, {"q": q, "x": x})[0], y)


def test_a_section_leaves_the_graph_as_it_is() -> None:
    graph = prepare(as_graph(convolutional.resnet18(32)))
    before = to_model(graph).SerializeToString()
    section(graph, cuts(graph)[3], [cuts(graph)[9]])
    assert to_model(graph).SerializeToString() == before


def test_a_section_takes_what_a_subgraph_reads_along() -> None:
    text = """g (float[1,4] x, bool c) => (float[1,4] y)
    {p = MatMul(x, a) q = Relu(p) m = Neg(q)
     y = If (c) <then_branch = t () => (float[1,4] u) {u = Add(m, q)},
                else_branch = e () => (float[1,4] v) {v = Identity(m)}>}"""
    graph = typed(model_of(text, a=MATRIX))
    part = section(graph, "q", ["y"])
    q = np.array([[1, 2, 0, 4]], np.float32)
    assert [tensor.name for tensor in part.inputs] == ["q", "c"]
    np.testing.assert_array_equal(run(part, {"q": q, "c": np.array(True)})[0], q - q)
