"""Sequential MSE: scales of weights by what quantized inputs make of the layer's output."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxqat.bridge import to_torch, write_back
from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.calibration.weight_search import OutputError
from onnxqat.graph import as_graph, insert, prepare
from onnxqat.graph.passes.edit import replace_reads
from onnxqat.initialization import Context
from onnxqat.initialization.sequential_mse import match_outputs
from onnxqat.placement import place
from tests.initialization.test_bias_correction import Tokens, context_of, linear_net
from tests.initialization.test_bias_correction import shared_bias_net as _shared_net
from tests.support.onnx_text import model_of
from tests.support.students import Images, sqnr_db, student_and_teacher, values_of

TOO_LARGE = {"int8": 32, "w4a8": 6}


@pytest.mark.parametrize("format_name", TOO_LARGE)
@pytest.mark.parametrize("weight", ["stem_w", "inner_w", "head_w"])
def test_scales_that_are_far_too_large_are_found_again(format_name, weight):
    student, teacher = student_and_teacher(format_name)
    whole = sqnr_db(student, teacher, Images(seed=7))
    with torch.no_grad():
        student.quantizers[weight].scale.mul_(TOO_LARGE[format_name])
        if format_name == "w4a8":  # the file holds codes, so the weight is what they stand for
            student.get_tensor(weight).copy_(student.quantizers[weight](teacher.get_tensor(weight)))
    spoiled = sqnr_db(student, teacher, Images(seed=7))
    match_outputs(context_of(student, teacher, Images(96)))
    assert spoiled < whole - 1
    assert sqnr_db(student, teacher, Images(seed=7)) > whole - 1


def test_eight_bit_weights_keep_their_values_and_only_weight_scales_change():
    student, teacher = student_and_teacher()
    with torch.no_grad():
        student.quantizers["inner_w"].scale.mul_(3)
    before = values_of(student)
    match_outputs(context_of(student, teacher, Images(96)))
    changed = {n for n, v in values_of(student).items() if not np.array_equal(v, before[n])}
    assert "inner_w_scale" in changed
    assert changed <= {"stem_w_scale", "inner_w_scale", "head_w_scale"}


def test_four_bit_weights_are_coded_again_by_the_new_scales():
    student, teacher = student_and_teacher("w4a8")
    with torch.no_grad():
        student.quantizers["inner_w"].scale.mul_(3)
        student.inner_w.copy_(student.quantizers["inner_w"](teacher.inner_w))
    match_outputs(context_of(student, teacher, Images(96)))
    again = to_torch(write_back(student))
    data = Images(seed=7)
    assert sqnr_db(again, teacher, data) == pytest.approx(sqnr_db(student, teacher, data), abs=1e-3)
    codes = again.quantizers["inner_w"].codes(again.inner_w)
    wanted = student.quantizers["inner_w"].codes(teacher.inner_w)
    assert torch.equal(codes, wanted), "rounded from the float weights, not from the old codes"


def test_what_quantization_did_before_is_part_of_the_measure():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 2, 6)).astype(np.float32)
    drift = rng.normal(size=(50, 2, 3)).astype(np.float32)
    error = rng.normal(size=(6, 6)).astype(np.float32)
    plain, drifted = OutputError(rows), OutputError(rows, drift)
    output = np.einsum("rgv,gkv->rgk", rows, error.reshape(2, 3, 6))
    added = np.square(output + drift).mean(axis=0) - np.square(output).mean(axis=0)
    np.testing.assert_allclose(drifted(error) - plain(error), added.reshape(-1), rtol=1e-4)


def test_with_fewer_rows_than_values_it_is_the_same_measure():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 1, 16)).astype(np.float32)
    drift = rng.normal(size=(5, 1, 3)).astype(np.float32)
    error = rng.normal(size=(3, 16)).astype(np.float32)
    wanted = np.square(rows[:, 0] @ error.T + drift[:, 0]).mean(axis=0)
    even = 0.03 * np.square(rows).mean() * np.square(error).sum(axis=1)
    np.testing.assert_allclose(OutputError(rows, drift)(error), wanted + even, rtol=1e-4)


def test_products_of_tokens_are_layers_too():
    fp32 = prepare(as_graph(linear_net()))
    plan = place(fp32)
    config = CalibrationConfig(method="max", threads=1)
    student = to_torch(insert(fp32, plan, calibrate(fp32, plan, Tokens(64), config=config)))
    with torch.no_grad():
        student.quantizers["w0"].scale.mul_(4)
    before = student.quantizers["w0"].scale.clone()
    match_outputs(context_of(student, to_torch(fp32), Tokens(64)))
    assert (student.quantizers["w0"].scale < before).all()


@pytest.mark.parametrize("weight", ["w", "shortcut_w"])
def test_a_block_and_its_shortcut_read_one_tensor_through_windows_of_their_own(weight):
    draw = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "shortcut_w": (4, 3, 1, 1)}
    weights = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = model_of(
        """net (float[N, 3, 8, 8] image) => (float[N, 4, 4, 4] y) {
           a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w)
           b = Conv <kernel_shape = [1, 1], strides = [2, 2]> (image, shortcut_w)
           c = Add (a, b)  y = Relu (c) }""",
        **weights,
    )
    fp32 = prepare(as_graph(model))
    config = CalibrationConfig(method="max", threads=1)
    student = to_torch(
        insert(fp32, place(fp32), calibrate(fp32, place(fp32), Images(), config=config))
    )
    teacher = to_torch(fp32)
    whole = sqnr_db(student, teacher, Images(seed=7))
    with torch.no_grad():
        student.quantizers[weight].scale.mul_(32)
    assert sqnr_db(student, teacher, Images(seed=7)) < whole - 3
    match_outputs(context_of(student, teacher, Images(96)))
    assert sqnr_db(student, teacher, Images(seed=7)) > whole - 1


def test_a_scale_that_two_weights_share_is_left_alone_and_told():
    fp32 = prepare(as_graph(_shared_net()))
    plan = place(fp32)
    config = CalibrationConfig(method="max", threads=1)
    graph = insert(fp32, plan, calibrate(fp32, plan, Images(32), config=config))
    first, second = (t for n, t in graph.tensors().items() if n in ("w0_scale", "w1_scale"))
    replace_reads(second, first)
    student, told = to_torch(graph), []
    context = context_of(student, to_torch(fp32), Images(32))
    before = student.quantizers["w0"].scale.clone()
    match_outputs(
        Context(context.student, context.teacher, context.batches, context.config, told.append)
    )
    assert torch.equal(student.quantizers["w0"].scale, before)
    assert len(told) == 2
    assert all("shared" in reason for reason in told)
