"""What is compared for each output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from onnxqat.bridge import to_torch
from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.data import Batch
from onnxqat.graph import as_graph, insert, load, prepare
from onnxqat.placement import place
from onnxqat.training import FinetuneConfig, finetune
from onnxqat.training.heads import Head, find_heads
from tests.support.assets import WILD, needs_assets
from tests.support.networks import convolutional
from tests.support.observed import ListData
from tests.support.onnx_text import model_of
from tests.support.students import Images, student_and_teacher, values_of

MATRIX = np.eye(4, dtype=np.float32)


class OneByOne(ListData):
    """For a model of batch 1."""

    def batches(self, batch_size: int, **choice) -> Iterator[Batch]:
        return super().batches(1, **choice)


def heads_of(text: str) -> list[tuple[str, str, str | None]]:
    graph = as_graph(model_of(text, a=MATRIX, b=MATRIX, c=MATRIX))
    return [(head.output, head.tensor, head.function) for head in find_heads(graph, graph)]


def test_logits_are_compared_as_they_are() -> None:
    assert heads_of("g (float[1,4] x) => (float[1,4] y) {y = MatMul(x, a)}") == [("y", "y", None)]


@pytest.mark.parametrize("function", ["Sigmoid", "Softmax", "LogSoftmax", "HardSigmoid"])
def test_probabilities_are_compared_before_they_saturate(function: str) -> None:
    nodes = f"p = MatMul(x, a) q = {function}(p) y = Flatten(q)"
    text = f"g (float[1,4] x) => (float[1,4] y) {{{nodes}}}"
    assert heads_of(text) == [("y", "p", function)]


def test_a_function_with_a_layer_behind_it_is_no_end() -> None:
    text = "g (float[1,4] x) => (float[1,4] y) {p = MatMul(x, a) q = Sigmoid(p) y = MatMul(q, b)}"
    assert heads_of(text) == [("y", "y", None)]


def test_parts_of_different_natures_are_compared_by_themselves() -> None:
    text = """g (float[1,4] x) => (float[1,12] y)
    {p = MatMul(x, a) q = MatMul(x, b) r = MatMul(x, c) s = Sigmoid(p) t = Softmax(r)
     y = Concat<axis = 1>(s, q, t)}"""
    assert heads_of(text) == [("y", "p", "Sigmoid"), ("y", "q", None), ("y", "r", "Softmax")]


def test_parts_of_one_nature_stay_together() -> None:
    text = """g (float[1,4] x) => (float[1,8] y)
    {p = MatMul(x, a) q = MatMul(x, b) y = Concat<axis = 1>(p, q)}"""
    assert heads_of(text) == [("y", "y", None)]


def test_where_the_student_has_other_names_the_output_itself_is_compared() -> None:
    text = "g (float[1,4] x) => (float[1,4] y) {p = MatMul(x, a) y = Sigmoid(p)}"
    teacher = as_graph(model_of(text, a=MATRIX))
    student = as_graph(model_of(text.replace("p", "o"), a=MATRIX))
    assert find_heads(student, teacher) == (Head("y", "y", None),)


@needs_assets
def test_a_detector_of_one_output_is_compared_in_its_three_parts() -> None:
    graph = prepare(load(WILD / "fastestdet_pytorch111_opset11.onnx"))
    functions = [head.function for head in find_heads(graph, graph)]
    assert functions == ["Sigmoid", None, "Softmax"]


def test_of_logits_auto_is_mse_to_the_bit() -> None:
    def trained(loss: str) -> dict[str, np.ndarray]:
        student, teacher = student_and_teacher()
        config = FinetuneConfig(steps=5, validate_every=5, loss=loss)
        return values_of(finetune(student, teacher, Images(), config=config).module)

    ours, theirs = trained("auto"), trained("mse")
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_run_says_what_it_compares_and_trains_a_detector(caplog) -> None:
    caplog.set_level("INFO", "onnxqat.training")
    fp32 = prepare(as_graph(convolutional.yolo(64)))
    x = np.random.default_rng(0).standard_normal((8, 3, 64, 64)).astype(np.float32)
    plan, data = place(fp32), OneByOne({"x": x})
    config = CalibrationConfig(method="max", samples=8, threads=1)
    quantized = insert(fp32, plan, calibrate(fp32, plan, data, config=config))
    tuned = finetune(
        to_torch(quantized),
        to_torch(fp32),
        data,
        config=replace(FinetuneConfig(), steps=4, batch_size=2, validate_every=4),
    )
    notes = [record.getMessage() for record in caplog.records]
    assert notes[0] == "compared: 'y0': squared error over variance, as it is"
    assert notes[1].endswith("for 'y1': squared error over variance, before its Sigmoid")
    judged = [record.validation for record in tuned.history if record.validation is not None]
    assert judged[-1].loss < judged[0].loss
