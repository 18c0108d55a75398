"""Pixels brought onto the codes of INT8: the same function, and nothing lost in its input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.calibration.runtime import TensorReader
from onnxqat.core.precision import Precision
from onnxqat.data import Batch
from onnxqat.engine import build, compare
from onnxqat.graph import Change, Graph, as_graph, insert, prepare
from onnxqat.initialization import equalize
from onnxqat.placement import PlacementConfig, place
from onnxqat.training.roles import roles
from tests.support.compile import needs_compiler

PADDED = "y = Conv <pads = [1, 1, 1, 1]> (x, w, b)"
UNEVEN = "y = Conv <pads = [0, 0, 1, 1], strides = [2, 2]> (x, w)"
VALID = 'y = Conv <auto_pad = "VALID"> (x, w, b)'
GROUPS = "y = Conv <group = 3, pads = [1, 1, 1, 1]> (x, g, b)"
TWO = """
    a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    p = Conv <pads = [0, 0, 2, 2]> (x, w, b)
    q = Conv <pads = [1, 1, 1, 1]> (x, w)
    c = Concat <axis = 1> (a, p, q)
    y = Relu (c)
"""
SHAPES = {"w": (6, 3, 3, 3), "b": (6,), "g": (6, 1, 3, 3), "one": (6, 1, 3, 3)}
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def normalized(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) / 255 - MEAN) / STD


@dataclass
class Pictures:
    """Pictures [samples, 3, 8, 8] of random pixels, as a data loader hands them over."""

    lowest: int = 0
    highest: int = 255
    changed: object = staticmethod(normalized)
    size: int = 32
    has_labels: bool = False

    def batches(self, batch_size, *, samples=None, seed=None) -> Iterator[Batch]:
        rng = np.random.default_rng(3)
        pixels = rng.integers(self.lowest, self.highest + 1, (self.size, 3, 8, 8), np.int64)
        pixels[0, :, 0, :2] = self.lowest, self.highest
        every = self.changed(pixels).astype(np.float32)[:samples]
        for first in range(0, len(every), batch_size):
            part = every[first : first + batch_size]
            yield Batch({"x": part}, None, len(part))


PICTURES = Pictures()


def network(body: str, shape: str = "n, 3, 8, 8") -> Graph:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[{shape}] x) => (float[n, k, h, v] y)
    {{ {body} }}
    """
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    read = {name for node in model.graph.node for name in node.input}
    constants = {name: rng.normal(0, 0.3, shape) for name, shape in SHAPES.items()}
    constants |= {"mean": 255 * MEAN, "std": 255 * STD, "ends": np.array([0, 0, 1, 1] * 2)}
    for name in constants.keys() & read:
        values = constants[name].astype(np.int64 if name == "ends" else np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = f"/{node.output[0]}"
    onnx.checker.check_model(model)
    return prepare(as_graph(model))


def aligned(
    graph: Graph, data: Pictures = PICTURES, format_name: str = "int8"
) -> tuple[Graph, list[Change]]:
    told: list[Change] = []
    plan = place(graph, config=PlacementConfig(format=format_name))
    made = equalize(graph, plan, data, stages=("align",), on_change=told.append)
    return made, told


def read_by(graph: Graph, node: str, data: Pictures = PICTURES) -> np.ndarray:
    """What the first input of a node is."""
    (found,) = (other for other in graph.nodes if other.name == node)
    name = found.inputs[0].name
    (batch,) = data.batches(64)
    return TensorReader(graph, [name])(batch.inputs)[name]


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


SAME = [
    f'y = Conv <auto_pad = "{side}", strides = [{step}, 1]> (x, w, b)'
    for side in ("SAME_UPPER", "SAME_LOWER")
    for step in (1, 2, 3)
]


@pytest.mark.parametrize("body", [PADDED, UNEVEN, VALID, GROUPS, TWO, *SAME])
def test_pixels_become_the_codes_and_the_network_computes_the_same(body: str) -> None:
    graph = network(body)
    made, (change,) = aligned(graph)
    assert change.kind == "align"
    assert "256 values of 'x'" in change.detail
    assert compare(graph, made, PICTURES).sqnr_db > 110
    for conv in (node for node in made.nodes if node.op == "Conv"):
        values = read_by(made, conv.name)
        assert (values.min(), values.max()) == pytest.approx((-128, 127), abs=2e-3)
        is_whole = np.abs(values - np.rint(values)) < 2e-3
        assert is_whole.mean() >= 64 / values[0, 0].size  # all but the padding


def test_quantized_the_pixels_lose_nothing() -> None:
    """By the scale that calibration finds; what is left is the padding's."""

    def input_db(model: Graph) -> float:
        plan = place(model, config=PlacementConfig(format="int8"))
        ranges = calibrate(model, plan, PICTURES, config=CalibrationConfig(threads=1))
        quantized = insert(model, plan, ranges)
        (conv,) = (node for node in quantized.nodes if node.op == "Conv")
        quantize = conv.inputs[0].inputs[0].inputs[0].inputs[0]
        exact = quantize.inputs[0].name
        (batch,) = PICTURES.batches(64)
        read = TensorReader(quantized, [exact, conv.inputs[0].name])(batch.inputs)
        signal, rounded = (read[name].astype(np.float64) for name in (exact, conv.inputs[0].name))
        return float(10 * np.log10((signal**2).sum() / ((signal - rounded) ** 2).sum()))

    graph = network(VALID)
    made, _ = aligned(graph)
    assert input_db(graph) < 50
    assert input_db(made) > 65


def test_zero_stays_zero_where_the_values_then_fit() -> None:
    """Of 17 grey levels, as the shipped digits have, nothing is shifted and nothing padded."""
    grey = Pictures(highest=16, changed=lambda pixels: pixels / np.float32(16))
    graph = network(PADDED)
    made, (change,) = aligned(graph, grey)
    assert "17 values" in change.detail
    assert ops(made) == ["Mul", "Conv"]
    assert compare(graph, made, grey).sqnr_db > 110
    assert set(np.unique(np.rint(read_by(made, "/y", grey)))) == set(range(17))


def test_raw_pixels_of_0_to_255_are_shifted() -> None:
    raw = Pictures(changed=lambda pixels: pixels)
    graph = network(VALID)
    made, _ = aligned(graph, raw)
    assert ops(made) == ["Mul", "Add", "Conv"]
    assert compare(graph, made, raw).sqnr_db > 110
    assert np.unique(np.rint(read_by(made, "/y", raw))).tolist() == list(range(-128, 128))


def test_values_that_were_not_seen_have_room_on_both_sides() -> None:
    some = Pictures(lowest=20, highest=219)
    made, (change,) = aligned(network(VALID), some)
    assert "200 values" in change.detail
    values = read_by(made, "/y", some)
    assert (values.min(), values.max()) == pytest.approx((-100, 99), abs=2e-3)


@pytest.mark.parametrize(
    ("body", "shape", "change"),
    [
        ("s = Sub (x, mean)\n d = Div (s, std)\n" + PADDED.replace("(x", "(d"), "n, 3, 8, 8", None),
        (
            "t = Transpose <perm = [0, 3, 1, 2]> (x)\n" + PADDED.replace("(x", "(t"),
            "n, 8, 8, 3",
            lambda pixels: np.moveaxis(normalized(pixels), 1, -1),
        ),
        ("p = Pad (x, ends)\n" + VALID.replace("(x", "(p"), "n, 3, 8, 8", normalized),
    ],
    ids=["normalized in the graph", "channels last", "padded"],
)
def test_what_an_exporter_puts_before_the_first_layer_is_seen_through(body, shape, change) -> None:
    data = Pictures(changed=change or (lambda pixels: pixels))
    graph = network(body, shape)
    made, told = aligned(graph, data)
    assert [change.kind for change in told] == ["align"]
    assert compare(graph, made, data).sqnr_db > 110


@pytest.mark.parametrize(
    ("body", "data", "said"),
    [
        (PADDED, Pictures(changed=lambda x: np.random.default_rng(0).normal(size=x.shape)), "even"),
        (PADDED, Pictures(changed=np.sqrt), "even"),
        (PADDED, Pictures(highest=256), "even"),
        (SAME[1], PICTURES, "SAME_UPPER"),
    ],
    ids=["noise", "gamma", "257 values", "padding"],
)
def test_what_stays_is_told_why(body: str, data: Pictures, said: str) -> None:
    graph = network(body, "n, 3, height, width")
    made, (change,) = aligned(graph, data)
    assert change.kind == "channels kept"
    assert said in change.detail
    assert ops(made) == ops(graph)


def test_only_first_layers_with_8_bit_inputs_are_looked_at() -> None:
    graph = network("a = Conv <pads = [1, 1, 1, 1]> (x, w, b)\n y = Conv <group = 6> (a, one)")
    assert [change.node for change in aligned(graph)[1]] == ["/a"]
    assert aligned(graph, format_name="fp8")[1] == []
    assert aligned(graph, format_name="w4a4")[1] == []


def test_the_map_does_not_train() -> None:
    """A step would make the pixels no whole numbers any more."""
    made, _ = aligned(network(PADDED))
    assert set(roles(made)) == {"w", "b"}


@needs_compiler
def test_the_compiler_maps_and_pads_in_the_kernel_that_quantizes() -> None:
    graph = network(PADDED.replace("y =", "c =") + "\n y = Relu (c)", "n, 3, 8, 8")

    def compiled(model: Graph):
        plan = place(model, config=PlacementConfig(format="int8"))
        ranges = calibrate(model, plan, PICTURES, config=CalibrationConfig(threads=1))
        return build(insert(model, plan, ranges), backend="rtx")

    before, after = compiled(graph), compiled(aligned(graph)[0])
    assert len(after.plan.kernels) <= len(before.plan.kernels)
    for built in (before, after):
        (conv,) = (node for node in built.plan.nodes if node.op == "Conv")
        assert conv.precision is Precision.INT8
