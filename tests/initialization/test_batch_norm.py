"""Statistics of a normalization before its Conv follow what quantization moves."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from onnxqat.bridge import to_torch, write_back
from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.graph import Graph, as_graph, insert, prepare
from onnxqat.initialization import Context, InitializationConfig, initialize
from onnxqat.initialization.batch_norm import reestimate_batch_norm
from onnxqat.placement import PlacementConfig, place
from onnxqat.training import FinetuneConfig, finetune
from onnxqat.training.batches import Loader
from tests.support.runtime import run
from tests.support.students import Images, sqnr_db, student_and_teacher, values_of

PREACTIVATION = """
<ir_version: 8, opset_import: ["" : 17]>
preactivation (float[batch, 3, 8, 8] image) => (float[batch, 4] logits)
{
    [stem] x = Conv <pads = [1, 1, 1, 1]> (image, stem_w)
    [norm1] n1 = BatchNormalization (x, scale1, bias1, mean1, var1)
    [relu1] a1 = Relu (n1)
    [conv1] c1 = Conv <pads = [1, 1, 1, 1]> (a1, w1)
    [add1] y = Add (c1, x)
    [norm2] n2 = BatchNormalization (y, scale2, bias2, mean2, var2)
    [relu2] a2 = Relu (n2)
    [conv2] c2 = Conv <pads = [1, 1, 1, 1]> (a2, w2)
    [add2] z = Add (c2, y)
    [norm3] n3 = BatchNormalization (z, scale3, bias3, mean3, var3)
    [pool] p = GlobalAveragePool (n3)
    [flatten] f = Flatten (p)
    [head] logits = Gemm <transB = 1> (f, head_w)
}
"""
NORMS = ("norm1", "norm2", "norm3")
"""Each stands behind an Add or before its Conv, so that none can be folded."""


def network() -> onnx.ModelProto:
    """Two pre-activation blocks whose statistics are those of the data, as after training."""
    rng = np.random.default_rng(3)
    model = parser.parse_model(PREACTIVATION)
    shapes = {"stem_w": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (8, 8, 3, 3), "head_w": (4, 8)}
    for name, shape in shapes.items():
        values = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for i in (1, 2, 3):
        for name, value in (("scale", 1.0), ("bias", 0.2), ("mean", 0.1), ("var", 1.5)):
            array = (value * rng.uniform(0.8, 1.2, 8)).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, f"{name}{i}"))
    return model


@cache
def models(format_name: str = "w4a8") -> tuple[Graph, Graph]:
    """The quantized and the FP32 network."""
    fp32 = prepare(as_graph(network()))
    plan = place(fp32, config=PlacementConfig(format=format_name))
    config = CalibrationConfig(method="max", samples=64, threads=1)
    return insert(fp32, plan, calibrate(fp32, plan, Images(), config=config)), fp32


def context(format_name: str = "w4a8", samples: int = 96) -> Context:
    student, teacher = (to_torch(model) for model in models(format_name))
    loader = Loader(("image",), torch.device("cpu"))
    batches = tuple(loader.in_order(Images(samples), 32, samples))
    return Context(student, teacher, batches, InitializationConfig())


def seen(graph: Graph, norm: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """What a normalization reads, as ONNX Runtime computes it, [channels, all else]."""
    model = graph.copy()
    model.outputs = [next(node.inputs[0] for node in model.nodes if node.name == norm)]
    values = run(model, feeds)[0].astype(np.float64)
    return values.transpose(1, 0, 2, 3).reshape(8, -1)


def test_prepare_leaves_these_normalizations_in_the_graph():
    assert [x.name for x in models()[1].nodes if x.op == "BatchNormalization"] == [*NORMS]


@pytest.mark.parametrize("norm", NORMS)
def test_each_moves_by_what_quantization_moves_as_onnxruntime_sees_it(norm: str):
    """In the re-estimated file itself: what stands before a norm is already re-estimated there."""
    found = context()
    before = values(found.student)
    reestimate_batch_norm(found)
    after = values(found.student)
    feeds = {"image": Images(96).images}
    now, then = (seen(model, norm, feeds) for model in (write_back(found.student), models()[1]))
    number = norm[-1]
    moved = after[f"mean{number}"] - before[f"mean{number}"]
    assert moved == pytest.approx(now.mean(1) - then.mean(1), abs=2e-5)
    ratio = after[f"var{number}"] / before[f"var{number}"]
    assert ratio == pytest.approx(now.var(1) / then.var(1), rel=1e-4)


def values(module) -> dict[str, np.ndarray]:
    return {
        module.onnx_name(name): tensor.detach().numpy().copy()
        for name, tensor in module.state_dict().items()
    }


def test_nothing_else_changes():
    found = context()
    before = values(found.student)
    reestimate_batch_norm(found)
    after = values(found.student)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {f"{name}{i}" for name in ("mean", "var") for i in (1, 2, 3)}


def test_the_outputs_come_nearer():
    found = context()
    held_out = Images(seed=7)
    before = sqnr_db(found.student, found.teacher, held_out)
    reestimate_batch_norm(found)
    assert sqnr_db(found.student, found.teacher, held_out) > before


def test_a_channel_whose_mean_was_shifted_is_brought_back():
    found = context("int8")
    with torch.no_grad():
        found.student.get_tensor("w1").mul_(1.4)  # stands for an error in the weights
    held_out = Images(seed=7)
    before = sqnr_db(found.student, found.teacher, held_out)
    reestimate_batch_norm(found)
    assert sqnr_db(found.student, found.teacher, held_out) > before + 1


def test_frozen_statistics_stay_as_they_are_without_the_stage():
    student, teacher = (to_torch(model) for model in models())
    before = values(student)
    initialize(student, teacher, Images(), config=InitializationConfig(stages=(), threads=1))
    after = values(student)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_fine_tuning_leaves_them_frozen():
    student, teacher = (to_torch(model) for model in models())
    before = values(student)
    tuned = finetune(student, teacher, Images(64), config=FinetuneConfig(steps=4, threads=1))
    assert tuned.best_step > 0
    after = values(student)
    assert not np.array_equal(before["scale2"], after["scale2"])
    for name in (f"{what}{i}" for what in ("mean", "var") for i in (1, 2, 3)):
        assert np.array_equal(before[name], after[name])


def test_as_a_stage_it_is_judged_and_kept():
    student, teacher = (to_torch(model) for model in models())
    config = InitializationConfig(stages=("batch_norm",), samples=128, threads=1)
    (gain,) = initialize(student, teacher, Images(), config=config)
    assert gain.kept
    assert gain.after_db > gain.before_db


def test_a_network_without_normalization_is_left_alone():
    student, teacher = student_and_teacher()
    before = values_of(student)
    loader = Loader(("image",), torch.device("cpu"))
    batches = tuple(loader.in_order(Images(32), 32, 32))
    reestimate_batch_norm(Context(student, teacher, batches, InitializationConfig()))
    assert all(np.array_equal(before[n], value) for n, value in values_of(student).items())
