"""Bias correction: the mean error of a layer goes into its bias, where the outputs gain by it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser

from onnxqat.bridge import to_torch
from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.graph import as_graph, insert, prepare
from onnxqat.initialization import Context, InitializationConfig
from onnxqat.initialization.bias_correction import correct_biases, sure_part
from onnxqat.initialization.layers import Biased, biased_layers
from onnxqat.placement import place
from onnxqat.training.batches import Loader
from tests.support.students import Images, sqnr_db, student_and_teacher, values_of

CPU = torch.device("cpu")


def context_of(student, teacher, data) -> Context:
    loader = Loader(tuple(student.input_names), CPU)
    batches = tuple(loader.in_order(data, 32, data.size))
    return Context(student, teacher, batches, InitializationConfig())


@pytest.mark.parametrize("bias", ["stem_b", "inner_b", "head_b"])
def test_a_shift_in_one_layer_is_taken_back_by_its_bias(bias):
    student, teacher = student_and_teacher()
    before = sqnr_db(student, teacher, Images(seed=7))
    shift = torch.linspace(-0.6, 0.6, student.get_tensor(bias).numel())
    with torch.no_grad():
        student.get_tensor(bias).add_(shift)
    correct_biases(context_of(student, teacher, Images(96)))
    left = student.get_tensor(bias) - teacher.get_tensor(bias)
    assert left.abs().max() < 0.03, "what quantization itself shifts remains"
    assert sqnr_db(student, teacher, Images(seed=7)) > before - 1


def test_nothing_but_biases_changes():
    student, teacher = student_and_teacher("w4a8")
    before = values_of(student)
    correct_biases(context_of(student, teacher, Images(96)))
    changed = {n for n, v in values_of(student).items() if not np.array_equal(v, before[n])}
    assert changed
    assert changed <= {"stem_b", "inner_b", "head_b"}


def test_the_outputs_come_nearer_with_four_bit_weights():
    student, teacher = student_and_teacher("w4a8")
    before = sqnr_db(student, teacher, Images(seed=7))
    correct_biases(context_of(student, teacher, Images(96)))
    assert sqnr_db(student, teacher, Images(seed=7)) > before


def test_a_shift_that_is_not_sure_is_left_alone():
    errors = torch.tensor([[1.0, 5.0], [-1.0, 5.0], [1.0, 5.0], [-1.0, 5.0]], dtype=torch.float64)
    assert sure_part(errors).tolist() == [0.0, 5.0]


def test_of_a_doubtful_shift_the_doubt_is_left():
    # mean 1, variance 4, so standard error² 1: of the shift 1 - 1/1 = 0 is sure
    errors = torch.tensor([[3.0], [-1.0], [3.0], [-1.0]], dtype=torch.float64)
    assert errors.var(0).item() == pytest.approx(16 / 3)
    assert sure_part(errors).item() == pytest.approx(max(0.0, 1 - (16 / 3 / 4)))
    # nine times as many samples: 1 - var/36
    many = errors.repeat(9, 1)
    assert sure_part(many).item() == pytest.approx(1 - many.var(0).item() / 36)


LINEAR = """
<ir_version: 8, opset_import: ["" : 17]>
tokens (float[n, 5, 4] x) => (float[n, 5, 3] y)
{
    a = MatMul (x, w0)
    h = Add (b0, a)
    g = Relu (h)
    y = MatMul (g, w1)
}
"""


def linear_net() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    model = parser.parse_model(LINEAR)
    for name, shape in {"w0": (4, 8), "b0": (8,), "w1": (8, 3)}.items():
        values = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = f"/{node.output[0]}"
    return model


class Tokens(Images):
    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.tokens = rng.normal(size=(self.samples, 5, 4)).astype(np.float32)

    def batches(self, batch_size, *, samples=None, seed=None):
        from onnxqat.data import Batch

        for start in range(0, min(samples or self.samples, self.samples), batch_size):
            part = self.tokens[start : start + batch_size]
            yield Batch({"x": part}, None, len(part))


def test_a_matmul_is_corrected_in_the_add_behind_and_one_without_is_told():
    fp32 = prepare(as_graph(linear_net()))
    plan = place(fp32)
    config = CalibrationConfig(method="max", threads=1)
    student = to_torch(insert(fp32, plan, calibrate(fp32, plan, Tokens(64), config=config)))
    told = []
    context = context_of(student, to_torch(fp32), Tokens(64))
    with torch.no_grad():
        student.b0.add_(0.5)
    correct_biases(
        Context(context.student, context.teacher, context.batches, context.config, told.append)
    )
    assert (student.b0 - context.teacher.b0).abs().max() < 0.03
    assert told == ["'/y' has no bias"]


def test_a_bias_that_two_layers_share_is_left_alone():
    fp32 = prepare(as_graph(shared_bias_net()))
    plan = place(fp32)
    config = CalibrationConfig(method="max", threads=1)
    student = to_torch(insert(fp32, plan, calibrate(fp32, plan, Images(32), config=config)))
    found = list(biased_layers(student))
    assert not any(isinstance(layer, Biased) for layer in found)
    assert all("shared" in str(reason) for reason in found)


def shared_bias_net() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s).astype(np.float32) for s in [(3, 3, 1, 1), (3, 3, 1, 1), (3,)]]
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b"], ["h"], name="first"),
        helper.make_node("Conv", ["h", "w1", "b"], ["y"], name="second"),
    ]
    value = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("image", value, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", value, ["n", 3, 8, 8])],
        [numpy_helper.from_array(w, n) for w, n in zip(weights, ("w0", "w1", "b"), strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
